// Guests that make themselves signal frames with which the engine cannot interrupt them: they
// return through the stub's own rt_sigreturn, with every signal blocked, into a loop that neither
// calls nor faults.
#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <csetjmp>
#include <cstring>

#include "tests/hostile/hostile.h"

namespace skep::test {
namespace {

// Where engines keep code of their own, above what the guest is given.
constexpr uint64_t kForeignStart = 0x7fff'f800'0000;
constexpr uint64_t kForeignSize = 64 << 10;
constexpr int kLongMs = 60'000;

sigjmp_buf g_jump;
void JumpBack(int) { siglongjmp(g_jump, 1); }

bool CanRead(uint64_t address) {
  if (sigsetjmp(g_jump, 1) != 0) return false;
  (void)*reinterpret_cast<volatile uint8_t*>(address);
  return true;
}

std::vector<uint64_t> SyscallInstructions() {
  const ScopedSignalHandler segv(SIGSEGV, JumpBack, SA_NODEFER);
  const ScopedSignalHandler bus(SIGBUS, JumpBack, SA_NODEFER);
  std::vector<uint64_t> found;
  for (uint64_t page = kForeignStart; page < kForeignStart + kForeignSize; page += kPageSize) {
    if (!CanRead(page)) continue;
    const auto* bytes = reinterpret_cast<const uint8_t*>(page);
    for (size_t i = 0; i + 1 < kPageSize; ++i) {
      if (bytes[i] == 0x0f && bytes[i + 1] == 0x05) found.push_back(page + i);
    }
  }
  return found;
}

// Linux: struct ucontext of x86-64, as rt_sigreturn reads it at the stack pointer.
struct Frame {
  uint64_t flags, link, stack[3];
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip;
  uint64_t rflags;
  uint16_t cs, gs, fs, ss;
  uint64_t error, trap, old_mask, cr2, fpstate, reserved[8], mask;
};

alignas(16) std::byte g_stack[4096];

void Loop(std::atomic<int>* looping) {
  ++*looping;
  for (;;) asm volatile("pause");
}

// Does not return: loops, or dies of the try.
[[noreturn]] void BecomeUnstoppable(uint64_t gate, std::atomic<int>* looping) {
  static Frame frame;
  frame = {};
  frame.flags = 6;     // UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
  frame.stack[1] = 2;  // SS_DISABLE
  frame.rdi = reinterpret_cast<uint64_t>(looping);
  frame.rsp = reinterpret_cast<uint64_t>(g_stack + sizeof(g_stack)) - 8;
  frame.rip = reinterpret_cast<uint64_t>(&Loop);
  frame.rflags = 0x202;
  frame.cs = 0x33;
  frame.ss = 0x2b;
  frame.mask = ~uint64_t{0};
  asm volatile("mov %0, %%rsp\n mov $15, %%eax\n jmp *%1" ::"r"(&frame), "r"(gate)
               : "rax", "memory");
  __builtin_unreachable();
}

class Unstoppable : public ::testing::Test {
 protected:
  void SetUp() override {
    gates_ = SyscallInstructions();
    ASSERT_FALSE(gates_.empty()) << "there is nothing to attack";
    looping_ = static_cast<std::atomic<int>*>(
        mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  }
  void TearDown() override { munmap(looping_, kPageSize); }

  // Whether a child that runs `body` loops; else it has died of the try.
  static bool LoopsOrDies(const ChildProcess& child, const std::atomic<int>& looping) {
    siginfo_t info = {};
    EXPECT_TRUE(WaitUntil(
        [&] {
          return looping != 0 || (waitid(P_PID, static_cast<id_t>(child.pid()), &info,
                                         WEXITED | WNOHANG | WNOWAIT) == 0 &&
                                  info.si_pid != 0);
        },
        kLongMs));
    return looping != 0;
  }

  std::vector<uint64_t> gates_;
  std::atomic<int>* looping_ = nullptr;
};

TEST_F(Unstoppable, IsEndedBySigkill) {
  int loops = 0;
  for (const uint64_t gate : gates_) {
    *looping_ = 0;
    ChildProcess child([&] { BecomeUnstoppable(gate, looping_); });
    if (LoopsOrDies(child, *looping_)) ++loops;
    child.Kill(SIGKILL);
    EXPECT_THAT(child.Wait(), KilledBy(SIGKILL)) << std::hex << gate;
  }
  EXPECT_GT(loops, 0) << "no gate led into the loop: nothing was attacked";
  ExpectAlive();
}

// A thread of it, while another one ends the process.
TEST_F(Unstoppable, IsEndedWithItsProcess) {
  int loops = 0;
  for (const uint64_t gate : gates_) {
    *looping_ = 0;
    struct Arguments {
      uint64_t gate;
      std::atomic<int>* looping;
    } arguments{gate, looping_};
    ChildProcess child([&] {
      pthread_t thread;
      pthread_create(
          &thread, nullptr,
          [](void* of) -> void* {
            const auto& a = *static_cast<Arguments*>(of);
            BecomeUnstoppable(a.gate, a.looping);
          },
          &arguments);
      while (*looping_ == 0) usleep(1000);
      _exit(7);
    });
    if (LoopsOrDies(child, *looping_)) ++loops;
    const int status = child.Wait();
    EXPECT_TRUE((WIFEXITED(status) && WEXITSTATUS(status) == 7) || WIFSIGNALED(status)) << status;
  }
  EXPECT_GT(loops, 0) << "no gate led into the loop: nothing was attacked";
  ExpectAlive();
}

// As a program, for limits_test.py: says when it loops.
const Helper kHelper("unstoppable", [](int, char**) {
  static std::atomic<int>* looping = static_cast<std::atomic<int>*>(
      mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  for (const uint64_t gate : SyscallInstructions()) {
    const pid_t child = fork();
    if (child == 0) BecomeUnstoppable(gate, looping);
    int status = 0;
    while (*looping == 0 && waitpid(child, &status, WNOHANG) == 0) usleep(1000);
    if (*looping == 0) continue;
    kill(child, SIGKILL);
    puts("looping");
    fflush(stdout);
    BecomeUnstoppable(gate, looping);
  }
  puts("nothing to attack");
  return 1;
});

}  // namespace
}  // namespace skep::test
