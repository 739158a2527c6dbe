#include "runtime/user_namespace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <span>

#include "base/host_call.h"
#include "runtime/process.h"

namespace skep::runtime {
namespace {

HostResult<void> WriteFile(const char* path, const std::string& text) {
  const Result<OwnedFd> file = host::Open(path, O_WRONLY | O_CLOEXEC);
  if (!file) return HostFail(fmt::format("cannot open {}", path), file.error().code());
  const Result<size_t> written = host::Write(file->get(), std::as_bytes(std::span(text)));
  if (!written) return HostFail(fmt::format("cannot write {}", path), written.error().code());
  return {};
}

// In a user namespace of somebody else's making, mounts are not ours to clone.
bool InFirstUserNamespace() {
  const Result<std::string> map = host::ReadWholeFile("/proc/self/uid_map", 4096);
  return map && map->find("4294967295") != std::string::npos;
}

}  // namespace

Caller WhoCalls() {
  Caller caller;
  caller.uid = geteuid();
  caller.gid = getegid();
  const int count = getgroups(0, nullptr);
  if (count > 0) {
    caller.groups.resize(static_cast<size_t>(count));
    const int got = getgroups(count, caller.groups.data());
    caller.groups.resize(got > 0 ? static_cast<size_t>(got) : 0);
  }
  caller.privileged = caller.uid == 0 && HasCapability(CAP_SYS_ADMIN) && InFirstUserNamespace();
  return caller;
}

HostResult<void> EnterUserNamespace(const Caller& caller, uint32_t uid, uint32_t gid) {
  const Result<int64_t> entered = host::Call(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS);
  if (!entered) {
    return HostFail(
        "cannot make a user namespace, which an ordinary user's sandbox needs; allow it (sysctl "
        "kernel.unprivileged_userns_clone=1, user.max_user_namespaces, "
        "kernel.apparmor_restrict_unprivileged_userns=0) or run skep as root",
        entered.error().code());
  }
  TRY(WriteFile("/proc/self/setgroups", "deny"));
  TRY(WriteFile("/proc/self/uid_map", fmt::format("{} {} 1", uid, caller.uid)));
  TRY(WriteFile("/proc/self/gid_map", fmt::format("{} {} 1", gid, caller.gid)));
  return {};
}

}  // namespace skep::runtime
