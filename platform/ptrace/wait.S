/*
 * int64_t skep_ptrace_wait4(const uint32_t* word, int64_t pid, int* status, int options)
 *
 * wait4(pid, status, options, 0) unless *word is not zero, then -EINTR. Between the look at the
 * word and the system call no signal is lost: waker.cc's handler moves an instruction pointer that
 * lies in [begin, end) to `woken`.
 */
    .text
    .balign 16
    .globl skep_ptrace_wait4, skep_ptrace_wait4_begin, skep_ptrace_wait4_end
    .globl skep_ptrace_wait4_woken
    .hidden skep_ptrace_wait4_begin, skep_ptrace_wait4_end, skep_ptrace_wait4_woken
    .type skep_ptrace_wait4, @function
skep_ptrace_wait4:
    mov %rdi, %r8
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    xor %r10d, %r10d
skep_ptrace_wait4_begin:
    cmpl $0, (%r8)
    jne skep_ptrace_wait4_woken
    mov $61, %eax
    syscall
skep_ptrace_wait4_end:
    ret
skep_ptrace_wait4_woken:
    mov $-4, %rax
    ret
    .size skep_ptrace_wait4, . - skep_ptrace_wait4

    .section .note.GNU-stack, "", @progbits
