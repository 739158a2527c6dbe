// For unit tests of file systems: a namespace, a caller with credentials of the test's choosing,
// and short words for the operations on names. No fibers, no guest.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <memory>
#include <string>
#include <vector>

#include "sentry/arena/arena_test_environment.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/mm/memory_file.h"
#include "sentry/vfs/dentry_cache.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/name_ops.h"
#include "sentry/vfs/permission.h"

namespace skep::fs {

class TestCaller final : public vfs::Caller {
 public:
  TestCaller() { Root(); }
  void Root() {
    creds_ = auth::Credentials();
    creds_.permitted = creds_.effective = auth::kAllCapabilities;
  }
  void User(uint32_t uid, uint32_t gid, std::vector<uint32_t> groups = {}) {
    creds_ = auth::Credentials();
    creds_.uid = creds_.euid = creds_.suid = creds_.fsuid = uid;
    creds_.gid = creds_.egid = creds_.sgid = creds_.fsgid = gid;
    creds_.groups = std::move(groups);
  }
  void Give(int capability) { creds_.effective |= uint64_t{1} << capability; }
  void Take(int capability) { creds_.effective &= ~(uint64_t{1} << capability); }

  const auth::Credentials& creds() const override { return creds_; }
  mm::UserMemory& memory() override { std::abort(); }
  void SignalSelf(int signo) override { last_signal = signo; }
  uint64_t FileSizeLimit() const override { return file_size_limit; }

  int last_signal = 0;
  uint64_t file_size_limit = ~uint64_t{0};

 private:
  auth::Credentials creds_;
};

// 0 or the errno: what the tests compare.
template <class T>
int Code(const Result<T>& result) {
  return result ? 0 : result.error().code();
}

class World {
 public:
  // An empty tmpfs as root.
  World() : World(nullptr) {}
  // `root` makes the root's file system out of the sandbox's memory.
  explicit World(const std::function<Ref<vfs::FileSystem>(mm::MemoryFile&)>& root) {
    auto made = mm::MemoryFile::Make();
    EXPECT_TRUE(made.has_value());
    memory = std::move(*made);
    Ref<vfs::FileSystem> fs = root ? root(*memory) : NewTmpFs(1);
    mounts = MakeRef<vfs::MountNamespace>(fs);
    context = MakeRef<vfs::FsContext>(mounts, mounts->root(), mounts->root(), 022u);
  }

  Ref<TmpFs> NewTmpFs(uint32_t dev_minor, uint64_t max_bytes = 0) {
    return MakeRef<TmpFs>(
        *memory, TmpFsOptions{.dev_minor = dev_minor, .max_bytes = max_bytes, .mode = 0755});
  }

  vfs::NameOps Walk() { return vfs::NameOps(caller, *context); }
  vfs::NameOps WalkFrom(std::string_view start) {
    return vfs::NameOps(caller, *context, Find(start).value());
  }

  Result<vfs::Path> Find(std::string_view path, vfs::WalkOptions options = {}) {
    return Walk().Resolve(path, options);
  }
  Result<vfs::Path> FindLink(std::string_view path) {
    return Walk().Resolve(path, {.follow = vfs::FollowFinal::kNo});
  }
  Result<vfs::Attributes> Stat(std::string_view path) {
    Result<vfs::Path> found = Find(path);
    if (!found) return std::unexpected(found.error());
    return found->inode()->GetAttributes();
  }
  Result<Ref<vfs::File>> Open(std::string_view path, int flags, uint32_t mode = 0644) {
    return Walk().Open(path, {.flags = static_cast<uint32_t>(flags), .mode = mode});
  }
  int OpenCode(std::string_view path, int flags, uint32_t mode = 0644) {
    return Code(Open(path, flags, mode));
  }
  int Mkdir(std::string_view path, uint32_t mode = 0755) { return Code(Walk().Mkdir(path, mode)); }
  int Rmdir(std::string_view path) { return Code(Walk().Rmdir(path)); }
  int Unlink(std::string_view path) { return Code(Walk().Unlink(path)); }
  int Symlink(std::string_view target, std::string_view path) {
    return Code(Walk().Symlink(target, path));
  }
  int Link(std::string_view existing, std::string_view path) {
    Result<vfs::Path> found = FindLink(existing);
    if (!found) return found.error().code();
    return Code(Walk().Link(*found, path));
  }
  int Rename(std::string_view from, std::string_view to, uint32_t flags = 0) {
    vfs::NameOps other = Walk();
    return Code(Walk().Rename(from, other, to, flags));
  }
  int Chmod(std::string_view path, uint32_t mode) {
    Result<vfs::Path> found = Find(path);
    return found ? Code(Walk().Chmod(*found, mode)) : found.error().code();
  }
  int Chown(std::string_view path, std::optional<uint32_t> uid, std::optional<uint32_t> gid) {
    Result<vfs::Path> found = Find(path);
    return found ? Code(Walk().Chown(*found, uid, gid)) : found.error().code();
  }

  int Write(std::string_view path, std::string_view text, int flags = O_CREAT | O_TRUNC) {
    Result<Ref<vfs::File>> file = Open(path, O_WRONLY | flags);
    if (!file) return file.error().code();
    return Code(WriteTo(**file, text, 0));
  }
  Result<size_t> WriteTo(vfs::File& file, std::string_view text, uint64_t offset) {
    mm::IoSequence from = mm::IoSequence::FromKernel(std::as_bytes(std::span(text)));
    return file.Write(caller, from, &offset);
  }
  std::string ReadFrom(vfs::File& file, uint64_t offset = 0, size_t max = 1 << 20) {
    std::string text(max, '\0');
    const auto room = std::as_writable_bytes(std::span(text.data(), text.size()));
    mm::IoSequence to = mm::IoSequence::FromKernel(room);
    Result<size_t> got = file.Read(caller, to, offset);
    if (!got) return "error " + std::to_string(got.error().code());
    text.resize(*got);
    return text;
  }
  std::string Read(std::string_view path) {
    Result<Ref<vfs::File>> file = Open(path, O_RDONLY);
    if (!file) return "error " + std::to_string(file.error().code());
    return ReadFrom(**file);
  }
  // Sorted names, without "." and "..".
  std::vector<std::string> List(std::string_view path) {
    Result<Ref<vfs::File>> file = Open(path, O_RDONLY | O_DIRECTORY);
    if (!file) return {"error " + std::to_string(file.error().code())};
    std::vector<std::string> names;
    uint64_t cookie = 0;
    for (bool more = true; more;) {
      int room = 7;  // a small buffer, to go on from cookies
      more = false;
      const auto sink = [&](const vfs::DirEntry& entry) {
        if (room-- == 0) return false;
        more = true;
        if (entry.name != "." && entry.name != "..") names.emplace_back(entry.name);
        return true;
      };
      Result<uint64_t> next = (*file)->ReadDir(caller, cookie, sink);
      if (!next) return {"error " + std::to_string(next.error().code())};
      cookie = *next;
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  std::string Name(std::string_view path) {
    Result<vfs::Path> found = Find(path);
    return found ? vfs::NameOf(*found, context->root()) : "error";
  }

  std::unique_ptr<mm::MemoryFile> memory;
  TestCaller caller;
  Ref<vfs::MountNamespace> mounts;
  Ref<vfs::FsContext> context;
};

using Names = std::vector<std::string>;

}  // namespace skep::fs
