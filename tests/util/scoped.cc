#include "tests/util/scoped.h"

#include <fcntl.h>
#include <ftw.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdlib>

namespace skep::test {

void* const kBadAddress = reinterpret_cast<void*>(0x10);

void Fd::Reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

Pipe MakePipe(int flags) {
  int fds[2] = {-1, -1};
  if (::pipe2(fds, flags) != 0) ADD_FAILURE() << "pipe2: errno " << errno;
  return {Fd(fds[0]), Fd(fds[1])};
}

Pipe MakeSocketPair(int type) {
  int fds[2] = {-1, -1};
  if (::socketpair(AF_UNIX, type, 0, fds) != 0) ADD_FAILURE() << "socketpair: errno " << errno;
  return {Fd(fds[0]), Fd(fds[1])};
}

Mapping::Mapping(size_t size, int prot, int flags, int fd, off_t offset) : size_(size) {
  void* address = ::mmap(nullptr, size, prot, flags, fd, offset);
  if (address == MAP_FAILED) ADD_FAILURE() << "mmap: errno " << errno;
  data_ = static_cast<char*>(address);
}

Mapping::~Mapping() {
  if (data_ != MAP_FAILED) ::munmap(data_, size_);
}

TempDir::TempDir() {
  const char* base = ::getenv("TEST_TMPDIR");
  path_ = std::string(base != nullptr ? base : "/tmp") + "/skep_test_XXXXXX";
  if (::mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "mkdtemp: errno " << errno;
}

TempDir::~TempDir() {
  ::nftw(
      path_.c_str(), [](const char* path, const struct stat*, int, FTW*) { return ::remove(path); },
      16, FTW_DEPTH | FTW_PHYS);
}

ScopedRlimit::ScopedRlimit(int resource, rlim_t soft) : resource_(resource) {
  if (::getrlimit(resource, &old_) != 0) ADD_FAILURE() << "getrlimit: errno " << errno;
  const rlimit changed = {soft, old_.rlim_max};
  if (::setrlimit(resource, &changed) != 0) ADD_FAILURE() << "setrlimit: errno " << errno;
}

ScopedRlimit::~ScopedRlimit() { ::setrlimit(resource_, &old_); }

ScopedSignalHandler::ScopedSignalHandler(int signo, Handler handler, int flags,
                                         std::initializer_list<int> mask)
    : signo_(signo) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  action.sa_mask = SignalSet(mask);
  if (::sigaction(signo, &action, &old_) != 0) ADD_FAILURE() << "sigaction: errno " << errno;
}

ScopedSignalHandler::ScopedSignalHandler(int signo, Action handler, int flags,
                                         std::initializer_list<int> mask)
    : signo_(signo) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = flags | SA_SIGINFO;
  action.sa_mask = SignalSet(mask);
  if (::sigaction(signo, &action, &old_) != 0) ADD_FAILURE() << "sigaction: errno " << errno;
}

ScopedSignalHandler::~ScopedSignalHandler() { ::sigaction(signo_, &old_, nullptr); }

sigset_t SignalSet(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signo : signals) sigaddset(&set, signo);
  return set;
}

ScopedSignalMask::ScopedSignalMask(int how, std::initializer_list<int> signals) {
  const sigset_t set = SignalSet(signals);
  ::pthread_sigmask(how, &set, &old_);
}

ScopedSignalMask::~ScopedSignalMask() { ::pthread_sigmask(SIG_SETMASK, &old_, nullptr); }

ScopedUmask::ScopedUmask(mode_t mask) : old_(::umask(mask)) {}
ScopedUmask::~ScopedUmask() { ::umask(old_); }

int LowestFreeFd() {
  const int fd = ::dup(STDOUT_FILENO);
  ::close(fd);
  return fd;
}

void WriteFile(const std::string& path, const std::string& contents, mode_t mode) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, mode));
  if (fd < 0) ADD_FAILURE() << path << ": errno " << errno;
  const ssize_t written = ::write(fd, contents.data(), contents.size());
  if (written != static_cast<ssize_t>(contents.size())) ADD_FAILURE() << path << ": short write";
}

std::string ReadFile(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY));
  return fd < 0 ? "" : ReadAll(fd);
}

std::string ReadAll(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(fd, buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

bool Exists(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0;
}

}  // namespace skep::test
