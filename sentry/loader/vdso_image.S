# The bytes of vdso.so, page-aligned.
        .section .rodata
        .balign 4096
        .globl skep_vdso_start
        .globl skep_vdso_end
skep_vdso_start:
        .incbin "vdso.so"
        .balign 4096
skep_vdso_end:
        .section .note.GNU-stack,"",@progbits
