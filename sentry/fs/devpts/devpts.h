// DevptsFs: the names of pseudo-terminals: ptmx, and a node for each pty there is (Linux:
// fs/devpts/inode.c). It only shows them: opening a node asks vfs::SpecialFiles for device 5:2 or
// 136:N, and whoever owns the ptys calls Add and Remove.
#pragma once

#include <map>

#include "sentry/vfs/path.h"

namespace skep::fs {

struct DevptsOptions {
  uint32_t dev_minor = 0;
  uint32_t mode = 0620;  // of ptys
  uint32_t gid = 5;      // of ptys: Debian's "tty"
  bool set_gid = true;   // else the opener's
  uint32_t ptmx_mode = 0666;
};

class DevptsFs final : public vfs::FileSystem {
 public:
  explicit DevptsFs(const DevptsOptions& wanted);
  ~DevptsFs() override;

  void Add(int index, uint32_t uid, uint32_t gid);
  void Remove(int index);
  // The dentry of pty `index`, for paths made without a walk. ENOENT.
  Result<Ref<vfs::Dentry>> DentryOf(int index);

  const char* type_name() const override { return "devpts"; }
  Result<vfs::StatFs> GetStatFs() override;
  Ref<vfs::Inode> RootInode() override;
  bool Revalidate(vfs::Dentry& dentry) override;

  // For the root directory.
  Ref<vfs::Inode> Find(std::string_view name);
  struct Entry {
    std::string name;
    uint64_t ino;
    int index;
  };
  std::vector<Entry> List();  // by number; ptmx first, as -1

 private:
  const DevptsOptions wanted_;
  Mutex mutex_{LockRank::kNames};
  Ref<vfs::Inode> root_, ptmx_;
  std::map<int, Ref<vfs::Inode>> ptys_ GUARDED_BY(mutex_);
};

}  // namespace skep::fs
