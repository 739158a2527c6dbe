// The self test of the jail: what a gofer that was taken over would try first.
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <csignal>

#include "base/host_call.h"
#include "gofer/jail/jail.h"
#include "gofer/server/host_file.h"

namespace skep::gofer {
namespace {

struct OpenHow {
  uint64_t flags;
  uint64_t mode;
  uint64_t resolve;
};

Result<OwnedFd> TryOpen(int dir, const char* path, uint64_t flags) {
  const OpenHow how = {flags, 0, 0};
  return host::CallFd(SYS_openat2, dir, path, &how, sizeof how);
}

// ".." is the tree itself, or nothing.
bool Leaves(int tree) {
  const Result<OwnedFd> above = TryOpen(tree, "..", O_PATH);
  if (!above) return false;
  const Result<FileInfo> from = StatFd(tree);
  const Result<FileInfo> to = StatFd(above->get());
  return !from || !to || from->identity != to->identity;
}

}  // namespace

uint32_t TryToBreakOut(std::span<const int> trees, int proc_self_fd) {
  uint32_t breaches = 0;
  const auto note = [&](Breach breach, bool happened) {
    if (happened) breaches |= static_cast<uint32_t>(breach);
  };
  for (const char* path :
       {"/etc/passwd", "../etc/passwd", "/proc/1/root/etc/passwd", "/dev/null", "/proc/self/exe"}) {
    note(Breach::kOpenOutside, TryOpen(AT_FDCWD, path, O_RDONLY).has_value());
  }
  for (int tree : trees) {
    const Result<FileInfo> info = StatFd(tree);
    if (info && S_ISDIR(info->attributes.mode)) note(Breach::kLeaveTree, Leaves(tree));
  }
  note(Breach::kLeaveTree, Leaves(proc_self_fd));
  for (int family : {AF_UNIX, AF_INET, AF_NETLINK}) {
    note(Breach::kSocket, host::Call(SYS_socket, family, SOCK_DGRAM, 0).has_value());
  }
  const char* const nothing[] = {nullptr};
  // EACCES or ENOENT would mean that the path was looked at: the call itself must be refused.
  const auto refused = [](const auto& rc) { return !rc && rc.error() == Errno(EPERM); };
  note(Breach::kExec, !refused(host::Call(SYS_execve, "/bin/true", nothing, nothing)));
  note(Breach::kExec, !refused(host::Call(SYS_execveat, proc_self_fd, "0", nothing, nothing, 0)));
  note(Breach::kKill, host::Kill(1, 0).has_value());
  note(Breach::kKill, !refused(host::Kill(-1, SIGCONT)));
  note(Breach::kFork, host::Call(SYS_clone, CLONE_VM | CLONE_VFORK, 0, 0, 0, 0).has_value());
  note(Breach::kPtrace, !refused(host::Call(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0)));
  note(Breach::kExecutableMemory,
       host::Call(SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
           .has_value());
  note(Breach::kMount, !refused(host::Call(SYS_unshare, CLONE_NEWUSER)));
  note(Breach::kMount, !refused(host::Call(SYS_chroot, "..")));
  return breaches;
}

}  // namespace skep::gofer
