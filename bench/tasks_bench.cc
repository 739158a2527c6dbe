#include <benchmark/benchmark.h>
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <ctime>
#include <thread>
#include <vector>

#include "bench/host.h"

namespace skep::bench {
namespace {

// One byte to a child process and back.
void PipePingPong(benchmark::State& state) {
  int there[2], back[2];
  Must(pipe(there), "pipe");
  Must(pipe(back), "pipe");
  const pid_t child = Must(fork(), "fork");
  char byte = 0;
  if (child == 0) {
    close(there[1]);
    while (read(there[0], &byte, 1) == 1) Must(write(back[1], &byte, 1), "write");
    _exit(0);
  }
  close(there[0]);
  for (auto _ : state) {
    Must(write(there[1], &byte, 1), "write");
    Must(read(back[0], &byte, 1), "read");
  }
  close(there[1]);
  Must(waitpid(child, nullptr, 0), "waitpid");
  close(back[0]);
  close(back[1]);
}
BENCHMARK(PipePingPong)->UseRealTime();

void ForkExecWait(benchmark::State& state) {
  for (auto _ : state) {
    const pid_t child = Must(fork(), "fork");
    if (child == 0) {
      execl("/bin/true", "true", nullptr);
      _exit(1);
    }
    int status = 0;
    Must(waitpid(child, &status, 0), "waitpid");
    if (status != 0) state.SkipWithError("/bin/true failed");
  }
}
BENCHMARK(ForkExecWait)->UseRealTime();

void FutexWait(std::atomic<int>& word, int while_it_is) {
  while (word.load() == while_it_is) {
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, while_it_is, nullptr, nullptr, 0);
  }
}

void FutexSet(std::atomic<int>& word, int value) {
  word.store(value);
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

// Two threads hand a word back and forth: 0 is the measured thread's turn, 1 the other's.
void FutexPingPong(benchmark::State& state) {
  constexpr int kMine = 0, kOther = 1, kEnd = 2;
  std::atomic<int> turn{kMine};
  std::thread other([&turn] {
    for (;;) {
      FutexWait(turn, kMine);
      if (turn.load() == kEnd) return;
      FutexSet(turn, kMine);
    }
  });
  for (auto _ : state) {
    FutexSet(turn, kOther);
    FutexWait(turn, kOther);
  }
  FutexSet(turn, kEnd);
  other.join();
}
BENCHMARK(FutexPingPong)->UseRealTime();

// About 20 us of computing on the reference machine; the same instructions on every system.
void Compute() {
  uint64_t x = 88172645463325252;
  for (int i = 0; i < 12000; i++) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
  }
  benchmark::DoNotOptimize(x);
}

// Threads of one process that compute and make a system call in turn. items_per_second counts the
// turns of all threads.
void ComputingThreads(benchmark::State& state) {
  constexpr int kTurns = 1000;
  const auto count = static_cast<size_t>(state.range(0));
  for (auto _ : state) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < count; i++) {
      threads.emplace_back([] {
        for (int turn = 0; turn < kTurns; turn++) {
          Compute();
          benchmark::DoNotOptimize(syscall(SYS_getppid));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0) * kTurns);
}
BENCHMARK(ComputingThreads)->Arg(1)->Arg(2)->UseRealTime();

}  // namespace
}  // namespace skep::bench

BENCHMARK_MAIN();
