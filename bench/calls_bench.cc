#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

#include "bench/host.h"

namespace skep::bench {
namespace {

constexpr const char* kFile = "/etc/passwd";

class TempFile {
 public:
  explicit TempFile(size_t size) {
    char name[] = "/tmp/skep-bench-XXXXXX";
    fd_ = Must(mkstemp(name), "mkstemp");
    Must(unlink(name), "unlink");
    Must(ftruncate(fd_, static_cast<off_t>(size)), "ftruncate");
  }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  ~TempFile() { close(fd_); }
  int fd() const { return fd_; }

 private:
  int fd_;
};

void Getpid(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(syscall(SYS_getpid));
}
BENCHMARK(Getpid);

void Read(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  TempFile file(size);
  std::vector<char> buffer(size, 'x');
  Must(pwrite(file.fd(), buffer.data(), size, 0), "pwrite");
  for (auto _ : state) Must(pread(file.fd(), buffer.data(), size, 0), "pread");
}
BENCHMARK(Read)->Arg(1)->Arg(65536);

void Write(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  TempFile file(size);
  const std::vector<char> buffer(size, 'x');
  for (auto _ : state) Must(pwrite(file.fd(), buffer.data(), size, 0), "pwrite");
}
BENCHMARK(Write)->Arg(1)->Arg(65536);

void OpenReadClose(benchmark::State& state) {
  char buffer[4096];
  for (auto _ : state) {
    const int fd = Must(open(kFile, O_RDONLY | O_CLOEXEC), "open");
    Must(read(fd, buffer, sizeof buffer), "read");
    Must(close(fd), "close");
  }
}
BENCHMARK(OpenReadClose);

void Stat(benchmark::State& state) {
  struct stat attributes;
  for (auto _ : state) Must(stat(kFile, &attributes), "stat");
}
BENCHMARK(Stat);

}  // namespace
}  // namespace skep::bench

BENCHMARK_MAIN();
