/* The stub's code: copied to kStubCode of every stub, so it is position independent. */
#include "platform/stub/batch.inc"

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
    run_batch %r12, skep_stub_after_syscall, .Lend_of_batch, .Lend_of_batch
.Lend_of_batch:
    int3
    jmp skep_stub_run_batch

skep_stub_exit:
    syscall
skep_stub_after_exit:
    ud2
skep_stub_end:

    .section .note.GNU-stack, "", @progbits
