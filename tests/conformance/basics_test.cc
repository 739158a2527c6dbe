// What a static program does before and around main: the first calls a kernel must serve.
#include <asm/prctl.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#include <set>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

TEST(Write, GoesToAPipeAndBack) {
  const Pipe pipe = MakePipe();
  EXPECT_THAT(write(pipe.writer, "hello", 5), SucceedsWith(5));
  char buffer[8] = {};
  EXPECT_THAT(read(pipe.reader, buffer, sizeof(buffer)), SucceedsWith(5));
  EXPECT_STREQ(buffer, "hello");
}

TEST(Write, ToAClosedDescriptorFails) {
  EXPECT_THAT(write(-1, "x", 1), FailsWith(EBADF));
  EXPECT_THAT(write(1'000'000, "x", 1), FailsWith(EBADF));
}

TEST(Write, OfABadBufferFails) {
  const Pipe pipe = MakePipe();
  EXPECT_THAT(write(pipe.writer, kBadAddress, 1), FailsWith(EFAULT));
}

TEST(Syscall, UnknownNumbersAnswerEnosys) {
  EXPECT_THAT(syscall(400), FailsWith(ENOSYS));
  EXPECT_THAT(syscall(999), FailsWith(ENOSYS));
  EXPECT_THAT(syscall(-1), FailsWith(ENOSYS));
  EXPECT_THAT(syscall(0x7fffffff), FailsWith(ENOSYS));
}

TEST(Syscall, KeepsAllRegistersButRaxRcxR11) {
  uint64_t sum = 0;
  asm volatile(
      "push %%rbp\n"
      "mov $11, %%rbx\n mov $12, %%r12\n mov $13, %%r13\n mov $14, %%r14\n mov $15, %%r15\n"
      "mov $16, %%rbp\n mov $1, %%rdi\n mov $2, %%rsi\n mov $3, %%rdx\n mov $4, %%r10\n"
      "mov $5, %%r8\n mov $6, %%r9\n mov $39, %%eax\n"
      "syscall\n"
      "mov %%rbx, %%rax\n add %%r12, %%rax\n add %%r13, %%rax\n add %%r14, %%rax\n"
      "add %%r15, %%rax\n add %%rbp, %%rax\n add %%rdi, %%rax\n add %%rsi, %%rax\n"
      "add %%rdx, %%rax\n add %%r10, %%rax\n add %%r8, %%rax\n add %%r9, %%rax\n"
      "pop %%rbp\n"
      : "=a"(sum)
      :
      : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
        "memory", "cc");
  EXPECT_EQ(sum, 11u + 12 + 13 + 14 + 15 + 16 + 1 + 2 + 3 + 4 + 5 + 6);
}

TEST(Syscall, LeavesRipInRcxAndFlagsInR11) {
  uint64_t rcx = 0;
  uint64_t after = 0;
  asm volatile("mov $39, %%eax\n syscall\n 1: lea 1b(%%rip), %%rax\n"
               : "=a"(after), "=c"(rcx)
               :
               : "r11", "memory");
  EXPECT_EQ(rcx, after);
}

TEST(Syscall, KeepsTheRedZoneAndVectorRegisters) {
  uint64_t out[2] = {};
  const uint64_t in[2] = {0x1122334455667788, 0x99aabbccddeeff00};
  uint64_t red = 0;
  asm volatile(
      "movdqu %2, %%xmm7\n"
      "movq $77, -64(%%rsp)\n"
      "mov $39, %%eax\n syscall\n"
      "mov -64(%%rsp), %1\n"
      "movdqu %%xmm7, %0\n"
      : "=m"(out), "=&r"(red)
      : "m"(in)
      : "rax", "rcx", "r11", "xmm7", "memory");
  EXPECT_EQ(out[0], in[0]);
  EXPECT_EQ(out[1], in[1]);
  EXPECT_EQ(red, 77u);
}

TEST(Brk, ZeroAnswersTheCurrentBreak) {
  const auto current = syscall(SYS_brk, 0);
  EXPECT_GT(current, 0);
  EXPECT_EQ(syscall(SYS_brk, 0), current);
  EXPECT_EQ(reinterpret_cast<long>(sbrk(0)), current);
}

TEST(Brk, GrowsWithZeroedPagesAndShrinks) {
  EXPECT_THAT(ForkAndRun([] {
                const auto old = syscall(SYS_brk, 0);
                const auto grown = old + 16 * static_cast<long>(kPageSize);
                EXPECT_EQ(syscall(SYS_brk, grown), grown);
                auto* memory = reinterpret_cast<char*>(old);
                EXPECT_EQ(memory[3 * kPageSize], 0);
                memory[3 * kPageSize] = 'x';
                EXPECT_EQ(syscall(SYS_brk, old), old);
                EXPECT_EQ(syscall(SYS_brk, grown), grown);
                EXPECT_EQ(memory[3 * kPageSize], 0) << "pages given back come back zeroed";
              }),
              ExitsWith(0));
}

TEST(Brk, AnImpossibleBreakAnswersTheOldOne) {
  const auto current = syscall(SYS_brk, 0);
  EXPECT_EQ(syscall(SYS_brk, 16), current);
  EXPECT_EQ(syscall(SYS_brk, 0x7fff'ffff'f000), current);
}

TEST(ArchPrctl, ReadsTheThreadPointer) {
  uint64_t fs = 0;
  ASSERT_THAT(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs), Succeeds());
  uint64_t self = 0;
  asm("mov %%fs:0, %0" : "=r"(self));
  EXPECT_EQ(fs, self);
}

TEST(ArchPrctl, SetsAndReadsGs) {
  uint64_t target = 0xfeedface;
  ASSERT_THAT(syscall(SYS_arch_prctl, ARCH_SET_GS, &target), Succeeds());
  uint64_t gs = 0;
  EXPECT_THAT(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs), Succeeds());
  EXPECT_EQ(gs, reinterpret_cast<uint64_t>(&target));
  uint64_t loaded = 0;
  asm volatile("mov %%gs:0, %0" : "=r"(loaded));
  EXPECT_EQ(loaded, target);
  EXPECT_THAT(syscall(SYS_arch_prctl, ARCH_SET_GS, 0), Succeeds());
}

TEST(ArchPrctl, RejectsBadRequests) {
  EXPECT_THAT(syscall(SYS_arch_prctl, 0x9999, 0), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_arch_prctl, ARCH_GET_FS, kBadAddress), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x8000'0000'0000), FailsWith(EPERM));
}

TEST(Identity, PidsAreConsistent) {
  EXPECT_EQ(getpid(), GetTid());
  EXPECT_GT(getpid(), 0);
  EXPECT_GE(getppid(), 0);
  EXPECT_EQ(syscall(SYS_getpid), getpid());
}

TEST(SetTidAddress, AnswersTheThreadId) {
  EXPECT_THAT(ForkAndRun([] {
                static int word;
                EXPECT_EQ(syscall(SYS_set_tid_address, &word), getpid());
                EXPECT_EQ(syscall(SYS_set_tid_address, kBadAddress), getpid());
              }),
              ExitsWith(0));
}

TEST(Uname, NamesLinuxOnX86) {
  utsname name = {};
  ASSERT_THAT(uname(&name), Succeeds());
  EXPECT_STREQ(name.sysname, "Linux");
  EXPECT_STREQ(name.machine, "x86_64");
  EXPECT_GE(atoi(name.release), 4);
  EXPECT_THAT(syscall(SYS_uname, kBadAddress), FailsWith(EFAULT));
}

TEST(Sysinfo, IsSane) {
  struct sysinfo info = {};
  ASSERT_THAT(sysinfo(&info), Succeeds());
  EXPECT_GE(info.uptime, 0);
  EXPECT_GT(info.totalram, 0u);
  EXPECT_LE(info.freeram, info.totalram);
  EXPECT_GT(info.mem_unit, 0u);
  EXPECT_GT(info.procs, 0u);
  EXPECT_THAT(syscall(SYS_sysinfo, kBadAddress), FailsWith(EFAULT));
}

TEST(Getrandom, FillsAndChecksItsFlags) {
  uint64_t a = 0;
  uint64_t b = 0;
  EXPECT_THAT(getrandom(&a, sizeof(a), 0), SucceedsWith(8));
  EXPECT_THAT(getrandom(&b, sizeof(b), GRND_NONBLOCK | GRND_RANDOM), SucceedsWith(8));
  EXPECT_NE(a, b);
  EXPECT_THAT(getrandom(&a, 0, 0), SucceedsWith(0));
  EXPECT_THAT(getrandom(&a, sizeof(a), 0x100), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_getrandom, kBadAddress, 8, 0), FailsWith(EFAULT));
}

TEST(Getrandom, InsecureAndRandomExcludeEachOther) {
  char byte;
  EXPECT_THAT(syscall(SYS_getrandom, &byte, 1, GRND_RANDOM | 4 /* GRND_INSECURE */),
              FailsWith(EINVAL));
}

TEST(Auxv, HasWhatLibcNeeds) {
  EXPECT_EQ(getauxval(AT_PAGESZ), kPageSize);
  EXPECT_EQ(getauxval(AT_CLKTCK), 100u);
  EXPECT_EQ(getauxval(AT_UID), getuid());
  EXPECT_EQ(getauxval(AT_EGID), getegid());
  EXPECT_EQ(getauxval(AT_SECURE), 0u);
  EXPECT_NE(getauxval(AT_PHDR), 0u);
  EXPECT_EQ(getauxval(AT_PHENT), sizeof(Elf64_Phdr));
  EXPECT_NE(getauxval(AT_ENTRY), 0u);
  EXPECT_NE(getauxval(AT_RANDOM), 0u);
  ASSERT_NE(getauxval(AT_PLATFORM), 0u);
  EXPECT_STREQ(reinterpret_cast<const char*>(getauxval(AT_PLATFORM)), "x86_64");
}

TEST(Auxv, ExecFnIsThePathThatWasExecuted) {
  ASSERT_NE(getauxval(AT_EXECFN), 0u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(getauxval(AT_EXECFN))).back(),
            TestBinary().back());
}

TEST(Sched, YieldAndAffinityWork) {
  EXPECT_THAT(sched_yield(), Succeeds());
  cpu_set_t set;
  CPU_ZERO(&set);
  ASSERT_THAT(sched_getaffinity(0, sizeof(set), &set), Succeeds());
  EXPECT_GT(CPU_COUNT(&set), 0);
  unsigned cpu = ~0u;
  EXPECT_THAT(syscall(SYS_getcpu, &cpu, nullptr, nullptr), Succeeds());
  EXPECT_LT(cpu, 4096u);
}

TEST(Sched, GetaffinityChecksItsSize) {
  uint64_t words[128] = {};
  EXPECT_THAT(syscall(SYS_sched_getaffinity, 0, 7, words), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_sched_getaffinity, 0, 0, words), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_sched_getaffinity, 0x7ffffff, sizeof(words), words), FailsWith(ESRCH));
}

// The structure grows: its first version has 48 bytes, Linux 6.6's 56; what the caller has beyond
// that is cleared, and `size` says how much of it means something.
TEST(Sched, GetattrFillsWhatTheCallerHasRoomFor) {
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint8_t rest[96];
  } attr;
  for (const uint32_t size : {48U, 56U, 64U}) {
    memset(&attr, 0xee, sizeof(attr));
    ASSERT_THAT(syscall(SYS_sched_getattr, 0, &attr, size, 0), SucceedsWith(0));
    EXPECT_EQ(attr.size, std::min(size, 56U));
    EXPECT_EQ(attr.policy, static_cast<uint32_t>(SCHED_OTHER));
    EXPECT_EQ(attr.nice, getpriority(PRIO_PROCESS, 0));
    EXPECT_EQ(attr.priority, 0U);
    const auto* bytes = reinterpret_cast<const uint8_t*>(&attr);
    for (uint32_t i = 56; i < size; ++i) EXPECT_EQ(bytes[i], 0) << i;
    for (uint32_t i = size; i < sizeof(attr); ++i) EXPECT_EQ(bytes[i], 0xee) << i;
  }
}

TEST(Sched, GetattrChecksItsArguments) {
  const Mapping memory(2 * kPageSize);
  EXPECT_THAT(syscall(SYS_sched_getattr, 0, nullptr, 56, 0), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_sched_getattr, -1, memory.data(), 56, 0), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_sched_getattr, 0, memory.data(), 47, 0), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_sched_getattr, 0, memory.data(), 4096, 0), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_sched_getattr, 0, memory.data(), 4097, 0), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_sched_getattr, 0, memory.data(), 56, 1), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_sched_getattr, 0x7ffffff, memory.data(), 56, 0), FailsWith(ESRCH));
  EXPECT_THAT(syscall(SYS_sched_getattr, 0x7ffffff, kBadAddress, 56, 0), FailsWith(ESRCH));
  EXPECT_THAT(syscall(SYS_sched_getattr, 0, kBadAddress, 56, 0), FailsWith(EFAULT));
}

}  // namespace
}  // namespace skep::test
