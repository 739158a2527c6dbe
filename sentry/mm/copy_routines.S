// Copies that may fault: every instruction between skep_copy_begin and skep_copy_end keeps in rcx
// how many bytes are left and nothing on the stack, so that the fault handler of copy.cc can end
// the routine by continuing at skep_copy_fault. Each returns rax = bytes left or the value, rdx = 1
// for a fault.

        .text
        .globl  skep_copy_begin, skep_copy_end, skep_copy_fault
        .globl  skep_copy_bytes, skep_zero_bytes, skep_load_word, skep_exchange_word
        .hidden skep_copy_begin, skep_copy_end, skep_copy_fault
        .hidden skep_copy_bytes, skep_zero_bytes, skep_load_word, skep_exchange_word

        .p2align 5
skep_copy_begin:

// (rdi to, rsi from, rdx size)
        .type   skep_copy_bytes, @function
skep_copy_bytes:
        mov     %rdx, %rcx
        cmp     $512, %rcx
        jae     4f
1:      cmp     $16, %rcx
        jb      2f
        movups  (%rsi), %xmm0
        movups  %xmm0, (%rdi)
        add     $16, %rsi
        add     $16, %rdi
        sub     $16, %rcx
        jmp     1b
2:      cmp     $8, %rcx
        jb      3f
        mov     (%rsi), %r8
        mov     %r8, (%rdi)
        add     $8, %rsi
        add     $8, %rdi
        sub     $8, %rcx
3:      test    %rcx, %rcx
        jz      5f
        movzbl  (%rsi), %r8d
        mov     %r8b, (%rdi)
        inc     %rsi
        inc     %rdi
        dec     %rcx
        jmp     3b
4:      rep movsb
5:      xor     %eax, %eax
        xor     %edx, %edx
        ret
        .size   skep_copy_bytes, . - skep_copy_bytes

// (rdi to, rsi size)
        .p2align 4
        .type   skep_zero_bytes, @function
skep_zero_bytes:
        mov     %rsi, %rcx
        xor     %eax, %eax
        rep stosb
        xor     %eax, %eax
        xor     %edx, %edx
        ret
        .size   skep_zero_bytes, . - skep_zero_bytes

// (rdi address)
        .p2align 4
        .type   skep_load_word, @function
skep_load_word:
        mov     $4, %ecx
        mov     (%rdi), %eax
        xor     %edx, %edx
        ret
        .size   skep_load_word, . - skep_load_word

// (rdi address, esi expected, edx desired): rax = what was there
        .p2align 4
        .type   skep_exchange_word, @function
skep_exchange_word:
        mov     $4, %ecx
        mov     %esi, %eax
        lock cmpxchg %edx, (%rdi)
        xor     %edx, %edx
        ret
        .size   skep_exchange_word, . - skep_exchange_word

skep_copy_end:
skep_copy_fault:
        mov     %rcx, %rax
        mov     $1, %edx
        ret

        .section .note.GNU-stack, "", @progbits
