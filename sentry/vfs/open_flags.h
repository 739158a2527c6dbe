// What open(2), openat(2) and openat2(2) ask for, judged in one place (Linux: build_open_how,
// build_open_flags).
#pragma once

#include <fcntl.h>
#include <cstdint>

#include "base/result.h"

namespace skep::vfs {

// As openat2(2) has it: O_*, permission bits of a new file, RESOLVE_*.
struct OpenHow {
  uint64_t flags = 0, mode = 0, resolve = 0;
};

// The older calls pass over what they do not know; openat2 refuses it.
enum class Strictness : uint8_t { kOpen, kOpenat2 };

class OpenFlags {
 public:
  // EINVAL: flags that exclude one another, or, of openat2, any that are not known. EAGAIN:
  // RESOLVE_CACHED with what cannot be done from the cache.
  static Result<OpenFlags> From(OpenHow how, Strictness strictness);

  bool Has(uint32_t flag) const { return (flags_ & flag) != 0; }
  bool IsTemporary() const { return Has(O_TMPFILE & ~O_DIRECTORY); }
  // Whether the opened file may be written to: O_WRONLY, O_RDWR.
  bool Writes() const { return (flags_ & O_ACCMODE) != O_RDONLY && !Has(O_PATH); }
  // Follows a symbolic link that is the last component.
  bool FollowsLast() const {
    return !Has(O_NOFOLLOW) && (flags_ & (O_CREAT | O_EXCL)) != (O_CREAT | O_EXCL);
  }
  // The flags that the open file keeps: without those that concern the act of opening.
  uint32_t OfFile() const;

  int access() const { return access_; }   // kMayRead, kMayWrite; 0 for O_PATH
  uint32_t mode() const { return mode_; }  // of a new file
  uint64_t resolve() const { return resolve_; }
  // From the mode of a new file; nothing else has one.
  void ApplyUmask(uint32_t umask) { mode_ &= ~umask; }

 private:
  uint32_t flags_ = 0, mode_ = 0;
  int access_ = 0;
  uint64_t resolve_ = 0;
};

}  // namespace skep::vfs
