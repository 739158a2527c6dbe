/*
 * The code of the notify engine's stubs: copied to kStubCode, position independent. It uses no
 * stack and writes no memory, because guests could change either. platform/stub/notify_stub.h has
 * the layout of what it reads; each `after_` label is an address that filters know.
 *
 * Root thread:   r12d: the sequence number of the last command; waits on a futex, runs the batch,
 *                and answers through the socket.
 * Manager:       runs the batch each time its notification is answered.
 * Guest threads: enter by a breakpoint, stop in the handler's notification, and leave it by
 *                rt_sigreturn from the frame whose address they told.
 */
#include "platform/stub/batch.inc"

#define COMMANDS (skep_notify_begin + 0x1000)(%rip)
#define SHARED(offset) (skep_notify_begin + 0x2000 + (offset))(%rip)
#define SEQUENCE 8
#define ALTSTACK 16
#define KIND 56
#define SOCKET 0
#define SLOT 2
#define SIGNAL_FREE 0x4000 /* MSG_NOSIGNAL */

    .macro label name
    .globl skep_notify_\name
    .hidden skep_notify_\name
skep_notify_\name:
    .endm

    .text
    .balign 16
    label begin

/* Entered once, by the template: nothing of the sentry stays in a register. */
    label start
    lea SHARED(0xc00), %rdi
    mov $-1, %eax
    mov %eax, %edx
    xrstor64 (%rdi)
    xor %r12d, %r12d
    xor %ecx, %ecx
    wrfsbase %rcx
    wrgsbase %rcx
    xor %esp, %esp
    xor %r11d, %r11d
    xor %r13d, %r13d

.Lroot:
    lea COMMANDS, %rbx
1:  mov SEQUENCE(%rbx), %eax
    cmp %r12d, %eax
    jne 2f
    mov $202, %eax              /* futex(sequence, FUTEX_WAIT, r12d, no timeout) */
    lea SEQUENCE(%rbx), %rdi
    xor %esi, %esi
    mov %r12d, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    xor %r9d, %r9d
    syscall
    label after_futex
    jmp 1b
2:  mov %eax, %r12d
    xor %r15d, %r15d            /* not the manager */

    .globl skep_notify_after_call
    .hidden skep_notify_after_call
.Lbatch:                        /* rbx: the commands; r14: how many are done */
    run_batch %r14, skep_notify_after_call, .Ldone, .Lfailed, .Lcloned, .Lcall_done
.Ldone:
    xor %eax, %eax
    jmp .Lanswer
.Lfailed:
    neg %rax
.Lanswer:                       /* eax: an errno or 0 */
    test %r15d, %r15d
    jnz .Lmanager_answer
    lea SHARED(0xb00), %rsi     /* sendto(socket, the byte of this value, 1, MSG_NOSIGNAL) */
    add %rax, %rsi
    mov $44, %eax
    mov $SOCKET, %edi
    mov $1, %edx
    mov $SIGNAL_FREE, %r10d
    xor %r8d, %r8d
    xor %r9d, %r9d
    syscall
    label after_send
    cmp $1, %rax
    je .Lroot
.Ldie:
    mov $231, %eax
    mov $1, %edi
    syscall
    label after_exit_group
    ud2

.Lcloned:
    cmpq $1, KIND(%rbx)         /* a stub: the child does the rest and answers */
    jne 3f
    test %rax, %rax
    jz .Lcall_done
    jmp .Lroot
3:  test %rax, %rax
    jz .Lthread
4:  mov $46, %eax               /* sendmsg of the thread's listener, once there is one */
    mov $SOCKET, %edi
    lea SHARED(0xa00), %rsi
    mov $SIGNAL_FREE, %edx
    syscall
    label after_send_listener
    test %rax, %rax
    jns 5f
    cmp $-9, %rax               /* EBADF */
    jne .Lfailed
    mov $202, %eax              /* futex(sequence, FUTEX_WAIT, r12d, a millisecond) */
    lea COMMANDS, %rdi
    add $SEQUENCE, %rdi
    xor %esi, %esi
    mov %r12d, %edx
    lea SHARED(0xa60), %r10
    xor %r8d, %r8d
    xor %r9d, %r9d
    syscall
    label after_wait_listener
    jmp 4b
5:  mov $3, %eax                /* close */
    mov $SLOT, %edi
    syscall
    label after_close_listener
    jmp .Lcall_done

.Lthread:
    xor %r15d, %r15d
    lea SHARED(0x0), %rdx       /* the guests' filter */
    cmpq $3, KIND(%rbx)
    jne 6f
    lea SHARED(0x10), %rdx      /* the manager's */
    inc %r15d
    jmp 7f
6:  mov $131, %eax              /* sigaltstack */
    lea COMMANDS, %rdi
    add $ALTSTACK, %rdi
    xor %esi, %esi
    syscall
    label after_sigaltstack
    test %rax, %rax
    jnz .Ldie
7:  mov $317, %eax              /* seccomp: NEW_LISTENER | WAIT_KILLABLE_RECV */
    mov $1, %edi
    mov $40, %esi
    syscall
    label after_seccomp
    cmp $SLOT, %rax
    jne .Ldie
    mov $202, %eax              /* futex(sequence, FUTEX_WAKE, 1): for the root */
    lea COMMANDS, %rdi
    add $SEQUENCE, %rdi
    mov $1, %esi
    mov $1, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    xor %r9d, %r9d
    syscall
    label after_wake
    xor %eax, %eax
    xor %r14d, %r14d
    test %r15d, %r15d
    jnz .Lmanager_answer
    int3
    ud2

.Lmanager_answer:               /* rdi: how many are done; rsi: an errno or 0 */
    mov %r14, %rdi
    mov %rax, %rsi
    mov $0x1002, %eax
    syscall
    label after_manager
    test %rax, %rax
    jnz .Ldie                   /* the sentry is gone */
    lea COMMANDS, %rbx
    jmp .Lbatch

/* Every signal: rdi signo, rsi siginfo, rdx ucontext. */
    label handler
    rdfsbase %r10
    rdgsbase %r8
    mov $0x1001, %eax
    syscall
    label after_event
    wrfsbase %rax
    mov 8(%rdx), %rcx           /* uc_link carries the base of gs */
    wrgsbase %rcx
    mov %rdx, %rsp
    mov $15, %eax
    syscall
    label after_sigreturn
    ud2
    label end

    .section .note.GNU-stack, "", @progbits
