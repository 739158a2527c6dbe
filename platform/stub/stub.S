/* The stub's code: copied to kStubCode of every stub, so it is position independent. */
    .text
    .balign 16
    .globl skep_stub_begin, skep_stub_run_batch, skep_stub_after_syscall
    .globl skep_stub_exit, skep_stub_after_exit, skep_stub_end
    .hidden skep_stub_begin, skep_stub_run_batch, skep_stub_after_syscall
    .hidden skep_stub_exit, skep_stub_after_exit, skep_stub_end
skep_stub_begin:
skep_stub_run_batch:
    /* rbx: the next StubCall; rbp: their number; r12: how many are done. */
    lea skep_stub_begin + 4096(%rip), %rbx
    mov (%rbx), %rbp
    xor %r12d, %r12d
1:  cmp %rbp, %r12
    jae 2f
    add $64, %rbx
    mov (%rbx), %rax
    mov 8(%rbx), %rdi
    mov 16(%rbx), %rsi
    mov 24(%rbx), %rdx
    mov 32(%rbx), %r10
    mov 40(%rbx), %r8
    mov 48(%rbx), %r9
    syscall
skep_stub_after_syscall:
    cmp $-4095, %rax
    jae 2f
    inc %r12
    jmp 1b
2:  int3
    jmp skep_stub_run_batch

skep_stub_exit:
    syscall
skep_stub_after_exit:
    ud2
skep_stub_end:

    .section .note.GNU-stack, "", @progbits
