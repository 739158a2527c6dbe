// Other gates than the system call instruction, and odd processor state at a call or a signal.
#include <asm/prctl.h>
#include <ucontext.h>

#include "tests/hostile/judge.h"

namespace skep::test {
namespace {

TEST(Gate, Int80NeverReachesTheHost) {
  for (const int number : {20 /* getpid */, 5 /* open */, 2 /* fork */, 1 /* exit */}) {
    // A kernel without CONFIG_IA32_EMULATION: the instruction faults, or every call is unknown.
    EXPECT_THAT(Attack([=] {
                  uint64_t result = static_cast<uint64_t>(number);
                  asm volatile("int $0x80"
                               : "+a"(result)
                               : "b"(0), "c"(0), "d"(0)
                               : "memory", "r8", "r9", "r10", "r11");
                  if (static_cast<int32_t>(result) != -ENOSYS) {
                    Escaped("int 0x80: call %d answered %ld", number, static_cast<long>(result));
                  }
                }),
                testing::AnyOf(ExitsWith(0), KilledBy(SIGSEGV)));
  }
  ExpectAlive();
}

TEST(Gate, SysenterNeverReachesTheHost) {
  EXPECT_THAT(Attack([] {
                alarm(1);
                uint64_t result = 20;
                asm volatile("mov %%rsp, %%rbp\n sysenter"
                             : "+a"(result)
                             :
                             : "rbx", "rcx", "rdx", "memory");
                JudgePid(result, "sysenter");
              }),
              NoEscape());
  ExpectAlive();
}

TEST(Gate, ThirtyTwoBitCodeNeverReachesTheHost) {
  EXPECT_THAT(Attack([] {
                alarm(1);
                void* low = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
                ASSERT_THAT(low, Succeeds());
                // mov $20, %eax; int $0x80; mov %eax, %esi; far return to 64 bits
                const unsigned char code[] = {0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0x89, 0xc6, 0xcb};
                memcpy(low, code, sizeof(code));
                auto* stack = static_cast<char*>(low) + 2048;
                uint64_t result = 0;
                asm volatile(
                    "mov %%rsp, %%r15\n"
                    "mov %[stack], %%rsp\n"
                    "lea 1f(%%rip), %%rax\n"
                    "movl %%eax, (%%rsp)\n"  // where the 32-bit code returns to
                    "movl $0x33, 4(%%rsp)\n"
                    "sub $16, %%rsp\n"
                    "movq %[code], (%%rsp)\n"
                    "movq $0x23, 8(%%rsp)\n"
                    "lretq\n"
                    "1: mov %%r15, %%rsp\n"
                    : "=S"(result)
                    : [stack] "r"(stack), [code] "r"(low)
                    : "rax", "rbx", "rcx", "rdx", "r15", "memory", "cc");
                JudgePid(result, "32-bit code");
              }),
              NoEscape());
  ExpectAlive();
}

TEST(Gate, X32NumbersAreUnknown) {
  EXPECT_THAT(syscall(0x4000'0000 | SYS_getpid), FailsWith(ENOSYS));
  EXPECT_THAT(syscall(0x4000'0000 | 520), FailsWith(ENOSYS));
}

// gettimeofday, time and getcpu of old programs: done rightly or refused; between them is no code.
TEST(Gate, VsyscallPage) {
  for (const uint64_t offset : {0x0, 0x400, 0x800, 0x1, 0x123, 0xffe}) {
    const int status = Attack([=] {
      uint64_t result = 0;
      asm volatile("call *%1"
                   : "=a"(result)
                   : "r"(0xffff'ffff'ff60'0000 + offset), "D"(0), "S"(0)
                   : "rcx", "r11", "rdx", "memory");
      const auto value = static_cast<int64_t>(result);
      const bool ok = offset == 0x400 ? std::abs(value - time(nullptr)) <= 5 : value == 0;
      if (!ok && value != -ENOSYS) Escaped("vsyscall %#lx answered %ld", offset, value);
    });
    const bool is_entry = offset % 0x400 == 0;
    if (is_entry) {
      EXPECT_THAT(status, testing::AnyOf(ExitsWith(0), KilledBy(SIGSEGV))) << offset;
    } else {
      EXPECT_THAT(status, KilledBy(SIGSEGV)) << offset;
    }
  }
  ExpectAlive();
}

TEST(State, FlagsAtASystemCall) {
  constexpr int kTrap = 8;
  for (const int bit : {kTrap, 10 /* DF */, 14 /* NT */, 16 /* RF */, 18 /* AC */, 21 /* ID */}) {
    const int status = Attack([=] {
      uint64_t result = SYS_getpid;
      asm volatile("pushfq\n pushfq\n or %1, (%%rsp)\n popfq\n syscall\n popfq\n"
                   : "+a"(result)
                   : "r"(1ULL << bit)
                   : "rcx", "r11", "memory", "cc");
      if (result != static_cast<uint64_t>(getpid())) Escaped("flag %d: %ld", bit, result);
      JudgeOwnState("flags");
    });
    if (bit == kTrap) {
      EXPECT_THAT(status, KilledBy(SIGTRAP));
    } else {
      EXPECT_THAT(status, ExitsWith(0)) << "flag " << bit;
    }
  }
  ExpectAlive();
}

// Loading a selector faults, or has no effect on the calls that follow.
TEST(State, SegmentsAtASystemCall) {
  for (const int selector : {0x0, 0x2b, 0x23, 0x33, 0x7, 0xf, 0xffff}) {
    const bool loads = selector == 0 || (selector >= 0x23 && selector <= 0x33);
    const auto as_expected = [&](const char* segment, int status) {
      if (loads) {
        EXPECT_THAT(status, ExitsWith(0)) << segment << " " << selector;
      } else {
        EXPECT_THAT(status, KilledBy(SIGSEGV)) << segment << " " << selector;
      }
    };
    as_expected("ds, es", Attack([=] {
                  asm volatile("mov %0, %%ds\n mov %0, %%es" ::"r"(selector));
                  JudgeOwnState("ds and es");
                }));
    as_expected("gs", Attack([=] {
                  uint64_t result = SYS_getpid;
                  asm volatile("mov %1, %%gs\n syscall"
                               : "+a"(result)
                               : "r"(selector)
                               : "rcx", "r11", "memory");
                  if (result != static_cast<uint64_t>(getpid())) Escaped("gs: %ld", result);
                }));
    as_expected("fs", Attack([=] {
                  uint64_t base = 0;
                  syscall(SYS_arch_prctl, ARCH_GET_FS, &base);
                  uint64_t result = SYS_getpid;
                  asm volatile(
                      "mov %1, %%fs\n syscall\n mov %%rax, %%r15\n"
                      "mov %2, %%eax\n mov %3, %%edi\n mov %4, %%rsi\n syscall\n mov %%r15, %%rax\n"
                      : "+a"(result)
                      : "r"(selector), "i"(SYS_arch_prctl), "i"(ARCH_SET_FS), "r"(base)
                      : "rcx", "rdi", "rsi", "r11", "r15", "memory");
                  if (result != static_cast<uint64_t>(getpid())) Escaped("fs: %ld", result);
                }));
  }
  // A stack segment is one of data, and not null.
  EXPECT_THAT(Attack([] { asm volatile("mov %0, %%ss" ::"r"(0x2b)); }), ExitsWith(0));
  for (const int selector : {0x0, 0x23, 0x33, 0x7, 0xffff}) {
    EXPECT_THAT(Attack([=] { asm volatile("mov %0, %%ss" ::"r"(selector)); }), KilledBy(SIGSEGV))
        << selector;
  }
  ExpectAlive();
}

TEST(State, StackPointersAtASystemCall) {
  for (const uint64_t stack : {0x0ULL, 0x10ULL, 0x7fff'ffff'f000ULL, 0x8000'0000'0000'0000ULL,
                               ~0ULL, 0xffff'8000'0000'0000ULL}) {
    const int status = Attack([=] {
      uint64_t result = SYS_getpid;
      asm volatile("mov %%rsp, %%r15\n mov %1, %%rsp\n syscall\n mov %%r15, %%rsp\n"
                   : "+a"(result)
                   : "r"(stack)
                   : "rcx", "r11", "r15", "memory");
      _exit(static_cast<int64_t>(result) == getpid() ? 0 : 1);
    });
    EXPECT_THAT(status, ExitsWith(0)) << "a call needs no stack: " << std::hex << stack;
  }
  ExpectAlive();
}

TEST(State, SignalsWithoutAUsableStack) {
  for (const uint64_t stack : {0x0ULL, 0x7fff'ffff'f000ULL, 0x8000'0000'0000'0000ULL, ~0ULL}) {
    const int status = Attack([=] {
      signal(SIGUSR1, [](int) {});
      const pid_t self = getpid();
      asm volatile("mov %0, %%rsp\n mov $62, %%eax\n syscall\n ud2" ::"r"(stack), "D"(self),
                   "S"(SIGUSR1)
                   : "rax", "rcx", "r11", "memory");
    });
    EXPECT_THAT(status, KilledBy(SIGSEGV));
  }
  ExpectAlive();
}

// Sends itself SIGUSR1, whose handler lets `forge` change the frame, and judges what came of it.
[[nodiscard]] int ForgeFrame(void (*forge)(ucontext_t* context), const char* how) {
  return Attack([=] {
    alarm(1);
    static void (*forge_now)(ucontext_t*);
    forge_now = forge;
    struct sigaction action = {};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = [](int, siginfo_t*, void* context) {
      forge_now(static_cast<ucontext_t*>(context));
    };
    sigaction(SIGUSR1, &action, nullptr);
    raise(SIGUSR1);
    JudgeOwnState(how);
  });
}

int g_where;
uint32_t g_what;

TEST(State, ForgedSigreturnFrames) {
  for (g_where = 0; g_where < 1024; g_where += 8) {
    EXPECT_THAT(ForgeFrame(
                    [](ucontext_t* context) {
                      memset(reinterpret_cast<char*>(context) + g_where, 0xff, 8);
                    },
                    "a forged frame"),
                NoEscape())
        << "offset " << g_where;
  }
  // Each of the flags, and other segments, one at a time. Linux takes the few flags of FIX_EFLAGS.
  for (g_where = 0; g_where < 32; ++g_where) {
    EXPECT_THAT(ForgeFrame(
                    [](ucontext_t* context) {
                      context->uc_mcontext.gregs[REG_EFL] ^= int64_t{1} << g_where;
                    },
                    "a forged flag"),
                NoEscape())
        << "flag " << g_where;
  }
  for (const uint32_t selectors : {0x10U, 0x8U, 0x18U, 0U, 0x2bU, 0xffffU}) {
    g_what = selectors;
    EXPECT_THAT(ForgeFrame(
                    [](ucontext_t* context) {
                      auto& word = context->uc_mcontext.gregs[REG_CSGSFS];
                      word = (word & ~0xffff) | g_what;
                    },
                    "a forged cs"),
                NoEscape())
        << "cs " << selectors;
  }
  ExpectAlive();
}

TEST(State, ForgedXsaveAreas) {
  for (const int offset : {0, 24, 28, 464, 468, 472, 476, 480, 512, 520, 528, 576}) {
    for (const uint32_t value : {0U, 1U, 0xffff'ffffU, 0x4650'5853U}) {
      g_where = offset;
      g_what = value;
      EXPECT_THAT(ForgeFrame(
                      [](ucontext_t* context) {
                        auto* area = reinterpret_cast<char*>(context->uc_mcontext.fpregs);
                        memcpy(area + g_where, &g_what, 4);
                      },
                      "a forged xsave area"),
                  NoEscape())
          << "offset " << offset << " value " << value;
    }
  }
  ExpectAlive();
}

// --- canaries
// -------------------------------------------------------------------------------------

TEST(StateCanary, JudgesFire) {
  EXPECT_THAT(Attack([] { JudgePid(static_cast<uint64_t>(getpid()) + 1, "the canary"); }),
              IsEscape());
  for (const uint64_t flags : {uint64_t{1} << 12, uint64_t{1} << 13, uint64_t{1} << 17,
                               uint64_t{1} << 19, uint64_t{1} << 20}) {
    EXPECT_THAT(Attack([=] { JudgeState(flags, 0x33, "the canary"); }), IsEscape());
  }
  EXPECT_THAT(Attack([] { JudgeState(0x202, 0x10, "the canary"); }), IsEscape());
  EXPECT_THAT(Attack([] { JudgeOwnState("nothing"); }), ExitsWith(0));
  EXPECT_THAT(ForgeFrame([](ucontext_t*) { Escaped("the canary"); }, "the canary"), IsEscape());
}

}  // namespace
}  // namespace skep::test
