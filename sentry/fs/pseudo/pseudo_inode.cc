#include "sentry/fs/pseudo/pseudo_inode.h"

#include <unistd.h>
#include <algorithm>

#include "base/check.h"
#include "sentry/vfs/listing_file.h"

namespace skep::fs {
namespace {

// lseek(2) of files whose length nobody knows (Linux: seq_lseek).
Result<uint64_t> SeekWithoutEnd(vfs::File& file, int64_t offset, int whence)
    REQUIRES(file.position_lock()) {
  if (whence != SEEK_SET && whence != SEEK_CUR) return Fail(EINVAL);
  return file.vfs::File::Seek(offset, whence);
}

class TextFile final : public vfs::File {
 public:
  TextFile(PseudoFile& inode, const vfs::Path& path, uint32_t flags)
      : File(path, flags), inode_(inode) {}

  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override {
    std::shared_ptr<const std::string> text = offset == 0 ? nullptr : Current();
    if (text == nullptr) {
      std::string made = TRY(inode_.Text(caller, *this));
      text = std::make_shared<const std::string>(std::move(made));
      SetCurrent(text);
    }
    if (offset >= text->size()) return size_t{0};
    const size_t size = std::min(to.size(), text->size() - static_cast<size_t>(offset));
    return to.CopyOut(std::as_bytes(std::span(*text).subspan(offset, size))).OrFault();
  }

  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t*) override {
    std::string text(std::min(from.size(), PseudoFile::kMaxStore), '\0');
    const size_t size = from.size();
    const mm::CopyResult copied = from.CopyIn(std::as_writable_bytes(std::span(text)));
    if (copied.fault != 0) return Fail(copied.fault);
    TRY(inode_.Store(caller, text));
    return size;
  }

  Result<uint64_t> Seek(int64_t offset, int whence) override REQUIRES(position_lock()) {
    return SeekWithoutEnd(*this, offset, whence);
  }

 private:
  std::shared_ptr<const std::string> Current() {
    MutexLock lock(mutex_);
    return text_;
  }
  void SetCurrent(std::shared_ptr<const std::string> text) {
    MutexLock lock(mutex_);
    text_.swap(text);
  }

  PseudoFile& inode_;
  Mutex mutex_{LockRank::kFile};
  std::shared_ptr<const std::string> text_ GUARDED_BY(mutex_);
};

class DirectoryFile final : public vfs::ListingFile {
 public:
  DirectoryFile(PseudoDirectory& directory, const vfs::Path& path, uint32_t flags)
      : ListingFile(path, flags), directory_(directory) {}
  Result<void> Sync(bool data_only) override { return File::Sync(data_only); }

 protected:
  Result<void> List(vfs::Caller&, uint64_t cookie, const vfs::DirSink& sink) override {
    constexpr size_t kAtOnce = 256;
    std::vector<PseudoDirectory::Entry> entries;
    do {
      entries.clear();
      directory_.List(cookie, kAtOnce, entries);
      for (const PseudoDirectory::Entry& entry : entries) {
        if (!sink({.name = entry.name,
                   .ino = entry.ino,
                   .type = vfs::DirEntryType(entry.type),
                   .next_cookie = entry.cookie})) {
          return {};
        }
        cookie = entry.cookie;
      }
    } while (!entries.empty());
    return {};
  }

 private:
  PseudoDirectory& directory_;
};

}  // namespace

PseudoInode::PseudoInode(vfs::FileSystem& fs, uint64_t ino, uint32_t mode)
    : Inode(fs, ino, mode & S_IFMT), mode_(mode), made_(vfs::CurrentTime()) {}

Result<vfs::Attributes> PseudoInode::GetAttributes() {
  vfs::Attributes attributes;
  attributes.ino = ino();
  attributes.dev_minor = fs().dev_minor();
  attributes.mode = mode_;
  attributes.nlink = IsDir() ? 2 : 1;
  attributes.size = Size();
  attributes.blksize = 1024;
  attributes.atime = attributes.mtime = attributes.ctime = made_;
  Adjust(attributes);
  return attributes;
}

Result<void> PseudoInode::SetAttributes(const vfs::AttributeChange& change) {
  if (change.mode || change.uid || change.gid) return Fail(EPERM);
  return {};
}

Result<Ref<vfs::File>> PseudoInode::Open(vfs::Caller&, const vfs::Path&, uint32_t) {
  return Fail(IsSymlink() ? ELOOP : EACCES);
}

Result<Ref<vfs::File>> PseudoFile::Open(vfs::Caller& caller, const vfs::Path& path,
                                        uint32_t flags) {
  TRY(MayOpen(caller, flags));
  return Ref<vfs::File>(MakeRef<TextFile>(*this, path, flags));
}

Result<void> PseudoFile::MayOpen(vfs::Caller&, uint32_t) { return {}; }

Result<void> PseudoFile::Store(vfs::Caller&, std::string_view) { return Fail(EIO); }

Result<std::string> PseudoText::Text(vfs::Caller&, const vfs::File&) { return source_(); }

Result<void> PseudoText::Store(vfs::Caller& caller, std::string_view text) {
  if (!sink_) return Fail(EIO);
  return sink_(caller, text);
}

PseudoLink::PseudoLink(vfs::FileSystem& fs, uint64_t ino, std::string_view target)
    : PseudoInode(fs, ino, S_IFLNK | 0777), target_(target) {}

Result<std::string> PseudoLink::ReadLink(vfs::Caller&) { return target_; }

Result<Ref<vfs::File>> PseudoDirectory::Open(vfs::Caller& caller, const vfs::Path& path,
                                             uint32_t flags) {
  TRY(MayOpen(caller));
  return Ref<vfs::File>(MakeRef<DirectoryFile>(*this, path, flags));
}

Result<void> PseudoDirectory::MayOpen(vfs::Caller&) { return {}; }

PseudoInode* FixedDirectory::Find(std::string_view name) const {
  for (const Child& child : children_) {
    if (child.name == name) return child.inode.get();
  }
  return nullptr;
}

Result<Ref<vfs::Inode>> FixedDirectory::Lookup(std::string_view name) {
  PseudoInode* found = Find(name);
  if (found == nullptr) return Fail(ENOENT);
  return Ref<vfs::Inode>(found);
}

void FixedDirectory::List(uint64_t after, size_t max, std::vector<Entry>& to) {
  size_t next = after < vfs::kFirstEntryCookie ? 0 : after - vfs::kFirstEntryCookie + 1;
  for (; next < children_.size() && max > 0; ++next, --max) {
    const Child& child = children_[next];
    to.push_back({.cookie = vfs::kFirstEntryCookie + next,
                  .name = child.name,
                  .ino = child.inode->ino(),
                  .type = child.inode->type()});
  }
}

void FixedDirectory::Add(std::string_view name, Ref<PseudoInode> inode) {
  if (inode->IsDir()) ++directories_;
  children_.push_back({std::string(name), std::move(inode)});
}

void FixedDirectory::Adjust(vfs::Attributes& attributes) { attributes.nlink = 2 + directories_; }

PseudoFs::PseudoFs(uint32_t dev_minor, uint32_t directory_mode, uint64_t text_size)
    : FileSystem(dev_minor, 1024), directory_mode_(directory_mode), text_size_(text_size) {}

// A negative dentry is never trusted: the name may come to exist. A lookup of the fixed part is as
// cheap as its revalidation.
bool PseudoFs::Revalidate(vfs::Dentry& dentry) {
  return !dentry.negative() && static_cast<PseudoInode*>(dentry.raw_inode())->Valid();
}

FixedDirectory& PseudoFs::AddDirectory(std::string_view path) {
  FixedDirectory* directory = root_.get();
  while (!path.empty()) {
    const std::string_view name = path.substr(0, path.find('/'));
    path.remove_prefix(std::min(path.size(), name.size() + 1));
    PseudoInode* found = directory->Find(name);
    if (found == nullptr) {
      Ref<FixedDirectory> made =
          MakeRef<FixedDirectory>(*this, NextIno(), S_IFDIR | directory_mode_);
      found = made.get();
      directory->Add(name, std::move(made));
    }
    CHECK(found->IsDir());
    directory = static_cast<FixedDirectory*>(found);
  }
  return *directory;
}

void PseudoFs::Add(std::string_view path, Ref<PseudoInode> inode) {
  const size_t slash = path.rfind('/');
  FixedDirectory& directory = slash == path.npos ? *root_ : AddDirectory(path.substr(0, slash));
  directory.Add(slash == path.npos ? path : path.substr(slash + 1), std::move(inode));
}

void PseudoFs::AddText(std::string_view path, uint32_t permissions, PseudoText::Source text,
                       PseudoText::Sink sink) {
  Add(path, MakeRef<PseudoText>(*this, NextIno(), S_IFREG | permissions, text_size_,
                                std::move(text), std::move(sink)));
}

void PseudoFs::AddLink(std::string_view path, std::string_view target) {
  Add(path, MakeRef<PseudoLink>(*this, NextIno(), target));
}

}  // namespace skep::fs
