// GoferInode: a file, directory or symlink of a GoferFs. Internal to fs/gofer.
//
// The gofer is asked through GoferFs::Call, under no Mutex. `mutex_` guards what is cached.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/mm/mappable.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/path.h"

namespace skep::fs {

vfs::Attributes FromGofer(const gofer::Attributes& from, uint32_t dev_minor);

// The names of a directory at one moment.
struct GoferListing : RefCounted<GoferListing> {
  struct Entry {
    std::string name;
    uint64_t ino;
    uint8_t type;          // DT_*
    uint64_t next_cookie;  // the gofer's: resumes after this entry
  };
  std::vector<Entry> entries;
};

class GoferInode final : public vfs::Inode {
 public:
  GoferInode(GoferFs& fs, const gofer::NodeRecord& record);
  ~GoferInode() override;

  Result<vfs::Attributes> GetAttributes() override;
  Result<void> SetAttributes(const vfs::AttributeChange& change) override;
  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override;
  void PrefetchWalk(std::span<const std::string_view> names, LastName last) override;
  Result<Ref<vfs::Inode>> Create(std::string_view name, const NewNode& node) override;
  Result<Ref<vfs::Inode>> Symlink(std::string_view name, std::string_view target,
                                  const NewNode& node) override;
  Result<void> Link(std::string_view name, vfs::Inode& existing) override;
  Result<void> Unlink(std::string_view name, vfs::Inode& victim) override;
  Result<void> Rmdir(std::string_view name, vfs::Inode& victim) override;
  Result<void> Rename(std::string_view name, vfs::Inode& moved, vfs::Inode& new_directory,
                      std::string_view new_name, vfs::Inode* target, uint32_t flags) override;
  Result<std::string> ReadLink(vfs::Caller& caller) override;
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override;
  Result<std::string> GetXattr(std::string_view name) override;
  Result<void> SetXattr(std::string_view name, std::string_view value, int flags) override;
  Result<void> RemoveXattr(std::string_view name) override;
  Result<std::vector<std::string>> ListXattrs() override;
  Result<std::string> AccessAcl() override;

  GoferFs& gofer_fs() const { return gofer_fs_; }
  gofer::NodeId node() const { return node_; }
  // A root's, of another gofer after a restore. Nothing runs.
  void Renumber(gofer::NodeId node) { node_ = node; }
  // Its file system may wait for more than a disk.
  bool remote() const { return remote_; }
  // Another reference to the node came with these attributes.
  void Absorb(const gofer::NodeRecord& record);
  void UpdateAttributes(const gofer::Attributes& attributes);
  // Contents or names changed through us: the next GetAttributes asks.
  void MarkStale();
  // kShared: asks for the attributes whatever their age.
  Result<void> Refresh();
  // kShared: whether this inode was heard of within the time to live.
  bool Fresh();

  // A descriptor that can read (or also write), for `user`; held until ReleaseFd. Without a user,
  // for somebody who holds one already. ENFILE: the sandbox has no room, or this user has its
  // share.
  Result<arena::HostFd> AcquireFd(bool write, const auth::Credentials* user);
  void ReleaseFd();
  void CloseIdleFds();
  // The size, when it is known without asking: nobody but us can change it.
  std::optional<uint64_t> KnownSize();
  void NoteWrite(uint64_t end);

  // All names, from the cache or the gofer: one message for each 64 KiB of them, without
  // attributes.
  Result<Ref<GoferListing>> List();
  size_t ForgetChildren();  // how many there were

  // Mappings of this file, told when it shrinks.
  void AddMapping(mm::MemoryManager& mm, Range addresses, uint64_t offset);
  void RemoveMapping(mm::MemoryManager& mm, Range addresses, uint64_t offset);

  // After a restore: descriptors under their old numbers.
  Result<void> ReopenFds();

  // Places in the lists of DonatedFiles and GoferFs; guarded by their mutexes.
  std::optional<std::list<GoferInode*>::iterator> idle_at, listed_at;
  size_t children_counted = 0;

 private:
  struct NameHash {
    using is_transparent = void;
    size_t operator()(std::string_view name) const { return std::hash<std::string_view>()(name); }
  };
  struct Child {
    Ref<GoferInode> inode;  // none: does not exist
    uint64_t heard_ns = 0;
  };
  using Children = std::unordered_map<std::string, Child, NameHash, std::equal_to<>>;
  struct Directory {
    Children children;
    Ref<GoferListing> listing;  // all names; none once we changed the directory
    uint64_t listed_ns = 0;
    // Who goes through the listing: the entry that is expected next, how many came as expected.
    size_t next_listed = 0;
    int in_order = 0;
  };
  struct Mapping {
    mm::MemoryManager* mm;
    Range addresses;
    uint64_t offset;
  };

  std::optional<Result<Ref<vfs::Inode>>> LookupCached(std::string_view name);
  std::optional<size_t> IndexIfInOrder(std::string_view name, Ref<GoferListing>& listing);
  bool PrefetchListed(std::string_view name);
  Ref<GoferInode> Remember(std::span<const std::string_view> names, gofer::Walked& walked);
  void KeepReadFd(OwnedFd file);
  void SetChild(std::string_view name, Ref<GoferInode> inode, bool changed);
  Result<void> CheckWritable() const;
  void SetTarget(std::string_view target);
  Result<Ref<GoferListing>> FetchListing();
  void InvalidateMappings(uint64_t new_size);
  Result<std::string> FetchXattr(std::string_view name);
  Result<arena::HostFd> OpenFd(bool write, bool favoured);
  arena::HostFd UseFd(bool write, DonatedFiles::Charge& charge, arena::HostFd fresh = {});
  void CloseDonated(arena::HostFd fd, bool mapped = false);

  GoferFs& gofer_fs_;
  gofer::NodeId node_;
  const bool remote_;
  uint64_t references_ GUARDED_BY(mutex_) = 1;
  Mutex mutex_{LockRank::kInode};
  vfs::Attributes attributes_ GUARDED_BY(mutex_);
  uint64_t heard_ns_ GUARDED_BY(mutex_) = 0;
  bool stale_ GUARDED_BY(mutex_) = false;
  bool wrote_ GUARDED_BY(mutex_) = false;   // the size is what the host says
  bool mapped_ GUARDED_BY(mutex_) = false;  // engines may know the descriptors
  int fd_users_ GUARDED_BY(mutex_) = 0;
  DonatedFiles::Charge charge_ GUARDED_BY(mutex_);  // while fd_users_ is not 0
  arena::HostFd read_fd_ GUARDED_BY(mutex_), write_fd_ GUARDED_BY(mutex_);
  std::unique_ptr<std::string> target_ GUARDED_BY(mutex_);
  std::unique_ptr<Directory> directory_ GUARDED_BY(mutex_);
  std::vector<Mapping> mappings_ GUARDED_BY(mutex_);
  // Attributes that execve and permission checks ask for and the file lacks, as of absent_ns_: bits
  // in AskedOften's order. No guest can set these attributes.
  uint32_t absent_ GUARDED_BY(mutex_) = 0;
  uint64_t absent_ns_ GUARDED_BY(mutex_) = 0;
};

// Opening: gofer_file.cc.
Ref<vfs::File> MakeGoferFile(GoferInode& inode, const vfs::Path& path, uint32_t flags,
                             arena::HostFd fd);
Ref<vfs::File> MakeGoferDirectoryFile(GoferInode& inode, const vfs::Path& path, uint32_t flags);

// Closes a donated descriptor; engines forget it first if `mapped`.
void CloseHostFd(arena::HostFd fd, bool mapped);

}  // namespace skep::fs
