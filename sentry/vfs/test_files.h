// For unit tests of vfs/: a file system with one inode for everything, and files of it.
#pragma once

#include "sentry/vfs/file.h"
#include "sentry/vfs/path.h"

namespace skep::vfs {

class PlainInode final : public Inode {
 public:
  PlainInode(FileSystem& fs, uint64_t ino) : Inode(fs, ino, S_IFREG) {}
  Result<Attributes> GetAttributes() override {
    return Attributes{.ino = ino(), .mode = S_IFREG | 0644, .size = 100};
  }
  Result<Ref<File>> Open(Caller&, const Path& path, uint32_t flags) override {
    return Ref<File>(MakeRef<File>(path, flags));
  }
};

class PlainFs final : public FileSystem {
 public:
  PlainFs() : FileSystem(1) {}
  ~PlainFs() override { DropCache(); }
  const char* type_name() const override { return "plain"; }
  Result<StatFs> GetStatFs() override { return StatFs{}; }
  Ref<Inode> RootInode() override { return MakeRef<PlainInode>(*this, 1u); }

  Ref<File> NewFile(uint32_t flags = O_RDWR) {
    return FileOf(MakeRef<PlainInode>(*this, ++last_ino_), flags);
  }
  Ref<File> FileOf(Ref<Inode> inode, uint32_t flags = O_RDWR) {
    return MakeRef<File>(Path({}, Dentry::MakeAnonymous(std::move(inode), "plain")), flags);
  }

 private:
  uint64_t last_ino_ = 1;
};

}  // namespace skep::vfs
