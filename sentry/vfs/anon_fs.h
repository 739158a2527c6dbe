// AnonFs: inodes and names of open files that no directory holds (Linux: pipefs, sockfs,
// anon_inodefs). One per sandbox; it must outlive every file made with it. Their paths have no
// mount.
#pragma once

#include <atomic>
#include <string_view>

#include "sentry/vfs/file.h"
#include "sentry/vfs/path.h"

namespace skep::vfs {

class AnonFs final : public FileSystem {
 public:
  explicit AnonFs(uint32_t dev_minor);
  ~AnonFs() override;

  void SetSpecialFiles(const Ref<SpecialFiles>& special);
  // A new inode: "pipe:[7]" (mode S_IFIFO | 0600), "socket:[8]" (S_IFSOCK | 0777).
  Path NewPath(std::string_view kind, uint32_t mode, const auth::Credentials& owner);
  // "anon_inode:[eventpoll]", "anon_inode:[eventfd]": all share one inode without a type.
  Path SharedInode(std::string_view kind);
  uint64_t NewIno() { return ++last_ino_; }  // for inodes that others make (memfd)

  const char* type_name() const override { return "anon_inodefs"; }
  Result<StatFs> GetStatFs() override;
  Ref<Inode> RootInode() override { return shared_; }

 private:
  class KindFs;

  std::atomic<uint64_t> last_ino_{0};
  Ref<Inode> shared_;
  Ref<FileSystem> pipes_, sockets_;  // what statfs says of these
};

}  // namespace skep::vfs
