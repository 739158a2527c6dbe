#include "sentry/vfs/anon_fs.h"

#include <linux/magic.h>

#include "sentry/vfs/special_files.h"

namespace skep::vfs {
namespace {

class AnonInode final : public Inode {
 public:
  AnonInode(FileSystem& fs, uint64_t ino, uint32_t mode, uint32_t uid, uint32_t gid)
      : Inode(fs, ino, mode & S_IFMT) {
    attributes_.ino = ino;
    attributes_.dev_minor = fs.dev_minor();
    attributes_.mode = mode;
    attributes_.uid = uid;
    attributes_.gid = gid;
    attributes_.atime = attributes_.mtime = attributes_.ctime = CurrentTime();
  }

  Result<Attributes> GetAttributes() override {
    MutexLock lock(mutex_);
    return attributes_;
  }

  Result<void> SetAttributes(const AttributeChange& change) override {
    if (type() == 0) return Fail(EOPNOTSUPP);
    MutexLock lock(mutex_);
    if (change.mode) attributes_.mode = (attributes_.mode & S_IFMT) | (*change.mode & 07777);
    if (change.uid) attributes_.uid = *change.uid;
    if (change.gid) attributes_.gid = *change.gid;
    if (change.atime) attributes_.atime = *change.atime;
    if (change.mtime) attributes_.mtime = *change.mtime;
    attributes_.ctime = CurrentTime();
    return {};
  }

  // Through /proc/<pid>/fd: a pipe opens as the FIFO it is; nothing else can be opened again.
  Result<Ref<File>> Open(Caller& caller, const Path& path, uint32_t flags) override {
    return OpenSpecial(*this, caller, path, flags);
  }

 private:
  Mutex mutex_{LockRank::kInode};
  Attributes attributes_ GUARDED_BY(mutex_);
};

}  // namespace

// pipefs and sockfs.
class AnonFs::KindFs final : public FileSystem {
 public:
  KindFs(AnonFs& owner, const char* name, uint64_t magic)
      : FileSystem(owner.dev_minor()), owner_(owner), name_(name), magic_(magic) {}
  const char* type_name() const override { return name_; }
  Result<StatFs> GetStatFs() override { return StatFs{.type = magic_}; }
  Ref<Inode> RootInode() override { return owner_.RootInode(); }

 private:
  AnonFs& owner_;
  const char* const name_;
  const uint64_t magic_;
};

AnonFs::AnonFs(uint32_t dev_minor)
    : FileSystem(dev_minor),
      shared_(MakeRef<AnonInode>(*this, ++last_ino_, 0600u, 0u, 0u)),
      pipes_(MakeRef<KindFs>(*this, "pipefs", PIPEFS_MAGIC)),
      sockets_(MakeRef<KindFs>(*this, "sockfs", SOCKFS_MAGIC)) {}

AnonFs::~AnonFs() = default;

void AnonFs::SetSpecialFiles(const Ref<SpecialFiles>& special) {
  special_files = pipes_->special_files = sockets_->special_files = special;
}

Path AnonFs::NewPath(std::string_view kind, uint32_t mode, const auth::Credentials& owner) {
  const uint64_t ino = ++last_ino_;
  std::string name(kind);
  name += ":[" + std::to_string(ino) + "]";
  FileSystem& fs = kind == "pipe" ? *pipes_ : kind == "socket" ? *sockets_ : *this;
  Ref<Inode> inode = MakeRef<AnonInode>(fs, ino, mode, owner.fsuid, owner.fsgid);
  return Path({}, Dentry::MakeAnonymous(std::move(inode), std::move(name)));
}

Path AnonFs::SharedInode(std::string_view kind) {
  std::string name = "anon_inode:";
  name += kind;
  return Path({}, Dentry::MakeAnonymous(shared_, std::move(name)));
}

Result<StatFs> AnonFs::GetStatFs() { return StatFs{.type = ANON_INODE_FS_MAGIC}; }

}  // namespace skep::vfs
