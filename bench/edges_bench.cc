// What programs ran into at the edges: calls that must stay cheap however large a process is, and
// how long others wait while somebody is busy.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kPage = 4096;

double Now() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

char* Map(size_t size, int flags = 0) {
  void* at =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (at == MAP_FAILED) std::abort();
  return static_cast<char*>(at);
}

void Check(bool works) {
  if (!works) std::abort();
}

void MadviseOfAPage(benchmark::State& state) {
  char* const memory = Map(kMiB);
  size_t at = 0;
  for (auto _ : state) {
    memory[at] = 1;
    Check(madvise(memory + at, kPage, MADV_DONTNEED) == 0);
    at = (at + kPage) % kMiB;
  }
  munmap(memory, kMiB);
}
BENCHMARK(MadviseOfAPage);

void Brk(benchmark::State& state) {
  const auto start = syscall(SYS_brk, 0);
  bool up = true;
  for (auto _ : state) {
    benchmark::DoNotOptimize(syscall(SYS_brk, up ? start + 0x20000 : start));
    up = !up;
  }
  syscall(SYS_brk, start);
}
BENCHMARK(Brk);

void Flock(benchmark::State& state) {
  const int fd = open("/tmp", O_RDONLY);
  bool lock = true;
  for (auto _ : state) {
    Check(flock(fd, lock ? LOCK_EX : LOCK_UN) == 0);
    lock = !lock;
  }
  close(fd);
}
BENCHMARK(Flock);

void MlockOf64MiB(benchmark::State& state) {
  char* const memory = Map(64 * kMiB, MAP_POPULATE);
  for (auto _ : state) {
    Check(mlock(memory, 64 * kMiB) == 0);
    Check(munlock(memory, 64 * kMiB) == 0);
  }
  munmap(memory, 64 * kMiB);
}
BENCHMARK(MlockOf64MiB)->UseRealTime();

void ProcSelfStatAt1GiB(benchmark::State& state) {
  char* const memory = Map(1024 * kMiB);
  for (size_t at = 0; at < 1024 * kMiB; at += kPage) memory[at] = 1;
  char text[1024];
  for (auto _ : state) {
    const int fd = open("/proc/self/stat", O_RDONLY);
    Check(read(fd, text, sizeof(text)) > 0);
    close(fd);
  }
  munmap(memory, 1024 * kMiB);
}
BENCHMARK(ProcSelfStatAt1GiB)->UseRealTime();

void PthreadCreateJoin(benchmark::State& state) {
  for (auto _ : state) {
    pthread_t thread;
    Check(pthread_create(&thread, nullptr, [](void*) -> void* { return nullptr; }, nullptr) == 0);
    Check(pthread_join(thread, nullptr) == 0);
  }
}
BENCHMARK(PthreadCreateJoin)->UseRealTime();

// Each child vforks the next.
void ChainOf50Vforks(benchmark::State& state) {
  for (auto _ : state) {
    volatile int depth = 0;
    for (;;) {
      const pid_t child = vfork();
      if (child == 0) {
        depth = depth + 1;
        if (depth < 50) continue;
        _exit(0);
      }
      Check(child > 0 && waitpid(child, nullptr, 0) == child);
      depth = depth - 1;
      if (depth > 0) _exit(0);
      break;
    }
  }
}
BENCHMARK(ChainOf50Vforks)->UseRealTime();

void ForkWith8000Mappings(benchmark::State& state) {
  constexpr size_t kMappings = 8000;
  char* const memory = Map(kMappings * 2 * kPage);
  for (size_t i = 0; i < kMappings; ++i) {
    memory[i * 2 * kPage] = 1;
    Check(mprotect(memory + i * 2 * kPage, kPage, PROT_READ) == 0);
  }
  for (auto _ : state) {
    const pid_t child = fork();
    if (child == 0) _exit(0);
    Check(child > 0 && waitpid(child, nullptr, 0) == child);
  }
  munmap(memory, kMappings * 2 * kPage);
}
BENCHMARK(ForkWith8000Mappings)->UseRealTime();

// All wait, with a timeout, for one condition.
void Wake1000Threads(benchmark::State& state) {
  for (auto _ : state) {
    std::mutex mutex;
    std::condition_variable go;
    bool gone = false;
    std::atomic<int> waiting{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 1000; ++i) {
      threads.emplace_back([&] {
        std::unique_lock lock(mutex);
        ++waiting;
        go.wait_for(lock, std::chrono::seconds(60), [&] { return gone; });
      });
    }
    while (waiting < 1000) usleep(1000);
    const double start = Now();
    {
      const std::lock_guard lock(mutex);
      gone = true;
    }
    go.notify_all();
    for (std::thread& thread : threads) thread.join();
    state.SetIterationTime(Now() - start);
  }
}
BENCHMARK(Wake1000Threads)->Iterations(1)->UseManualTime();

void KillIn2GiBWrite(benchmark::State& state) {
  for (auto _ : state) {
    const pid_t child = fork();
    if (child == 0) {
      const int fd = memfd_create("busy", 0);
      char* const memory = Map(2048 * kMiB - kPage);
      for (;;) Check(pwrite(fd, memory, 2048 * kMiB - kPage, 0) > 0);
    }
    usleep(300'000);
    const double start = Now();
    kill(child, SIGKILL);
    Check(waitpid(child, nullptr, 0) == child);
    state.SetIterationTime(Now() - start);
  }
}
BENCHMARK(KillIn2GiBWrite)->Iterations(1)->UseManualTime();

// How late a sleep of a millisecond ends beside two processes that write 64 MiB a call: the 99th of
// a hundred.
void SleepBesideTwoBusy(benchmark::State& state) {
  for (auto _ : state) {
    pid_t busy[2];
    for (pid_t& child : busy) {
      child = fork();
      if (child != 0) continue;
      const int fd = memfd_create("busy", 0);
      const std::vector<char> memory(64 * kMiB, 'x');
      for (;;) Check(pwrite(fd, memory.data(), memory.size(), 0) > 0);
    }
    usleep(300'000);
    std::vector<double> late;
    for (int i = 0; i < 300; ++i) {
      const double start = Now();
      usleep(1000);
      late.push_back(Now() - start - 0.001);
    }
    for (const pid_t child : busy) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
    std::sort(late.begin(), late.end());
    state.SetIterationTime(std::max(late[late.size() * 99 / 100], 1e-9));
  }
}
BENCHMARK(SleepBesideTwoBusy)->Iterations(1)->UseManualTime();

}  // namespace

BENCHMARK_MAIN();
