// What several families of handlers share.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "base/result.h"
#include "sentry/kernel/task.h"
#include "sentry/sched/fiber.h"
#include "sentry/syscalls/adapter.h"
#include "sentry/vfs/name_ops.h"

namespace skep::syscalls {

// Linux: copy_struct_from_user: a structure that grew over time. Bytes the guest has beyond ours
// must be zero (E2BIG); bytes it lacks are zero.
Result<void> CopyInStruct(Task& task, UserPtr<void> from, uint64_t size, std::span<std::byte> to);

// Linux: copy_struct_to_user, the other direction: as many bytes as both know. What the guest has
// beyond ours becomes zero. Returns the number of our bytes that the guest has no room for.
Result<size_t> CopyOutStruct(Task& task, UserPtr<void> to, uint64_t size,
                             std::span<const std::byte> from);

// Publishes changed credentials of the calling task.
void ChangeCredentials(Task& task, const std::function<void(auth::Credentials&)>& change);

// A path argument: at most PATH_MAX bytes. ENOENT for "" is the walk's business.
Result<std::string> CopyInPath(Task& task, Path path);

// A NameOps that starts at `dir` (AT_FDCWD: the cwd). An absolute path ignores dir, as Linux does.
Result<vfs::NameOps> WalkerAt(Task& task, Fd dir, std::string_view path);
inline vfs::NameOps NameOpsFor(Task& task) { return vfs::NameOps(task, *task.fs); }

// What `dir` and `path` name, for the *at calls. AT_EMPTY_PATH with "" is the descriptor itself.
Result<vfs::Path> ResolveAt(Task& task, Fd dir, Path path, int32_t at_flags,
                            vfs::FollowFinal follow);

// timespec -> ns. EINVAL if it is not normalised or negative.
Result<uint64_t> ToNs(const timespec& t);
timespec ToTimespec(uint64_t ns);
timeval ToTimeval(uint64_t ns);
// A timeout from now; nullopt: for ever.
sched::Deadline After(Task& task, uint64_t ns);

// The set that sigsuspend, ppoll and friends wait with: installed now, restored after the call (by
// the run loop, so that a handler runs under it).
Result<void> InstallTemporaryMask(Task& task, UserPtr<const uint64_t> set, uint64_t size);
// The call ended otherwise than by a signal: back to the old mask at once.
void DropTemporaryMask(Task& task);

// Publishes a new file under the lowest number.
Result<Fd> InstallFile(Task& task, Ref<vfs::File> file, bool cloexec);

// What restart_syscall(2) continues (Linux: futex_wait_restart, do_restart_poll); task.restart says
// until when. Each is defined in the file of its family.
Result<int64_t> FutexRestart(Task& task);
Result<int32_t> PollRestart(Task& task);

rusage ToRusage(const kernel::Usage& usage);

}  // namespace skep::syscalls
