/*
 * int64_t skep_wait_call(const uint32_t* word, long number, a, b, c, d, e, f)
 *
 * The system call unless *word is not zero, then -EINTR. Between the look at the word and the
 * system call no signal is lost: waker.cc's handler moves an instruction pointer that lies in
 * [begin, end) to `woken`.
 */
    .text
    .balign 16
    .globl skep_wait_call, skep_wait_call_begin, skep_wait_call_end, skep_wait_call_woken
    .hidden skep_wait_call_begin, skep_wait_call_end, skep_wait_call_woken
    .type skep_wait_call, @function
skep_wait_call:
    mov %rdi, %r11
    mov %rsi, %rax
    mov %rdx, %rdi
    mov %rcx, %rsi
    mov %r8, %rdx
    mov %r9, %r10
    mov 8(%rsp), %r8
    mov 16(%rsp), %r9
skep_wait_call_begin:
    cmpl $0, (%r11)
    jne skep_wait_call_woken
    syscall
skep_wait_call_end:
    ret
skep_wait_call_woken:
    mov $-4, %rax
    ret
    .size skep_wait_call, . - skep_wait_call

    .section .note.GNU-stack, "", @progbits
