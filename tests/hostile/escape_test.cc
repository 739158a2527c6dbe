// Attacks on the pages that engines keep above the guest's addresses.
#include <array>

#include "platform/stub/notify_stub.h"
#include "tests/hostile/judge.h"

namespace skep::test {
namespace {

bool IsAlternateStack(uint64_t page) {
  return page >= platform::kNotifyStacks && page < platform::kNotifyStacksEnd;
}

std::string Maps() { return ReadFile("/proc/self/maps"); }

// The targets, looked for once; how many there are is in the test's log and XML.
const std::vector<uint64_t>& ForeignPages() {
  static const std::vector<uint64_t> pages = PagesOutside(Maps(), kGuestEnd, kHighEnd);
  testing::Test::RecordProperty("foreign_pages", static_cast<int>(pages.size()));
  printf("note: %zu readable pages that the guest did not map\n", pages.size());
  return pages;
}

TEST(Escape, SyscallInstructionsInForeignPages) {
  const std::vector<uint64_t> gates = SyscallInstructions(ForeignPages());
  printf("note: %zu syscall instructions in them\n", gates.size());
  ASSERT_FALSE(gates.empty()) << "nothing to attack";
  for (const uint64_t gate : gates) {
    for (const long number : CallJudge::kCalls) {
      EXPECT_THAT(Attack([=] {
                    const CatchFaults faults;
                    const CallJudge judge(number);
                    judge.Judge(JumpWith(gate, number, judge.args),
                                "a foreign syscall instruction");
                  }),
                  NoEscape())
          << std::hex << gate << " call " << std::dec << number;
    }
  }
  ExpectAlive();
}

TEST(Escape, JumpsIntoTheMiddleOfForeignPages) {
  const std::vector<uint64_t> pages = ForeignPages();
  ASSERT_FALSE(pages.empty()) << "nothing to attack";
  int jumps = 0;
  for (const uint64_t page : pages) {
    for (uint64_t offset = 0; offset < kPageSize && jumps < 300; offset += 61, ++jumps) {
      EXPECT_THAT(Attack([=] {
                    alarm(1);
                    const CatchFaults faults;
                    const CallJudge judge(SYS_getpid);
                    judge.Judge(JumpWith(page + offset, SYS_getpid, {}), "a jump");
                  }),
                  NoEscape())
          << std::hex << page + offset;
    }
  }
  ExpectAlive();
}

// Into the loop that makes a stub's calls, at every byte of its start, with its registers pointing
// to a list of calls that the guest wrote.
TEST(Escape, ForgedBatchesForTheLoopOfTheStub) {
  const std::vector<uint64_t> gates = SyscallInstructions(ForeignPages());
  ASSERT_FALSE(gates.empty()) << "nothing to attack";
  std::array<uint64_t, 64> forged;  // wherever it reads, the number is getpid's
  forged.fill(SYS_getpid);
  for (const uint64_t gate : gates) {
    for (uint64_t back = 0; back < 64; ++back) {
      EXPECT_THAT(Attack([&] {
                    alarm(1);
                    const CatchFaults faults;
                    const CallJudge judge(SYS_getpid);
                    judge.Judge(JumpWith(gate - back, SYS_getpid, {}, forged.data(), 1),
                                "a forged batch");
                  }),
                  NoEscape())
          << std::hex << gate - back;
    }
  }
  ExpectAlive();
}

// As if nothing were mapped there: what Linux answers for addresses beyond its end. Only the
// alternate stacks of a stub's own threads can be written (notify_stub.h); what is in them is the
// guest's.
TEST(Escape, ForeignPagesCannotBeWrittenOrUnmapped) {
  const std::vector<uint64_t> pages = ForeignPages();
  ASSERT_FALSE(pages.empty()) << "nothing to attack";
  constexpr int kAll = PROT_READ | PROT_WRITE | PROT_EXEC;
  constexpr int kFixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  for (const uint64_t page : pages) {
    auto* address = reinterpret_cast<char*>(page);
    if (!IsAlternateStack(page)) {
      EXPECT_THAT(Attack([=] { *static_cast<volatile char*>(address) = 1; }), KilledBy(SIGSEGV))
          << std::hex << page;
    }
    EXPECT_THAT(Attack([=] {
                  char before[64];
                  memcpy(before, address, sizeof(before));
                  EXPECT_THAT(munmap(address, kPageSize), FailsWith(EINVAL));
                  EXPECT_THAT(mprotect(address, kPageSize, kAll), FailsWith(ENOMEM));
                  EXPECT_THAT(mmap(address, kPageSize, kAll, kFixed, -1, 0), FailsWith(ENOMEM));
                  EXPECT_THAT(mmap(address, kPageSize, kAll, kFixed | MAP_FIXED_NOREPLACE, -1, 0),
                              FailsWith(ENOMEM));
                  EXPECT_THAT(mremap(address, kPageSize, 2 * kPageSize, MREMAP_MAYMOVE),
                              FailsWith(EFAULT));
                  EXPECT_THAT(madvise(address, kPageSize, MADV_DONTNEED), FailsWith(ENOMEM));
                  EXPECT_EQ(memcmp(before, address, sizeof(before)), 0) << "the page changed";
                }),
                ExitsWith(0))
        << std::hex << page;
  }
  ExpectAlive();
}

// Rubbish in all that can be written, while faults and signals use it: it harms the attacker alone.
TEST(Escape, ScribblingOverAlternateStacks) {
  const std::vector<uint64_t> pages = ForeignPages();
  ASSERT_FALSE(pages.empty()) << "nothing to attack";
  for (const int filling : {0x00, 0xff, 0x41}) {
    EXPECT_THAT(Attack([&] {
                  alarm(1);
                  const CatchFaults faults;
                  for (int round = 0; round < 50; ++round) {
                    for (const uint64_t page : pages) {
                      if (!IsAlternateStack(page)) continue;
                      memset(reinterpret_cast<char*>(page), filling, kPageSize);
                    }
                    EXPECT_FALSE(CanRead(0));
                    JudgeOwnState("a scribbled stack");
                  }
                }),
                NoEscape());
  }
  ExpectAlive();
}

// System calls given such an address: to the guest's kernel there is nothing.
TEST(Escape, ForeignPagesAreNoBuffers) {
  const std::vector<uint64_t> pages = ForeignPages();
  ASSERT_FALSE(pages.empty()) << "nothing to attack";
  const Pipe pipe = MakePipe(O_NONBLOCK);
  for (const uint64_t page : pages) {
    auto* address = reinterpret_cast<void*>(page);
    EXPECT_THAT(write(pipe.writer, address, 16), FailsWith(EFAULT));
    EXPECT_THAT(syscall(SYS_getrandom, address, 16, 0), FailsWith(EFAULT));
    ASSERT_THAT(write(pipe.writer, "x", 1), SucceedsWith(1));
    EXPECT_THAT(read(pipe.reader, address, 1), FailsWith(EFAULT));
    char byte;
    ASSERT_THAT(read(pipe.reader, &byte, 1), SucceedsWith(1));
  }
  ExpectAlive();
}

TEST(Escape, UnmappingEverythingHurtsOnlyOneself) {
  constexpr int kFixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  constexpr size_t kBelow = 256 << 20;
  auto* const high = reinterpret_cast<void*>(kGuestEnd - kBelow);
  constexpr size_t kToEnd = kHighEnd - kGuestEnd + kBelow;
  EXPECT_THAT(Attack([] { munmap(nullptr, kGuestEnd); }), KilledBy(SIGSEGV));
  EXPECT_THAT(Attack([] {
                char here = 0;
                auto* stack =
                    reinterpret_cast<char*>(reinterpret_cast<uint64_t>(&here) & ~0xfffULL);
                munmap(stack - 16 * kPageSize, 32 * kPageSize);
              }),
              KilledBy(SIGSEGV));
  EXPECT_THAT(Attack([=] {
                EXPECT_THAT(munmap(nullptr, kHighEnd), FailsWith(EINVAL));
                EXPECT_THAT(munmap(high, kToEnd), FailsWith(EINVAL));
                EXPECT_THAT(mmap(high, kToEnd, PROT_NONE, kFixed, -1, 0), FailsWith(ENOMEM));
                EXPECT_THAT(mprotect(high, kToEnd, PROT_NONE), FailsWith(ENOMEM));
              }),
              ExitsWith(0));
  ExpectAlive();
}

// --- canaries: each judge and search of this file fires when there is something
// ---------------------

TEST(EscapeCanary, PagesOutsideFindsAPageThatMapsDoNotHave) {
  const Mapping memory(64 * kPageSize);
  const auto start = reinterpret_cast<uint64_t>(memory.data());
  munmap(memory.page(0), 63 * kPageSize);
  const std::vector<uint64_t> pages = PagesOutside("", start, start + 64 * kPageSize);
  ASSERT_EQ(pages.size(), 1U);
  EXPECT_EQ(pages[0], start + 63 * kPageSize);
  EXPECT_TRUE(PagesOutside(Maps(), start, start + 64 * kPageSize).empty());
}

// A page of the guest's own with `syscall; ret`: found, and what is called through it is done.
TEST(EscapeCanary, JumpsReallyMakeTheCall) {
  const Mapping page(kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC);
  const unsigned char code[] = {0x90, 0x0f, 0x05, 0xc3};
  memcpy(page.data(), code, sizeof(code));
  const auto start = reinterpret_cast<uint64_t>(page.data());
  const std::vector<uint64_t> gates = SyscallInstructions({start});
  ASSERT_EQ(gates, std::vector<uint64_t>{start + 1});
  for (const long number : CallJudge::kCalls) {
    EXPECT_THAT(Attack([&] {
                  const CatchFaults faults;
                  const CallJudge judge(number);
                  const std::optional<uint64_t> result = JumpWith(gates[0], number, judge.args);
                  judge.Judge(result, "an own page");
                  ASSERT_TRUE(result.has_value()) << "the call was not made";
                  EXPECT_GE(static_cast<int64_t>(*result), 0) << "call " << number;
                }),
                ExitsWith(0));
  }
}

TEST(EscapeCanary, JudgesOfCallsFire) {
  const struct {
    long number;
    int64_t result;
  } answers[] = {{SYS_getpid, getpid() + 100'000},
                 {SYS_getppid, getppid() + 100'000},
                 {SYS_openat, 700},
                 {SYS_memfd_create, 2},
                 {SYS_socket, 700},
                 {SYS_fork, getppid()},
                 {SYS_mmap, int64_t{kGuestEnd}},
                 {SYS_kill, 0}};
  static_assert(std::size(answers) == std::size(CallJudge::kCalls));
  for (const auto& answer : answers) {
    EXPECT_THAT(Attack([&] {
                  const CallJudge judge(answer.number);
                  judge.Judge(static_cast<uint64_t>(answer.result), "the canary");
                }),
                IsEscape())
        << answer.number;
  }
}

TEST(EscapeCanary, WritingAndUnmappingOnesOwnPagesIsSeen) {
  const Mapping page(2 * kPageSize);
  EXPECT_THAT(Attack([&] { *page.page(1) = 1; }), testing::Not(KilledBy(SIGSEGV)));
  EXPECT_THAT(Attack([&] { EXPECT_THAT(munmap(page.page(1), kPageSize), FailsWith(EINVAL)); }),
              testing::Not(ExitsWith(0)));
  EXPECT_THAT(Attack([] { _exit(kEscapedStatus); }), testing::Not(NoEscape()));
  EXPECT_THAT(Attack([] { EXPECT_TRUE(false) << "the canary's"; }), testing::Not(NoEscape()));
}

}  // namespace
}  // namespace skep::test
