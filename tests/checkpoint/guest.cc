// What the proof of the arena (docs/design/arena.md) runs: processes and threads in the states that
// a checkpoint must bring over, each of which says at its end whether all was as without one.
//
//   compute  a process with live AVX registers, that makes no call for a long time
//   reader   a process that sleeps in read(2) of a pipe
//   sleeper  one in nanosleep
//   waiter   a thread in futex wait
//   forker   forks children all the time, each of which changes memory it shares copy-on-write
//   file     keeps a file of the host's open and mapped
//
// Prints one line, "right", or what was not.
#include <fcntl.h>
#include <immintrin.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace {

constexpr int kRunMs = 500;  // what the slowest part takes at least

uint64_t NowNs() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

[[noreturn]] void Wrong(const char* what, long value = 0) {
  char line[160];
  const int n = snprintf(line, sizeof line, "wrong: %s (%ld, errno %d)\n", what, value, errno);
  (void)!write(1, line, static_cast<size_t>(n));
  _exit(1);
}

// Eight vector registers that live through the whole loop, each a sequence of its own.
__attribute__((target("avx2"), noinline)) uint64_t Compute(uint64_t rounds) {
  __m256i v[8];
  for (int i = 0; i < 8; ++i) v[i] = _mm256_set1_epi64x(0x9e3779b97f4a7c15LL * (i + 1));
  const __m256i step = _mm256_set_epi64x(3, 5, 7, 11);
  for (uint64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < 8; ++i) {
      v[i] = _mm256_xor_si256(_mm256_add_epi64(v[i], step), _mm256_srli_epi64(v[i], 7));
      asm volatile("" : "+x"(v[i]));
    }
  }
  alignas(32) uint64_t words[4];
  uint64_t sum = 0;
  for (int i = 0; i < 8; ++i) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(words), v[i]);
    for (const uint64_t w : words) sum = sum * 31 + w;
  }
  return sum;
}

int ComputeProcess() {
  if (!__builtin_cpu_supports("avx2")) return 0;
  constexpr uint64_t kRounds = 2'000'000;
  const uint64_t first = Compute(kRounds);
  for (const uint64_t start = NowNs(); NowNs() - start < kRunMs * 1'000'000ULL;) {
    if (Compute(kRounds) != first) Wrong("vector registers");
  }
  return 0;
}

int ReaderProcess(int from) {
  for (int expected = 0;; ++expected) {
    int got = -1;
    const ssize_t n = read(from, &got, sizeof got);
    if (n == 0) return expected == 5 ? 0 : 1;
    if (n != sizeof got || got != expected) Wrong("pipe", got);
  }
}

int SleeperProcess() {
  const uint64_t start = NowNs();
  const timespec pause = {0, kRunMs * 1'000'000L};
  if (nanosleep(&pause, nullptr) != 0) Wrong("nanosleep was cut short");
  const uint64_t slept = NowNs() - start;
  if (slept < kRunMs * 1'000'000ULL) Wrong("nanosleep", static_cast<long>(slept));
  return 0;
}

std::atomic<uint32_t> word{0};

void* Waiter(void*) {
  const timespec limit = {20, 0};
  while (word.load() == 0) {
    const long rc = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &limit, nullptr, 0);
    if (rc != 0 && errno != EAGAIN) Wrong("futex wait");
  }
  return reinterpret_cast<void*>(uintptr_t{word.load()});
}

int ForkerProcess() {
  static uint64_t shared[4096];
  for (size_t i = 0; i < 4096; ++i) shared[i] = i;
  const uint64_t start = NowNs();
  for (uint64_t n = 1; NowNs() - start < kRunMs * 1'000'000ULL; ++n) {
    const pid_t child = fork();
    if (child < 0) Wrong("fork");
    if (child == 0) {
      for (size_t i = 0; i < 4096; i += 512) shared[i] += n;
      for (size_t i = 0; i < 4096; ++i) {
        if (shared[i] != i + (i % 512 == 0 ? n : 0)) _exit(99);
      }
      _exit(static_cast<int>(n % 64));
    }
    int status = -1;
    if (waitpid(child, &status, 0) != child) Wrong("waitpid");
    if (status != static_cast<int>(n % 64) << 8) Wrong("forked child", status);
    if (shared[512] != 512) Wrong("the parent's copy", static_cast<long>(shared[512]));
  }
  return 0;
}

int FileProcess(const char* self) {
  const int fd = open(self, O_RDONLY);
  if (fd < 0) Wrong("open");
  const auto* map = static_cast<const char*>(mmap(nullptr, 65536, PROT_READ, MAP_SHARED, fd, 0));
  if (map == MAP_FAILED) Wrong("mmap");
  char block[4096];
  for (const uint64_t start = NowNs(); NowNs() - start < kRunMs * 1'000'000ULL;) {
    for (int i = 0; i < 16; ++i) {
      if (pread(fd, block, sizeof block, i * 4096) != sizeof block) Wrong("pread");
      if (memcmp(block, map + i * 4096, sizeof block) != 0) Wrong("mapping of a file");
    }
    poll(nullptr, 0, 5);
  }
  return 0;
}

}  // namespace

int main(int, char** argv) {
  int pipe_fds[2];
  if (pipe(pipe_fds) != 0) Wrong("pipe");
  pid_t children[5];
  for (int i = 0; i < 5; ++i) {
    children[i] = fork();
    if (children[i] < 0) Wrong("fork");
    if (children[i] != 0) continue;
    close(pipe_fds[1]);
    switch (i) {
      case 0:
        _exit(ComputeProcess());
      case 1:
        _exit(ReaderProcess(pipe_fds[0]));
      case 2:
        _exit(SleeperProcess());
      case 3:
        _exit(ForkerProcess());
      default:
        _exit(FileProcess(argv[0]));
    }
  }
  close(pipe_fds[0]);
  pthread_t waiter;
  if (pthread_create(&waiter, nullptr, &Waiter, nullptr) != 0) Wrong("pthread_create");
  for (int i = 0; i < 5; ++i) {
    poll(nullptr, 0, kRunMs / 6);
    if (write(pipe_fds[1], &i, sizeof i) != sizeof i) Wrong("write");
  }
  close(pipe_fds[1]);
  poll(nullptr, 0, kRunMs / 6);
  word = 42;
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  void* answer = nullptr;
  if (pthread_join(waiter, &answer) != 0 || answer != reinterpret_cast<void*>(uintptr_t{42})) {
    Wrong("thread");
  }
  for (const pid_t child : children) {
    int status = -1;
    if (waitpid(child, &status, 0) != child || status != 0) Wrong("child", status);
  }
  puts("right");
  return 0;
}
