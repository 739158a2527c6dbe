// Faults: which signal, which code, which address; and what happens when it cannot be handled.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include <csetjmp>
#include <cstring>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

sigjmp_buf g_jump;
siginfo_t g_info;
int g_trap_number;
uint64_t g_error_code;
uint64_t g_cr2;

void Catch(int, siginfo_t* info, void* context) {
  g_info = *info;
  const auto& gregs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  g_trap_number = static_cast<int>(gregs[REG_TRAPNO]);
  g_error_code = static_cast<uint64_t>(gregs[REG_ERR]);
  g_cr2 = static_cast<uint64_t>(gregs[REG_CR2]);
  siglongjmp(g_jump, 1);
}

// Runs what should fault; the signal it raised, or 0.
template <class F>
int FaultOf(F&& f) {
  const ScopedSignalHandler segv(SIGSEGV, Catch);
  const ScopedSignalHandler bus(SIGBUS, Catch);
  const ScopedSignalHandler fpe(SIGFPE, Catch);
  const ScopedSignalHandler ill(SIGILL, Catch);
  const ScopedSignalHandler trap(SIGTRAP, Catch);
  memset(&g_info, 0, sizeof(g_info));
  if (sigsetjmp(g_jump, 1) == 0) f();
  return g_info.si_signo;
}

void Read(const void* address) { (void)*static_cast<const volatile char*>(address); }
void Write(void* address) { *static_cast<volatile char*>(address) = 1; }

TEST(Fault, UnmappedIsMaperr) {
  EXPECT_EQ(FaultOf([] { Read(kBadAddress); }), SIGSEGV);
  EXPECT_EQ(g_info.si_code, SEGV_MAPERR);
  EXPECT_EQ(g_info.si_addr, kBadAddress);
  EXPECT_EQ(g_trap_number, 14);
  EXPECT_EQ(g_error_code & 0x7, 4u) << "a user read of nothing";
  EXPECT_EQ(g_cr2, reinterpret_cast<uint64_t>(kBadAddress));
}

TEST(Fault, UnmappedAgainAfterMunmap) {
  char* address;
  {
    const Mapping memory(kPageSize);
    address = memory.data();
    Write(address);
  }
  EXPECT_EQ(FaultOf([=] { Write(address + 7); }), SIGSEGV);
  EXPECT_EQ(g_info.si_code, SEGV_MAPERR);
  EXPECT_EQ(g_info.si_addr, address + 7);
  EXPECT_EQ(g_error_code & 0x2, 2u) << "a write";
}

TEST(Fault, ProtectionIsAccerr) {
  const Mapping memory(kPageSize, PROT_READ);
  Read(memory.data());
  EXPECT_EQ(FaultOf([&] { Write(memory.data() + 5); }), SIGSEGV);
  EXPECT_EQ(g_info.si_code, SEGV_ACCERR);
  EXPECT_EQ(g_info.si_addr, memory.data() + 5);
  EXPECT_EQ(g_error_code & 0x17, 7u) << "a user write to what is there";
  const Mapping none(kPageSize, PROT_NONE);
  EXPECT_EQ(FaultOf([&] { Read(none.data()); }), SIGSEGV);
  EXPECT_EQ(g_info.si_code, SEGV_ACCERR);
}

TEST(Fault, ExecutingDataIsAccerr) {
  const Mapping memory(kPageSize);
  memory.data()[0] = static_cast<char>(0xc3);
  EXPECT_EQ(FaultOf([&] { reinterpret_cast<void (*)()>(memory.data())(); }), SIGSEGV);
  EXPECT_EQ(g_info.si_code, SEGV_ACCERR);
  EXPECT_EQ(g_info.si_addr, memory.data());
  EXPECT_EQ(g_error_code & 0x10, 0x10u) << "an instruction fetch";
}

TEST(Fault, NonCanonicalIsKernelsWithoutAddress) {
  EXPECT_EQ(FaultOf([] {
              uint64_t address = 0x8000'0000'0000'0000;
              asm volatile("mov (%0), %0" : "+r"(address));
            }),
            SIGSEGV);
  EXPECT_EQ(g_info.si_code, SI_KERNEL);
  EXPECT_EQ(g_info.si_addr, nullptr);
  EXPECT_EQ(g_trap_number, 13);
}

TEST(Fault, PrivilegedInstructionsAreSegv) {
  EXPECT_EQ(FaultOf([] { asm volatile("hlt"); }), SIGSEGV);
  EXPECT_EQ(g_info.si_code, SI_KERNEL);
  EXPECT_EQ(FaultOf([] { asm volatile("cli"); }), SIGSEGV);
  EXPECT_EQ(FaultOf([] { asm volatile("mov %%cr3, %%rax" ::: "rax"); }), SIGSEGV);
  EXPECT_EQ(FaultOf([] { asm volatile("in $0x80, %%al" ::: "rax"); }), SIGSEGV);
}

TEST(Fault, PastTheEndOfAFileIsBus) {
  const TempDir dir;
  WriteFile(dir.File("f"), "x");
  const Fd fd(open(dir.File("f").c_str(), O_RDWR));
  const Mapping memory(3 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  EXPECT_EQ(FaultOf([&] { Read(memory.data() + 100); }), 0) << "the rest of the last page is zero";
  EXPECT_EQ(FaultOf([&] { Read(memory.page(1) + 3); }), SIGBUS);
  EXPECT_EQ(g_info.si_code, BUS_ADRERR);
  EXPECT_EQ(g_info.si_addr, memory.page(1) + 3);
}

TEST(Fault, ATruncatedFileIsBusAndAGrownOneIsNot) {
  const TempDir dir;
  WriteFile(dir.File("f"), std::string(2 * kPageSize, 'x'));
  const Fd fd(open(dir.File("f").c_str(), O_RDWR));
  const Mapping memory(2 * kPageSize, PROT_READ, MAP_SHARED, fd);
  Read(memory.page(1));
  ASSERT_THAT(ftruncate(fd, kPageSize), Succeeds());
  EXPECT_EQ(FaultOf([&] { Read(memory.page(1)); }), SIGBUS);
  ASSERT_THAT(ftruncate(fd, 2 * kPageSize), Succeeds());
  EXPECT_EQ(FaultOf([&] { Read(memory.page(1)); }), 0);
  EXPECT_EQ(*memory.page(1), 0);
}

TEST(Fault, DivisionByZero) {
  EXPECT_EQ(FaultOf([] {
              uint32_t zero = 0;
              asm volatile("xor %%edx, %%edx\n mov $1, %%eax\n div %0" ::"r"(zero) : "rax", "rdx");
            }),
            SIGFPE);
  EXPECT_EQ(g_info.si_code, FPE_INTDIV);
  EXPECT_NE(g_info.si_addr, nullptr);
  EXPECT_EQ(g_trap_number, 0);
}

TEST(Fault, SseDivisionByZeroWhenUnmasked) {
  EXPECT_EQ(FaultOf([] {
              const uint32_t mxcsr = 0x1f80 & ~0x200u;
              const double one = 1;
              const double zero = 0;
              asm volatile("ldmxcsr %0\n movsd %1, %%xmm0\n divsd %2, %%xmm0" ::"m"(mxcsr),
                           "m"(one), "m"(zero)
                           : "xmm0");
            }),
            SIGFPE);
  EXPECT_EQ(g_info.si_code, FPE_FLTDIV);
  const uint32_t normal = 0x1f80;
  asm volatile("ldmxcsr %0" ::"m"(normal));
}

TEST(Fault, IllegalInstruction) {
  static const void* where;
  EXPECT_EQ(FaultOf([] {
              asm volatile("lea 1f(%%rip), %%rax\n mov %%rax, %0\n 1: ud2" : "=m"(where) : : "rax");
            }),
            SIGILL);
  EXPECT_EQ(g_info.si_code, ILL_ILLOPN);
  EXPECT_EQ(g_info.si_addr, where);
  EXPECT_EQ(g_trap_number, 6);
}

TEST(Fault, BreakpointIsTrap) {
  EXPECT_EQ(FaultOf([] { asm volatile("int3"); }), SIGTRAP);
  EXPECT_EQ(g_info.si_code, SI_KERNEL);
  EXPECT_EQ(g_trap_number, 3);
}

TEST(Fault, SingleStepIsTrapTrace) {
  EXPECT_EQ(FaultOf([] {
              asm volatile("pushfq\n orl $0x100, (%%rsp)\n popfq\n nop\n nop" ::: "memory", "cc");
            }),
            SIGTRAP);
  EXPECT_EQ(g_info.si_code, TRAP_TRACE);
  EXPECT_EQ(g_trap_number, 1);
  asm volatile("pushfq\n andl $0xfffffeff, (%%rsp)\n popfq" ::: "memory", "cc");
}

TEST(Fault, MisalignedVectorAccessIsSegv) {
  alignas(16) static char data[32];
  EXPECT_EQ(FaultOf([] { asm volatile("movaps (%0), %%xmm0" ::"r"(data + 1) : "xmm0"); }), SIGSEGV);
  EXPECT_EQ(g_info.si_code, SI_KERNEL);
}

TEST(Fault, BlockedFaultsKill) {
  EXPECT_THAT(ForkAndRun([] {
                const rlimit no_core = {0, 0};
                setrlimit(RLIMIT_CORE, &no_core);
                const ScopedSignalHandler handler(SIGSEGV, Catch);
                const ScopedSignalMask mask(SIG_BLOCK, {SIGSEGV});
                Write(kBadAddress);
              }),
              KilledBy(SIGSEGV));
}

TEST(Fault, IgnoredFaultsKill) {
  EXPECT_THAT(ForkAndRun([] {
                signal(SIGSEGV, SIG_IGN);
                Write(kBadAddress);
              }),
              KilledBy(SIGSEGV));
}

TEST(Fault, AFaultInTheHandlerKills) {
  EXPECT_THAT(ForkAndRun([] {
                const ScopedSignalHandler handler(SIGSEGV, [](int) { Write(kBadAddress); });
                Write(kBadAddress);
              }),
              KilledBy(SIGSEGV));
}

TEST(Fault, NoStackForTheFrameKills) {
  EXPECT_THAT(ForkAndRun([] {
                const ScopedSignalHandler handler(SIGUSR1, [](int) { _exit(1); });
                const pid_t self = getpid();
                asm volatile("mov $0x1000, %%rsp\n mov $62, %%eax\n syscall\n ud2" ::"D"(self),
                             "S"(SIGUSR1)
                             : "rax", "rcx", "r11", "memory");
              }),
              KilledBy(SIGSEGV));
}

TEST(Fault, SyscallsDoNotSignalForBadPointers) {
  EXPECT_EQ(FaultOf([] {
              EXPECT_THAT(syscall(SYS_getcwd, kBadAddress, 100), FailsWith(EFAULT));
              EXPECT_THAT(syscall(SYS_uname, 0x7fff'ffff'f000), FailsWith(EFAULT));
              EXPECT_THAT(syscall(SYS_uname, 0xffff'8000'0000'0000), FailsWith(EFAULT));
            }),
            0);
}

TEST(Fault, TheVsyscallPageStillAnswersOrFaults) {
  // vsyscall=xonly and none are both Linux: time() by address, or a fault at that address.
  static long (*const vsyscall_time)(long*) =
      reinterpret_cast<long (*)(long*)>(0xffff'ffff'ff60'0400);
  long answer = 0;
  const int signo = FaultOf([&] { answer = vsyscall_time(nullptr); });
  if (signo == 0) {
    EXPECT_GT(answer, 1'000'000'000);
  } else {
    EXPECT_EQ(signo, SIGSEGV);
    EXPECT_EQ(g_info.si_addr, reinterpret_cast<void*>(vsyscall_time));
  }
}

}  // namespace
}  // namespace skep::test
