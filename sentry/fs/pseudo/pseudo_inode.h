// Inodes of file systems whose files are made up when they are read: /proc and /sys.
//
// Nothing here is stored but names: attributes are constant or asked for, texts are generated. A
// directory of fixed entries holds its inodes, so that their dentries stay what they are; what
// comes and goes (processes) is made at each lookup and asked for being Valid() at each use.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/path.h"

namespace skep::fs {

class PseudoInode : public vfs::Inode {
 public:
  // mode: type and permissions.
  PseudoInode(vfs::FileSystem& fs, uint64_t ino, uint32_t mode);

  // Owned by root, of size Size(), changed when the inode was made; then as Adjust() says.
  Result<vfs::Attributes> GetAttributes() override;
  // Truncation and times are accepted and forgotten; mode and owner stay (EPERM).
  Result<void> SetAttributes(const vfs::AttributeChange& change) override;
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override;

  // Whether what this is about still exists: if not, its name is looked up again.
  virtual bool Valid() { return true; }
  uint32_t mode() const { return mode_; }

 protected:
  virtual uint64_t Size() { return 0; }
  virtual void Adjust(vfs::Attributes& attributes) { (void)attributes; }

 private:
  const uint32_t mode_;
  const vfs::Timestamp made_;
};

// A file with a text. Each open file keeps what was generated when it was last read from its start,
// so that a reader in pieces sees one text (Linux: seq_file).
class PseudoFile : public PseudoInode {
 public:
  using PseudoInode::PseudoInode;
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override;

  // Asked at open, after the permission bits.
  virtual Result<void> MayOpen(vfs::Caller& caller, uint32_t flags);
  virtual Result<std::string> Text(vfs::Caller& caller, const vfs::File& file) = 0;
  // What a write(2) brought, at most kMaxStore bytes. EIO: it cannot be written.
  virtual Result<void> Store(vfs::Caller& caller, std::string_view text);

  static constexpr size_t kMaxStore = 4095;
};

// One whose text is a function's.
class PseudoText final : public PseudoFile {
 public:
  using Source = std::function<std::string()>;
  using Sink = std::function<Result<void>(vfs::Caller&, std::string_view)>;
  PseudoText(vfs::FileSystem& fs, uint64_t ino, uint32_t mode, uint64_t size, Source source,
             Sink sink)
      : PseudoFile(fs, ino, mode),
        size_(size),
        source_(std::move(source)),
        sink_(std::move(sink)) {}
  Result<std::string> Text(vfs::Caller& caller, const vfs::File& file) override;
  Result<void> Store(vfs::Caller& caller, std::string_view text) override;

 protected:
  uint64_t Size() override { return size_; }

 private:
  const uint64_t size_;
  const Source source_;
  const Sink sink_;
};

class PseudoLink final : public PseudoInode {
 public:
  PseudoLink(vfs::FileSystem& fs, uint64_t ino, std::string_view target);
  Result<std::string> ReadLink(vfs::Caller& caller) override;

 protected:
  uint64_t Size() override { return target_.size(); }

 private:
  const std::string target_;
};

class PseudoDirectory : public PseudoInode {
 public:
  struct Entry {
    uint64_t cookie;  // ascending, from vfs::kFirstEntryCookie on
    std::string name;
    uint64_t ino;
    uint32_t type;  // S_IFMT
  };

  using PseudoInode::PseudoInode;
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override;
  // Asked at open, after the permission bits.
  virtual Result<void> MayOpen(vfs::Caller& caller);
  // Appends at most `max` entries whose cookies are greater than `after`.
  virtual void List(uint64_t after, size_t max, std::vector<Entry>& to) = 0;
};

// A directory whose entries are put in while the file system is made and stay for good.
class FixedDirectory : public PseudoDirectory {
 public:
  using PseudoDirectory::PseudoDirectory;
  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override;
  void List(uint64_t after, size_t max, std::vector<Entry>& to) override;

  void Add(std::string_view name, Ref<PseudoInode> inode);
  PseudoInode* Find(std::string_view name) const;
  size_t size() const { return children_.size(); }

 protected:
  void Adjust(vfs::Attributes& attributes) override;

 private:
  struct Child {
    std::string name;
    Ref<PseudoInode> inode;
  };
  std::vector<Child> children_;
  uint32_t directories_ = 0;
};

// What /proc and /sys have in common: a root, and names for what is put under it.
class PseudoFs : public vfs::FileSystem {
 public:
  ~PseudoFs() override { DropCache(); }
  Ref<vfs::Inode> RootInode() override { return root_; }
  bool Revalidate(vfs::Dentry& dentry) override;

  uint64_t NextIno() { return ++last_ino_; }
  FixedDirectory& root_directory() { return *root_; }

  // `path` is relative to the root; missing directories on the way are made. While the file system
  // is being made only.
  FixedDirectory& AddDirectory(std::string_view path);
  void Add(std::string_view path, Ref<PseudoInode> inode);
  void AddText(std::string_view path, uint32_t permissions, PseudoText::Source text,
               PseudoText::Sink sink = {});
  void AddLink(std::string_view path, std::string_view target);

 protected:
  PseudoFs(uint32_t dev_minor, uint32_t directory_mode, uint64_t text_size);
  void SetRoot(Ref<FixedDirectory> root) { root_ = std::move(root); }

 private:
  const uint32_t directory_mode_;
  const uint64_t text_size_;
  std::atomic<uint64_t> last_ino_{0};
  Ref<FixedDirectory> root_;
};

}  // namespace skep::fs
