// What a handler is given and may change: ucontext, alternate stacks, vector state.
#include <immintrin.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include <csetjmp>
#include <cstring>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr size_t kAltStackSize = 64 * 1024;

volatile uintptr_t g_handler_stack = 0;
volatile sig_atomic_t g_seen = 0;
ucontext_t g_context;

void NoteStack(int) {
  int local = 0;
  g_handler_stack = reinterpret_cast<uintptr_t>(&local);
}

class AltStack {
 public:
  AltStack() {
    const stack_t stack = {memory_.data(), 0, kAltStackSize};
    EXPECT_THAT(sigaltstack(&stack, &old_), Succeeds());
  }
  ~AltStack() { sigaltstack(&old_, nullptr); }
  bool Holds(uintptr_t address) const {
    return address >= memory_.address() && address < memory_.address() + kAltStackSize;
  }
  char* base() const { return memory_.data(); }

 private:
  Mapping memory_{kAltStackSize};
  stack_t old_;
};

TEST(AltStack, IsUsedOnlyWithOnstack) {
  const AltStack stack;
  {
    const ScopedSignalHandler handler(SIGUSR1, NoteStack, SA_ONSTACK);
    raise(SIGUSR1);
    EXPECT_TRUE(stack.Holds(g_handler_stack));
  }
  const ScopedSignalHandler handler(SIGUSR1, NoteStack);
  raise(SIGUSR1);
  EXPECT_FALSE(stack.Holds(g_handler_stack));
}

TEST(AltStack, IsReportedAndKept) {
  const AltStack stack;
  static stack_t inside;
  {
    const ScopedSignalHandler handler(
        SIGUSR1, [](int) { sigaltstack(nullptr, &inside); }, SA_ONSTACK);
    raise(SIGUSR1);
  }
  EXPECT_EQ(inside.ss_flags, SS_ONSTACK);
  EXPECT_EQ(inside.ss_sp, stack.base());
  stack_t now = {};
  EXPECT_THAT(sigaltstack(nullptr, &now), Succeeds());
  EXPECT_EQ(now.ss_flags, 0);
  EXPECT_EQ(now.ss_size, kAltStackSize);
}

TEST(AltStack, CannotBeChangedWhileInUse) {
  const AltStack stack;
  static int error;
  const ScopedSignalHandler handler(
      SIGUSR1,
      [](int) {
        const stack_t disable = {nullptr, SS_DISABLE, 0};
        error = sigaltstack(&disable, nullptr) == 0 ? 0 : errno;
      },
      SA_ONSTACK);
  raise(SIGUSR1);
  EXPECT_EQ(error, EPERM);
}

TEST(AltStack, Errors) {
  static char memory[kAltStackSize];
  stack_t stack = {memory, 0, 100};
  EXPECT_THAT(sigaltstack(&stack, nullptr), FailsWith(ENOMEM));
  stack = {memory, 0x40, sizeof(memory)};
  EXPECT_THAT(sigaltstack(&stack, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_sigaltstack, kBadAddress, nullptr), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_sigaltstack, nullptr, kBadAddress), FailsWith(EFAULT));
}

TEST(AltStack, AutodisarmClearsItForTheHandler) {
  static char memory[kAltStackSize];
  constexpr int kAutodisarm = static_cast<int>(1U << 31);
  const stack_t stack = {memory, kAutodisarm, sizeof(memory)};
  stack_t old;
  ASSERT_THAT(sigaltstack(&stack, &old), Succeeds());
  static stack_t inside;
  {
    const ScopedSignalHandler handler(
        SIGUSR1, [](int) { sigaltstack(nullptr, &inside); }, SA_ONSTACK);
    raise(SIGUSR1);
  }
  EXPECT_EQ(inside.ss_flags, SS_DISABLE);
  stack_t now;
  EXPECT_THAT(sigaltstack(&old, &now), Succeeds());
  EXPECT_EQ(now.ss_sp, memory) << "armed again on return";
}

TEST(AltStack, StackOverflowIsCaughtOnIt) {
  EXPECT_THAT(ForkAndRun([] {
                const AltStack stack;
                const ScopedSignalHandler handler(SIGSEGV, [](int) { _exit(17); }, SA_ONSTACK);
                const rlimit small = {256 * 1024, 256 * 1024};
                setrlimit(RLIMIT_STACK, &small);
                struct Recurse {
                  static int Down(int depth) {
                    volatile char frame[4096];
                    frame[0] = 1;
                    return depth == 0 ? 0 : Down(depth - 1) + frame[0];
                  }
                };
                Recurse::Down(1000);
              }),
              ExitsWith(17));
}

TEST(AltStack, AnUnmappedOneKills) {
  EXPECT_THAT(ForkAndRun([] {
                const stack_t stack = {kBadAddress, 0, kAltStackSize};
                ASSERT_THAT(sigaltstack(&stack, nullptr), Succeeds());
                const ScopedSignalHandler handler(SIGUSR1, [](int) { _exit(1); }, SA_ONSTACK);
                raise(SIGUSR1);
              }),
              KilledBy(SIGSEGV));
}

TEST(Frame, ContextHoldsRegistersMaskAndStack) {
  const ScopedSignalMask mask(SIG_BLOCK, {SIGHUP});
  const ScopedSignalHandler handler(SIGUSR1, [](int, siginfo_t*, void* context) {
    memcpy(&g_context, context, offsetof(ucontext_t, __fpregs_mem));
  });
  uint64_t r12 = 0;
  asm volatile(
      "mov $0x1357, %%r12\n"
      "mov $39, %%eax\n syscall\n"
      "mov %%eax, %%edi\n mov $10, %%esi\n mov $62, %%eax\n syscall\n"
      "mov %%r12, %0\n"
      : "=r"(r12)
      :
      : "rax", "rcx", "r11", "rdi", "rsi", "r12", "memory");
  EXPECT_EQ(r12, 0x1357u);
  EXPECT_EQ(g_context.uc_mcontext.gregs[REG_R12], 0x1357);
  EXPECT_EQ(g_context.uc_mcontext.gregs[REG_RAX], 0) << "the result of kill";
  EXPECT_EQ(g_context.uc_mcontext.gregs[REG_RDI], getpid());
  EXPECT_TRUE(sigismember(&g_context.uc_sigmask, SIGHUP));
  EXPECT_FALSE(sigismember(&g_context.uc_sigmask, SIGUSR1));
  EXPECT_NE(g_context.uc_mcontext.fpregs, nullptr);
  EXPECT_EQ(g_context.uc_mcontext.gregs[REG_CSGSFS] & 0xffff, 0x33);
}

TEST(Frame, ChangedRegistersAreLoaded) {
  const ScopedSignalHandler handler(SIGUSR1, [](int, siginfo_t*, void* context) {
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_R12] = 0x2468;
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RAX] = 99;
  });
  uint64_t r12 = 0;
  uint64_t rax = 0;
  asm volatile(
      "mov $1, %%r12\n"
      "mov $39, %%eax\n syscall\n"
      "mov %%eax, %%edi\n mov $10, %%esi\n mov $62, %%eax\n syscall\n"
      "mov %%r12, %0\n"
      : "=r"(r12), "=a"(rax)
      :
      : "rcx", "r11", "rdi", "rsi", "r12", "memory");
  EXPECT_EQ(r12, 0x2468u);
  EXPECT_EQ(rax, 99u);
}

TEST(Frame, ChangedMaskIsTaken) {
  {
    const ScopedSignalMask restore(SIG_BLOCK, {});
    const ScopedSignalHandler handler(SIGUSR1, [](int, siginfo_t*, void* context) {
      sigaddset(&static_cast<ucontext_t*>(context)->uc_sigmask, SIGHUP);
      sigaddset(&static_cast<ucontext_t*>(context)->uc_sigmask, SIGKILL);
    });
    raise(SIGUSR1);
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, nullptr, &now);
    EXPECT_TRUE(sigismember(&now, SIGHUP));
    EXPECT_FALSE(sigismember(&now, SIGKILL));
  }
}

TEST(Frame, SkippingAFaultingInstruction) {
  const ScopedSignalHandler handler(SIGSEGV, [](int, siginfo_t*, void* context) {
    auto& gregs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    gregs[REG_RIP] += 3;
    gregs[REG_RBX] = 55;
  });
  uint64_t rbx = 0x10;
  asm volatile(".byte 0x48, 0x8b, 0x1b\n" : "+b"(rbx) : : "memory");  // mov (%rbx), %rbx
  EXPECT_EQ(rbx, 55u);
}

TEST(Frame, TheStackIsAlignedForTheAbi) {
  static uintptr_t rsp;
  {
    const ScopedSignalHandler handler(SIGUSR1, [](int, siginfo_t* info, void*) {
      rsp = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
      g_seen = info->si_signo;
    });
    raise(SIGUSR1);
  }
  EXPECT_EQ(rsp % 16, 0u);
}

TEST(Frame, TheRedZoneSurvives) {
  const ScopedSignalHandler handler(SIGUSR1, [](int) {
    volatile char clobber[512];
    for (size_t i = 0; i < sizeof(clobber); ++i) clobber[i] = 'x';
  });
  uint64_t kept = 0;
  asm volatile(
      "movq $0x7777, -128(%%rsp)\n"
      "mov $39, %%eax\n syscall\n"
      "mov %%eax, %%edi\n mov $10, %%esi\n mov $62, %%eax\n syscall\n"
      "mov -128(%%rsp), %0\n"
      : "=r"(kept)
      :
      : "rax", "rcx", "r11", "rdi", "rsi", "memory");
  EXPECT_EQ(kept, 0x7777u);
}

TEST(Frame, LeavingBySiglongjmpRestoresTheMask) {
  static sigjmp_buf jump;
  const ScopedSignalHandler handler(SIGUSR1, [](int) { siglongjmp(jump, 1); });
  if (sigsetjmp(jump, 1) == 0) {
    raise(SIGUSR1);
    ADD_FAILURE();
  }
  sigset_t now;
  pthread_sigmask(SIG_BLOCK, nullptr, &now);
  EXPECT_FALSE(sigismember(&now, SIGUSR1));
}

TEST(Frame, DirectionFlagIsClearInTheHandlerAndRestored) {
  static uint64_t inside;
  const ScopedSignalHandler handler(SIGUSR1, [](int) {
    asm volatile("pushfq\n pop %0" : "=r"(inside));
  });
  uint64_t after = 0;
  asm volatile(
      "std\n"
      "mov $39, %%eax\n syscall\n"
      "mov %%eax, %%edi\n mov $10, %%esi\n mov $62, %%eax\n syscall\n"
      "pushfq\n pop %0\n cld\n"
      : "=r"(after)
      :
      : "rax", "rcx", "r11", "rdi", "rsi", "memory", "cc");
  EXPECT_EQ(inside & 0x400, 0u);
  EXPECT_EQ(after & 0x400, 0x400u);
}

TEST(Frame, NestedHandlersUnwindInOrder) {
  static char order[8];
  static int length;
  length = 0;
  const ScopedSignalHandler outer(SIGUSR1, [](int) {
    order[length++] = 'a';
    raise(SIGUSR2);
    order[length++] = 'c';
  });
  const ScopedSignalHandler inner(SIGUSR2, [](int) { order[length++] = 'b'; });
  raise(SIGUSR1);
  EXPECT_EQ(std::string(order, static_cast<size_t>(length)), "abc");
}

TEST(Frame, AForgedSigreturnSegmentIsHarmless) {
  EXPECT_THAT(ForkAndRun([] {
                const ScopedSignalHandler handler(SIGUSR1, [](int, siginfo_t*, void* context) {
                  auto& gregs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
                  gregs[REG_RIP] = static_cast<greg_t>(0x8000'0000'0000'0000);
                });
                raise(SIGUSR1);
              }),
              KilledBy(SIGSEGV));
}

TEST(Frame, SigreturnWithABadStackKills) {
  EXPECT_THAT(ForkAndRun([] {
                asm volatile("mov $0x10, %%rsp\n mov $15, %%eax\n syscall\n" ::: "memory");
              }),
              KilledBy(SIGSEGV));
}

__attribute__((target("avx"))) void AvxRoundTrip() {
  static const ScopedSignalHandler handler(SIGUSR1, [](int, siginfo_t*, void*) {
    asm volatile("vpxor %%xmm0, %%xmm0, %%xmm0\n vzeroall\n" ::
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
  });
  alignas(32) const uint64_t in[4] = {1, 2, 3, 4};
  alignas(32) uint64_t out[4] = {};
  asm volatile(
      "vmovdqa %1, %%ymm5\n"
      "mov $39, %%eax\n syscall\n"
      "mov %%eax, %%edi\n mov $10, %%esi\n mov $62, %%eax\n syscall\n"
      "vmovdqa %%ymm5, %0\n"
      : "=m"(out)
      : "m"(in)
      : "rax", "rcx", "r11", "rdi", "rsi", "xmm5", "memory");
  for (int i = 0; i < 4; ++i) EXPECT_EQ(out[i], in[i]) << i;
}

TEST(Vector, AvxStateSurvivesAHandlerThatClobbersIt) {
  if (!__builtin_cpu_supports("avx")) GTEST_SKIP() << "no AVX here";
  AvxRoundTrip();
}

TEST(Vector, TheFrameDescribesItsXsaveArea) {
  static uint32_t magic1;
  static uint32_t extended_size;
  static uint64_t xfeatures;
  static uint32_t magic2;
  {
    const ScopedSignalHandler handler(SIGUSR1, [](int, siginfo_t*, void* context) {
      const auto* area =
          reinterpret_cast<const char*>(static_cast<ucontext_t*>(context)->uc_mcontext.fpregs);
      memcpy(&magic1, area + 464, 4);
      memcpy(&extended_size, area + 468, 4);
      memcpy(&xfeatures, area + 472, 8);
      memcpy(&magic2, area + extended_size - 4, 4);
    });
    raise(SIGUSR1);
  }
  EXPECT_EQ(magic1, 0x46505853u);
  EXPECT_EQ(magic2, 0x46505845u);
  EXPECT_EQ(xfeatures & 3, 3u);
  EXPECT_GT(extended_size, 512u + 64);
}

__attribute__((target("avx"))) uint64_t ReadChangedYmm() {
  alignas(32) const uint64_t in[4] = {1, 2, 3, 4};
  alignas(32) uint64_t out[4] = {};
  asm volatile(
      "vmovdqa %1, %%ymm5\n"
      "mov $39, %%eax\n syscall\n"
      "mov %%eax, %%edi\n mov $10, %%esi\n mov $62, %%eax\n syscall\n"
      "vmovdqa %%ymm5, %0\n"
      : "=m"(out)
      : "m"(in)
      : "rax", "rcx", "r11", "rdi", "rsi", "xmm5", "memory");
  return out[0] * 1000 + out[3];
}

TEST(Vector, AHandlerMayReadAndChangeXmmAndYmm) {
  if (!__builtin_cpu_supports("avx")) GTEST_SKIP() << "no AVX here";
  static uint64_t low;
  static uint64_t high;
  const ScopedSignalHandler handler(SIGUSR1, [](int, siginfo_t*, void* context) {
    auto* area = reinterpret_cast<char*>(static_cast<ucontext_t*>(context)->uc_mcontext.fpregs);
    char* xmm5 = area + 160 + 5 * 16;
    char* ymm5_high = area + 576 + 5 * 16;
    memcpy(&low, xmm5, 8);
    memcpy(&high, ymm5_high + 8, 8);
    const uint64_t changed[2] = {70, 80};
    memcpy(xmm5, &changed[0], 8);
    memcpy(ymm5_high + 8, &changed[1], 8);
  });
  EXPECT_EQ(ReadChangedYmm(), 70'080u);
  EXPECT_EQ(low, 1u);
  EXPECT_EQ(high, 4u);
}

TEST(Vector, X87AndMxcsrSurvive) {
  const ScopedSignalHandler handler(SIGUSR1, [](int) {
    const uint32_t mxcsr = 0x1f80;
    asm volatile("fninit\n ldmxcsr %0" ::"m"(mxcsr));
  });
  uint16_t control = 0x027f;
  uint32_t mxcsr = 0x9fc0;
  asm volatile("fldcw %0\n ldmxcsr %1" ::"m"(control), "m"(mxcsr));
  raise(SIGUSR1);
  uint16_t control_after = 0;
  uint32_t mxcsr_after = 0;
  asm volatile("fnstcw %0\n stmxcsr %1" : "=m"(control_after), "=m"(mxcsr_after));
  control = 0x037f;
  const uint32_t normal = 0x1f80;
  asm volatile("fldcw %0\n ldmxcsr %1" ::"m"(control), "m"(normal));
  EXPECT_EQ(control_after, 0x027f);
  EXPECT_EQ(mxcsr_after & ~0x3fu, 0x9fc0u & ~0x3fu);
}

TEST(Vector, ThreadsDoNotMixTheirState) {
  const auto spin = [](uint64_t mine) {
    uint64_t bad = 0;
    for (int i = 0; i < 2'000; ++i) {
      uint64_t out = 0;
      asm volatile(
          "movq %2, %%xmm9\n"
          "mov $24, %%eax\n syscall\n"  // sched_yield
          "movq %%xmm9, %0\n"
          : "=r"(out), "+r"(bad)
          : "r"(mine)
          : "rax", "rcx", "r11", "xmm9", "memory");
      bad += out != mine;
    }
    EXPECT_EQ(bad, 0u);
  };
  std::thread a(spin, 0x1111);
  std::thread b(spin, 0x2222);
  spin(0x3333);
  a.join();
  b.join();
}

}  // namespace
}  // namespace skep::test
