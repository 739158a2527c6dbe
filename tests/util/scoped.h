// Things a test owns for a scope: descriptors, mappings, directories, limits, handlers, masks.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

namespace skep::test {

// An address that is never mapped.
extern void* const kBadAddress;
inline constexpr size_t kPageSize = 4096;

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.Release()) {}
  Fd& operator=(Fd&& other) noexcept {
    Reset(other.Release());
    return *this;
  }
  ~Fd() { Reset(); }

  operator int() const { return fd_; }  // NOLINT: so that it reads like the number it is
  int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1);

 private:
  int fd_ = -1;
};

struct Pipe {
  Fd reader;
  Fd writer;
};
Pipe MakePipe(int flags = 0);
// Two connected unix sockets; type may carry SOCK_NONBLOCK and SOCK_CLOEXEC.
Pipe MakeSocketPair(int type);

class Mapping {
 public:
  explicit Mapping(size_t size, int prot = PROT_READ | PROT_WRITE,
                   int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1, off_t offset = 0);
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  char* data() const { return data_; }
  char* page(size_t index) const { return data_ + index * kPageSize; }
  size_t size() const { return size_; }
  uintptr_t address() const { return reinterpret_cast<uintptr_t>(data_); }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  char* data_;
  size_t size_;
};

// A fresh directory beneath $TEST_TMPDIR or /tmp, removed with all that is in it.
class TempDir {
 public:
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();

  const std::string& path() const { return path_; }
  const char* c_str() const { return path_.c_str(); }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

class ScopedRlimit {
 public:
  ScopedRlimit(int resource, rlim_t soft);
  ~ScopedRlimit();

 private:
  int resource_;
  rlimit old_;
};

class ScopedSignalHandler {
 public:
  using Handler = void (*)(int);
  using Action = void (*)(int, siginfo_t*, void*);
  ScopedSignalHandler(int signo, Handler handler, int flags = 0,
                      std::initializer_list<int> mask = {});
  ScopedSignalHandler(int signo, Action action, int flags = 0,
                      std::initializer_list<int> mask = {});
  ScopedSignalHandler(const ScopedSignalHandler&) = delete;
  ScopedSignalHandler& operator=(const ScopedSignalHandler&) = delete;
  ~ScopedSignalHandler();

 private:
  int signo_;
  struct sigaction old_;
};

sigset_t SignalSet(std::initializer_list<int> signals);

class ScopedSignalMask {
 public:
  ScopedSignalMask(int how, std::initializer_list<int> signals);
  ~ScopedSignalMask();

 private:
  sigset_t old_;
};

class ScopedUmask {
 public:
  explicit ScopedUmask(mode_t mask);
  ~ScopedUmask();

 private:
  mode_t old_;
};

// The number the next open would get.
int LowestFreeFd();

void WriteFile(const std::string& path, const std::string& contents, mode_t mode = 0644);
// All of the file; "" if it cannot be read.
std::string ReadFile(const std::string& path);
std::string ReadAll(int fd);
bool Exists(const std::string& path);

}  // namespace skep::test
