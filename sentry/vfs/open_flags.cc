#include "sentry/vfs/open_flags.h"

#include <linux/openat2.h>

#include "sentry/vfs/path.h"

namespace skep::vfs {
namespace {

constexpr uint32_t kTmpFile = O_TMPFILE & ~O_DIRECTORY;
constexpr uint32_t kLargeFile = 0100000;  // the kernel's O_LARGEFILE; libc's is 0 on x86-64
constexpr uint32_t kPathFlags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
constexpr uint32_t kKnown = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND |
                            O_NONBLOCK | O_SYNC | O_DSYNC | O_ASYNC | O_DIRECT | kLargeFile |
                            O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | O_TMPFILE;
constexpr uint64_t kResolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS |
                              RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_CACHED;
constexpr uint64_t kModes = 07777;

bool Creates(uint64_t flags) { return (flags & (O_CREAT | kTmpFile)) != 0; }

// Linux: build_open_how.
OpenHow Forgive(OpenHow how) {
  how.flags &= kKnown;
  if ((how.flags & O_PATH) != 0) how.flags &= kPathFlags;
  how.mode = Creates(how.flags) ? how.mode & kModes : 0;
  how.flags |= (how.flags & O_PATH) != 0 ? 0 : kLargeFile;
  return how;
}

Result<void> Check(const OpenHow& how, bool may_write) {
  constexpr uint64_t kScopes = RESOLVE_BENEATH | RESOLVE_IN_ROOT;
  if ((how.flags & ~uint64_t{kKnown}) != 0 || (how.resolve & ~kResolve) != 0) return Fail(EINVAL);
  if ((how.resolve & kScopes) == kScopes) return Fail(EINVAL);
  if ((how.mode & ~(Creates(how.flags) ? kModes : 0)) != 0) return Fail(EINVAL);
  if ((how.flags & (O_DIRECTORY | O_CREAT)) == (O_DIRECTORY | O_CREAT)) return Fail(EINVAL);
  if ((how.flags & kTmpFile) != 0 && ((how.flags & O_DIRECTORY) == 0 || !may_write)) {
    return Fail(EINVAL);
  }
  if ((how.flags & O_PATH) != 0 && (how.flags & ~uint64_t{kPathFlags}) != 0) return Fail(EINVAL);
  const bool changes = (how.flags & (O_TRUNC | O_CREAT | kTmpFile)) != 0;
  if ((how.resolve & RESOLVE_CACHED) != 0 && changes) return Fail(EAGAIN);
  return {};
}

}  // namespace

Result<OpenFlags> OpenFlags::From(OpenHow how, Strictness strictness) {
  if (strictness == Strictness::kOpen) how = Forgive(how);
  constexpr int kAccess[] = {kMayRead, kMayWrite, kMayRead | kMayWrite, kMayRead | kMayWrite};
  const int access = kAccess[how.flags & O_ACCMODE];
  TRY(Check(how, (access & kMayWrite) != 0));
  OpenFlags open;
  open.flags_ = static_cast<uint32_t>(how.flags);
  open.mode_ = static_cast<uint32_t>(how.mode);
  open.resolve_ = how.resolve;
  if (open.Has(O_PATH)) return open;
  open.flags_ |= kLargeFile;
  open.access_ = open.Has(O_TRUNC) ? access | kMayWrite : access;
  return open;
}

uint32_t OpenFlags::OfFile() const {
  return flags_ & ~(O_CREAT | O_EXCL | O_TRUNC | O_CLOEXEC | kTmpFile);
}

}  // namespace skep::vfs
