// Every row of the system call table with bad pointers in every argument position.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

#include <array>
#include <atomic>
#include <set>

#include "tests/hostile/hostile.h"

namespace skep::test {
namespace {

struct Row {
  long number;
  const char* name;
};
constexpr Row kRows[] = {
#include "tests/hostile/syscall_rows.inc"
};
constexpr size_t kSlice = 20;
// Calls without a pointer whose success would end or silence the test itself, not the sandbox.
const std::set<long> kSkipped = {SYS_exit, SYS_exit_group, SYS_kill, SYS_reboot, SYS_rt_sigreturn};

struct Progress {
  std::atomic<int> next;           // the attempt to begin with
  std::atomic<int> leaked_errno;   // an errno that user space must never see
  std::atomic<int> bad_result_at;  // attempt + 1
};

class Attempts {
 public:
  explicit Attempts(long number) : number_(number) {
    bad_ = {0,
            0x18,
            reinterpret_cast<uint64_t>(edge_.page(1)) - 3,  // runs into a hole
            read_only_.address(),
            0x7fff'ffff'f000,
            0x8000'0000'0000'0000,
            0xffff'ffff'ff60'0000,
            ~0ULL};
    munmap(edge_.page(1), kPageSize);
    munmap(good_.page(16), kPageSize);  // or getrandom of 4 KiB and more fills all that follows
  }
  int count() const { return static_cast<int>(6 * bad_.size() * kFillings); }

  // One call; returns what it returned.
  long Make(int index) const {
    const size_t filling = static_cast<size_t>(index) % kFillings;
    const size_t bad = static_cast<size_t>(index) / kFillings % bad_.size();
    const size_t position = static_cast<size_t>(index) / kFillings / bad_.size();
    const uint64_t buffer = good_.address();
    // A descriptor; as a process id it is that of the first attacker, not the test's or its
    // shell's.
    const std::array<uint64_t, kFillings> fillings = {0, 3, kPageSize, buffer};
    std::array<uint64_t, 6> args;
    args.fill(fillings[filling]);
    args[position] = bad_[bad];
    return syscall(number_, args[0], args[1], args[2], args[3], args[4], args[5]);
  }

 private:
  static constexpr size_t kFillings = 4;
  long number_;
  Mapping good_{17 * kPageSize};
  Mapping edge_{2 * kPageSize};
  Mapping read_only_{kPageSize, PROT_READ};
  std::array<uint64_t, 8> bad_;
};

// ERESTARTSYS and its like are between the kernel's parts: no program may see them.
void Judge(Progress& progress, int attempt, long result, int error) {
  if (result != -1 || error < 512 || error > 530) return;
  progress.leaked_errno = error;
  progress.bad_result_at = attempt + 1;
}

void Attacker(long number, Progress* progress) {
  const Attempts attempts(number);
  const pid_t self = getpid();
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigaction(SIGALRM, &action, nullptr);
  const itimerval beat = {{0, 2'000}, {0, 2'000}};
  for (int i = progress->next; i < attempts.count(); ++i) {
    progress->next = i + 1;
    setitimer(ITIMER_REAL, &beat, nullptr);  // blocking calls end with EINTR
    errno = 0;
    const long result = attempts.Make(i);
    const int error = errno;
    if (getpid() != self) _exit(0);  // it was a fork
    Judge(*progress, i, result, error);
  }
}

void AttackWith(long number) {
  const Mapping shared(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  auto* progress = shared.as<Progress>();
  const int total = 6 * 8 * 4;
  for (int round = 0; progress->next < total && round < total; ++round) {
    const int before = progress->next;
    ChildProcess child([&] {
      setsid();
      const Pipe pipe = MakePipe(O_NONBLOCK);  // not a file: its mode and owner would be changed
      for (const int fd : {0, 1, 2, 3}) dup2(fd == 0 ? pipe.reader : pipe.writer, fd);
      Attacker(number, progress);
      _exit(0);
    });
    int64_t deadline = NowNs() + 3'000'000'000;
    int seen = before;
    int status = 0;
    while (waitpid(child.pid(), &status, WNOHANG | __WALL) != child.pid()) {
      if (progress->next != seen) {
        seen = progress->next;
        deadline = NowNs() + 3'000'000'000;
      }
      if (NowNs() > deadline) break;  // it blocked its alarm away: it is killed below
      const timespec pause = {0, 200'000};
      nanosleep(&pause, nullptr);
    }
  }
  while (waitpid(-1, nullptr, WNOHANG | __WALL) > 0) {
  }
  EXPECT_EQ(progress->next, total) << "syscall " << number << " was not tried out";
  EXPECT_EQ(progress->leaked_errno, 0)
      << "syscall " << number << " attempt " << progress->bad_result_at - 1;
}

// In slices, so that a failure names few calls and no test runs long.
class BadPointers : public testing::TestWithParam<size_t> {};

TEST_P(BadPointers, HurtNobodyElse) {
  for (size_t i = GetParam(); i < GetParam() + kSlice && i < std::size(kRows); ++i) {
    if (kSkipped.count(kRows[i].number) != 0) continue;
    SCOPED_TRACE(kRows[i].name);
    AttackWith(kRows[i].number);
  }
  ExpectAlive();
}

// The table came from the binary, whole.
TEST(BadPointersCanary, HaveTheTableToWorkOn) { EXPECT_GT(std::size(kRows), 360U); }

TEST(BadPointersCanary, AnErrnoOfTheKernelsIsSeen) {
  Progress progress{};
  for (const int error : {512, 513, 514, 516}) {
    progress.leaked_errno = 0;
    Judge(progress, 6, -1, error);
    EXPECT_EQ(progress.leaked_errno, error);
    EXPECT_EQ(progress.bad_result_at, 7);
  }
  progress.leaked_errno = 0;
  Judge(progress, 6, -1, EFAULT);
  EXPECT_EQ(progress.leaked_errno, 0);
}

INSTANTIATE_TEST_SUITE_P(From, BadPointers, testing::Range(size_t{0}, std::size(kRows), kSlice));

TEST(UnknownNumbers, AnswerEnosys) {
  for (const long number : {500L, 511L, 512L, 547L, 1'000L, 0x3fff'ffffL, 0x7fff'ffffL,
                            0x4000'0000L | SYS_getpid, -1L, INT64_MAX, 0x1'0000'0000L | 999}) {
    EXPECT_THAT(syscall(number, 1, 2, 3, 4, 5, 6), FailsWith(ENOSYS)) << number;
  }
  ExpectAlive();
}

TEST(WideNumbers, OnlyTheLowHalfCounts) {
  EXPECT_THAT(syscall(0x1'0000'0000L | SYS_getpid), SucceedsWith(getpid()));
}

}  // namespace
}  // namespace skep::test
