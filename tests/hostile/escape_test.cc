// Ways out of a stub: its high memory, other system call gates, odd processor state.
#include <fcntl.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <csetjmp>
#include <cstring>

#include "tests/hostile/hostile.h"

namespace skep::test {
namespace {

// Where engines may keep code of their own: above what the guest is given.
constexpr uint64_t kHighStart = 0x7fff'0000'0000;
constexpr uint64_t kHighEnd = 0x7fff'ffff'f000;

sigjmp_buf g_jump;
void JumpBack(int) { siglongjmp(g_jump, 1); }

bool CanRead(uint64_t address, uint8_t* byte) {
  if (sigsetjmp(g_jump, 1) != 0) return false;
  *byte = *reinterpret_cast<volatile uint8_t*>(address);
  return true;
}

bool InOwnMaps(uint64_t address) {
  const std::string maps = ReadFile("/proc/self/maps");
  for (size_t at = 0; at < maps.size(); at = maps.find('\n', at) + 1) {
    uint64_t low = 0;
    uint64_t high = 0;
    sscanf(maps.c_str() + at, "%lx-%lx", &low, &high);
    if (address >= low && address < high) return true;
  }
  return false;
}

// Readable pages near the top that the guest did not map: coarse steps, then page by page.
std::vector<uint64_t> ForeignPages() {
  std::vector<uint64_t> pages;
  const ScopedSignalHandler segv(SIGSEGV, JumpBack, SA_NODEFER);
  const ScopedSignalHandler bus(SIGBUS, JumpBack, SA_NODEFER);
  uint8_t byte = 0;
  for (uint64_t at = kHighEnd - (64ULL << 20); at < kHighEnd; at += kPageSize) {
    if (CanRead(at, &byte) && !InOwnMaps(at)) pages.push_back(at);
  }
  return pages;
}

std::vector<uint64_t> SyscallInstructions(const std::vector<uint64_t>& pages) {
  std::vector<uint64_t> found;
  for (const uint64_t page : pages) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(page);
    for (size_t i = 0; i + 1 < kPageSize && found.size() < 64; ++i) {
      if (bytes[i] == 0x0f && bytes[i + 1] == 0x05) found.push_back(page + i);
    }
  }
  return found;
}

// Jumps to an address with a call in the registers and comes back if something there returns.
uint64_t JumpWith(uint64_t address, uint64_t number, uint64_t a0, uint64_t a1, uint64_t a2) {
  uint64_t result = number;
  asm volatile(
      "xor %%r10d, %%r10d\n"
      "sub $128, %%rsp\n"
      "call *%[address]\n"
      "add $128, %%rsp\n"
      : "+a"(result)
      : [address] "r"(address), "D"(a0), "S"(a1), "d"(a2)
      : "rcx", "r11", "r10", "memory", "cc");
  return result;
}

// A number that only the host knows: a process id that differs from the guest's.
void ExpectGuestPid(uint64_t result, const char* how) {
  const auto value = static_cast<int32_t>(result);  // what 32-bit code gets of an error, too
  if (value > 0 && value != getpid()) {
    printf("ESCAPE through %s: getpid answered %d, the guest is %d\n", how, value, getpid());
    fflush(stdout);
    _exit(99);
  }
}

TEST(Escape, SyscallInstructionsInForeignPages) {
  const std::vector<uint64_t> gates = SyscallInstructions(ForeignPages());
  printf("note: %zu syscall instructions in pages the guest did not map\n", gates.size());
  for (const uint64_t gate : gates) {
    for (const long number : {SYS_getpid, SYS_getppid, SYS_openat, SYS_memfd_create, SYS_socket,
                              SYS_fork, SYS_mmap, SYS_kill, SYS_ptrace}) {
      const int status = Attack([=] {
        const uint64_t result =
            JumpWith(gate, static_cast<uint64_t>(number), static_cast<uint64_t>(AT_FDCWD),
                     reinterpret_cast<uint64_t>("/proc/self/status"), 0);
        if (number == SYS_getpid) ExpectGuestPid(result, "a foreign syscall instruction");
      });
      EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == 99) << std::hex << gate;
    }
  }
  ExpectAlive();
}

TEST(Escape, JumpsIntoTheMiddleOfForeignPages) {
  const std::vector<uint64_t> pages = ForeignPages();
  int jumps = 0;
  for (const uint64_t page : pages) {
    for (uint64_t offset = 0; offset < kPageSize && jumps < 200; offset += 61, ++jumps) {
      Attack([=] {
        alarm(1);
        ExpectGuestPid(JumpWith(page + offset, SYS_getpid, 0, 0, 0), "a jump");
      });
    }
  }
  ExpectAlive();
}

TEST(Escape, ForeignPagesCannotBeWrittenOrUnmapped) {
  for (const uint64_t page : ForeignPages()) {
    auto* address = reinterpret_cast<void*>(page);
    Attack([=] { *static_cast<volatile char*>(address) = 1; });
    Attack([=] { munmap(address, kPageSize); });
    Attack([=] { mprotect(address, kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC); });
    Attack([=] {
      mmap(address, kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    });
    Attack([=] { mremap(address, kPageSize, 2 * kPageSize, MREMAP_MAYMOVE); });
    Attack([=] { madvise(address, kPageSize, MADV_DONTNEED); });
  }
  ExpectAlive();
}

TEST(Escape, UnmappingEverythingElseHurtsOnlyOneself) {
  Attack([] { munmap(nullptr, kHighEnd); });
  Attack([] { munmap(reinterpret_cast<void*>(kHighStart), kHighEnd - kHighStart); });
  Attack([] {
    mmap(reinterpret_cast<void*>(kHighStart), kHighEnd - kHighStart, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    _exit(getpid() > 0 ? 0 : 1);
  });
  Attack([] {
    mprotect(reinterpret_cast<void*>(kHighStart), kHighEnd - kHighStart, PROT_NONE);
    _exit(0);
  });
  ExpectAlive();
}

TEST(Gate, Int80NeverReachesTheHost) {
  for (const int number : {20 /* getpid */, 5 /* open */, 2 /* fork */, 1 /* exit */}) {
    const int status = Attack([=] {
      uint64_t result = static_cast<uint64_t>(number);
      asm volatile("int $0x80"
                   : "+a"(result)
                   : "b"(0), "c"(0), "d"(0)
                   : "memory", "r8", "r9", "r10", "r11");
      if (number == 20) ExpectGuestPid(result & 0xffff'ffff, "int 0x80");
    });
    EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == 99);
  }
  ExpectAlive();
}

TEST(Gate, SysenterNeverReachesTheHost) {
  const int status = Attack([] {
    alarm(1);
    uint64_t result = 20;
    asm volatile("mov %%rsp, %%rbp\n sysenter" : "+a"(result) : : "rbx", "rcx", "rdx", "memory");
    ExpectGuestPid(result & 0xffff'ffff, "sysenter");
  });
  EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == 99);
  ExpectAlive();
}

TEST(Gate, ThirtyTwoBitCodeNeverReachesTheHost) {
  const int status = Attack([] {
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
    ExpectGuestPid(result & 0xffff'ffff, "32-bit code");
  });
  EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == 99);
  ExpectAlive();
}

TEST(Gate, X32NumbersAreUnknown) {
  EXPECT_THAT(syscall(0x4000'0000 | SYS_getpid), FailsWith(ENOSYS));
  EXPECT_THAT(syscall(0x4000'0000 | 520), FailsWith(ENOSYS));
}

TEST(Gate, VsyscallPage) {
  for (const uint64_t offset : {0x0, 0x400, 0x800, 0x1, 0x123, 0xffe}) {
    Attack([=] {
      uint64_t result = 0;
      asm volatile("call *%1"
                   : "=a"(result)
                   : "r"(0xffff'ffff'ff60'0000 + offset), "D"(0), "S"(0)
                   : "rcx", "r11", "rdx", "memory");
    });
  }
  ExpectAlive();
}

TEST(State, FlagsAtASystemCall) {
  for (const uint64_t bit :
       {8 /* TF */, 10 /* DF */, 14 /* NT */, 16 /* RF */, 18 /* AC */, 21 /* ID */}) {
    Attack([=] {
      uint64_t result = SYS_getpid;
      asm volatile("pushfq\n or %1, (%%rsp)\n popfq\n syscall\n"
                   : "+a"(result)
                   : "r"(1ULL << bit)
                   : "rcx", "r11", "memory", "cc");
      ExpectGuestPid(result, "flags");
    });
  }
  ExpectAlive();
}

TEST(State, SegmentsAtASystemCall) {
  for (const uint16_t selector : {0x0, 0x2b, 0x23, 0x33, 0x7, 0xf, 0xffff}) {
    Attack([=] { asm volatile("mov %0, %%ds\n mov %0, %%es" ::"r"(selector)); });
    Attack([=] {
      asm volatile("mov %0, %%gs\n mov $39, %%eax\n syscall" ::"r"(selector)
                   : "rax", "rcx", "r11", "memory");
    });
    Attack([=] { asm volatile("mov %0, %%ss" ::"r"(selector)); });
    Attack([=] { asm volatile("mov %0, %%fs" ::"r"(selector)); });
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

TEST(State, ForgedSigreturnFrames) {
  for (int offset = 0; offset < 1024; offset += 8) {
    Attack([=] {
      alarm(1);
      static int where;
      where = offset;
      struct sigaction action = {};
      action.sa_flags = SA_SIGINFO;
      action.sa_sigaction = [](int, siginfo_t*, void* context) {
        memset(static_cast<char*>(context) + where, 0xff, 8);
      };
      sigaction(SIGUSR1, &action, nullptr);
      raise(SIGUSR1);
    });
  }
  ExpectAlive();
}

TEST(State, ForgedXsaveAreas) {
  for (const int offset : {0, 24, 28, 464, 468, 472, 476, 480, 512, 520, 528, 576}) {
    for (const uint32_t value : {0U, 1U, 0xffff'ffffU, 0x4650'5853U}) {
      Attack([=] {
        alarm(1);
        static int where;
        static uint32_t what;
        where = offset;
        what = value;
        struct sigaction action = {};
        action.sa_flags = SA_SIGINFO;
        action.sa_sigaction = [](int, siginfo_t*, void* context) {
          auto* area =
              reinterpret_cast<char*>(static_cast<ucontext_t*>(context)->uc_mcontext.fpregs);
          memcpy(area + where, &what, 4);
        };
        sigaction(SIGUSR1, &action, nullptr);
        raise(SIGUSR1);
      });
    }
  }
  ExpectAlive();
}

}  // namespace
}  // namespace skep::test
