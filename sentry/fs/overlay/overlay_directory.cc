// Directories of an OverlayFs: lookups, listings, new names and removed ones.
#include <dirent.h>
#include <fcntl.h>
#include <algorithm>
#include <unordered_set>

#include "sentry/fs/overlay/overlay_inode.h"

namespace skep::fs {
namespace {

constexpr char kOpaque[] = "trusted.overlay.opaque";

bool IsOpaque(vfs::Inode& upper) {
  const Result<std::string> value = upper.GetXattr(kOpaque);
  return value && *value == "y";
}

// What `directory` has, by its own File: name, inode number, type.
Result<std::vector<OverlayInode::Entry>> ReadAll(vfs::Caller& caller, vfs::Inode& directory) {
  const vfs::Path path({}, vfs::Dentry::MakeAnonymous(Ref<vfs::Inode>(&directory), ""));
  const Ref<vfs::File> file = TRY(directory.Open(caller, path, O_RDONLY | O_DIRECTORY));
  std::vector<OverlayInode::Entry> entries;
  const vfs::DirSink sink = [&](const vfs::DirEntry& entry) {
    if (entry.name != "." && entry.name != "..") {
      entries.push_back({std::string(entry.name), entry.ino, entry.type});
    }
    return true;
  };
  TRY(file->ReadDir(caller, 0, sink));
  return entries;
}

}  // namespace

Result<Ref<vfs::Inode>> OverlayInode::UpperEntry(std::string_view name) {
  sched::SleepLockHold hold(upper()->directory_lock());
  return upper()->Lookup(name);
}

bool OverlayInode::LowerHas(std::string_view name) {
  if (!lower_) return false;
  const Result<Ref<vfs::Inode>> found = lower_->Lookup(name);
  // One that cannot be looked for now (EIO, a kill) may be there.
  return found || (found.error() != Errno(ENOENT) && found.error() != Errno(ENOTDIR));
}

Result<Ref<vfs::Inode>> OverlayInode::Lookup(std::string_view name) {
  Ref<vfs::Inode> above;
  if (upper() != nullptr) {
    Result<Ref<vfs::Inode>> found = UpperEntry(name);
    if (found) {
      above = std::move(*found);
    } else if (found.error() != Errno(ENOENT)) {
      return found;
    }
  }
  if (above && IsWhiteout(*above)) return Fail(ENOENT);
  Ref<OverlayInode> self(this);
  if (above && !above->IsDir()) {
    return Ref<vfs::Inode>(overlay_.Get(std::move(above), {}, std::move(self), name));
  }
  Ref<vfs::Inode> below;
  if (lower_) {
    Result<Ref<vfs::Inode>> found = lower_->Lookup(name);
    if (found) {
      below = std::move(*found);
    } else if (found.error() != Errno(ENOENT)) {
      return found;
    }
  }
  if (above && below && (!below->IsDir() || IsOpaque(*above))) below = {};
  if (!above && !below) return Fail(ENOENT);
  return Ref<vfs::Inode>(overlay_.Get(std::move(above), std::move(below), std::move(self), name));
}

void OverlayInode::PrefetchWalk(std::span<const std::string_view> names, LastName last) {
  if (!lower_ || names.empty()) return;
  if (upper() != nullptr) {
    const Result<Ref<vfs::Inode>> above = UpperEntry(names[0]);
    if (above && !(*above)->IsDir()) return;
  }
  lower_->PrefetchWalk(names, last);
}

Result<std::vector<OverlayInode::Entry>> OverlayInode::Entries(vfs::Caller& caller) {
  if (upper() == nullptr) return ReadAll(caller, *lower_);
  std::vector<Entry> entries = TRY(ReadAll(caller, *upper()));
  std::unordered_set<std::string> above;
  if (lower_) {
    for (const Entry& entry : entries) above.insert(entry.name);
  }
  std::erase_if(entries, [&](Entry& entry) {
    const Result<Ref<vfs::Inode>> inode = UpperEntry(entry.name);
    if (!inode) return true;
    entry.ino = overlay_.InoOfUpper(**inode);
    return entry.type == DT_CHR && IsWhiteout(**inode);
  });
  if (!lower_) return entries;
  std::vector<Entry> below = TRY(ReadAll(caller, *lower_));
  // A merged directory that nobody holds has the lower one's number all the same.
  for (Entry& entry : below) {
    if (!above.contains(entry.name)) {
      entries.push_back(std::move(entry));
      continue;
    }
    const auto merged = std::find_if(entries.begin(), entries.end(), [&](const Entry& other) {
      return other.type == DT_DIR && entry.type == DT_DIR && other.name == entry.name;
    });
    if (merged == entries.end()) continue;
    const Result<Ref<vfs::Inode>> inode = UpperEntry(entry.name);
    if (inode && !IsOpaque(**inode)) merged->ino = entry.ino;
  }
  return entries;
}

Result<bool> OverlayInode::IsEmpty() {
  KernelCaller kernel;
  const std::vector<Entry> entries = TRY(Entries(kernel));
  return entries.empty();
}

// -- names in the upper directory --

Result<bool> OverlayInode::RemoveWhiteout(std::string_view name) {
  sched::SleepLockHold hold(upper()->directory_lock());
  const Result<Ref<vfs::Inode>> above = upper()->Lookup(name);
  if (!above || !IsWhiteout(**above)) return false;
  TRY(upper()->Unlink(name, **above));
  return true;
}

Result<void> OverlayInode::AddWhiteout(std::string_view name) {
  sched::SleepLockHold hold(upper()->directory_lock());
  TRY(upper()->Create(name, {.mode = S_IFCHR, .uid = 0, .gid = 0}));
  return {};
}

// Before an upper directory that shows empty is removed or replaced.
Result<void> OverlayInode::ClearWhiteouts() {
  KernelCaller kernel;
  const std::vector<Entry> entries = TRY(ReadAll(kernel, *upper()));
  for (const Entry& entry : entries) TRY(RemoveWhiteout(entry.name));
  return {};
}

Result<Ref<vfs::Inode>> OverlayInode::FinishCreate(std::string_view name, Ref<vfs::Inode> made,
                                                   bool was_whiteout) {
  // A directory in place of a lower one must not show that one's names.
  if (made->IsDir() && was_whiteout) TRY(made->SetXattr(kOpaque, "y", 0));
  return Ref<vfs::Inode>(overlay_.Get(std::move(made), {}, Ref<OverlayInode>(this), name));
}

Result<Ref<vfs::Inode>> OverlayInode::Create(std::string_view name, const NewNode& node) {
  TRY(CopyUp());
  const bool was_whiteout = TRY(RemoveWhiteout(name));
  Ref<vfs::Inode> made;
  {
    sched::SleepLockHold hold(upper()->directory_lock());
    made = TRY(upper()->Create(name, node));
  }
  return FinishCreate(name, std::move(made), was_whiteout);
}

Result<Ref<vfs::Inode>> OverlayInode::Symlink(std::string_view name, std::string_view target,
                                              const NewNode& node) {
  TRY(CopyUp());
  const bool was_whiteout = TRY(RemoveWhiteout(name));
  Ref<vfs::Inode> made;
  {
    sched::SleepLockHold hold(upper()->directory_lock());
    made = TRY(upper()->Symlink(name, target, node));
  }
  return FinishCreate(name, std::move(made), was_whiteout);
}

Result<Ref<vfs::Inode>> OverlayInode::TemporaryFile(const NewNode& node) {
  TRY(CopyUp());
  Ref<vfs::Inode> made = TRY(upper()->TemporaryFile(node));
  return Ref<vfs::Inode>(overlay_.Get(std::move(made), {}, Ref<OverlayInode>(this), ""));
}

Result<void> OverlayInode::Link(std::string_view name, vfs::Inode& existing) {
  auto& inode = static_cast<OverlayInode&>(existing);
  TRY(CopyUp());
  TRY(inode.CopyUp());
  TRY(RemoveWhiteout(name));
  {
    sched::SleepLockHold hold(upper()->directory_lock());
    TRY(upper()->Link(name, *inode.upper()));
  }
  inode.ChangeLinks(1);
  return {};
}

Result<void> OverlayInode::Unlink(std::string_view name, vfs::Inode& victim) {
  TRY(CopyUp());
  {
    sched::SleepLockHold hold(upper()->directory_lock());
    const Result<Ref<vfs::Inode>> above = upper()->Lookup(name);
    if (above) TRY(upper()->Unlink(name, **above));
  }
  if (LowerHas(name)) TRY(AddWhiteout(name));
  static_cast<OverlayInode&>(victim).ChangeLinks(-1);
  return {};
}

Result<void> OverlayInode::Rmdir(std::string_view name, vfs::Inode& victim) {
  auto& directory = static_cast<OverlayInode&>(victim);
  const bool empty = TRY(directory.IsEmpty());
  if (!empty) return Fail(ENOTEMPTY);
  TRY(CopyUp());
  if (directory.upper() != nullptr) {
    TRY(directory.ClearWhiteouts());
    sched::SleepLockHold hold(upper()->directory_lock());
    TRY(upper()->Rmdir(name, *directory.upper()));
  }
  if (LowerHas(name)) TRY(AddWhiteout(name));
  directory.Unpin();
  return {};
}

// -- rename --

Result<void> OverlayInode::CheckRename(OverlayInode& moved, OverlayInode* target,
                                       uint32_t flags) const {
  if ((flags & ~uint32_t{RENAME_NOREPLACE | RENAME_EXCHANGE}) != 0) return Fail(EINVAL);
  // A lower directory would have to be copied whole: programs (mv) do that themselves.
  if (moved.HasLowerNames()) return Fail(EXDEV);
  if (target == nullptr) return {};
  if ((flags & RENAME_EXCHANGE) != 0) {
    if (target->HasLowerNames()) return Fail(EXDEV);
    return {};
  }
  if (!target->IsDir()) return {};
  const bool empty = TRY(target->IsEmpty());
  if (!empty) return Fail(ENOTEMPTY);
  return {};
}

// An inode that was copied up under another of its names has none here yet.
Result<void> OverlayInode::HaveUpperName(std::string_view name, OverlayInode& inode) {
  TRY(inode.CopyUp());
  sched::SleepLockHold hold(upper()->directory_lock());
  if (upper()->Lookup(name).has_value()) return {};
  return upper()->Link(name, *inode.upper());
}

Result<void> OverlayInode::MoveUpper(std::string_view name, OverlayInode& moved, OverlayInode& to,
                                     std::string_view new_name, OverlayInode* target,
                                     uint32_t flags) {
  vfs::Inode* from_upper = upper();
  vfs::Inode* to_upper = to.upper();
  std::optional<sched::SleepLockHold> first, second;
  first.emplace(std::min(from_upper, to_upper)->directory_lock());
  if (from_upper != to_upper) second.emplace(std::max(from_upper, to_upper)->directory_lock());
  vfs::Inode* replaced = nullptr;
  Ref<vfs::Inode> held;
  if (target != nullptr) {
    Result<Ref<vfs::Inode>> above = to_upper->Lookup(new_name);
    if (above) held = std::move(*above);
    replaced = held.get();
  }
  return from_upper->Rename(name, *moved.upper(), *to_upper, new_name, replaced,
                            flags & RENAME_EXCHANGE);
}

Result<void> OverlayInode::Rename(std::string_view name, vfs::Inode& moved_inode,
                                  vfs::Inode& new_directory, std::string_view new_name,
                                  vfs::Inode* target_inode, uint32_t flags) {
  auto& moved = static_cast<OverlayInode&>(moved_inode);
  auto& to = static_cast<OverlayInode&>(new_directory);
  auto* target = static_cast<OverlayInode*>(target_inode);
  TRY(CheckRename(moved, target, flags));
  const bool exchange = (flags & RENAME_EXCHANGE) != 0;
  TRY(CopyUp());
  TRY(to.CopyUp());
  TRY(HaveUpperName(name, moved));
  if (exchange) TRY(to.HaveUpperName(new_name, *target));
  if (!exchange && target != nullptr && target->IsDir() && target->upper() != nullptr) {
    TRY(target->ClearWhiteouts());
  }
  if (!exchange) TRY(to.RemoveWhiteout(new_name));
  TRY(MoveUpper(name, moved, to, new_name, target, flags));
  if (moved.IsDir() && to.lower_) TRY(moved.upper()->SetXattr(kOpaque, "y", 0));
  if (exchange) {
    if (target->IsDir() && lower_) TRY(target->upper()->SetXattr(kOpaque, "y", 0));
    return {};
  }
  if (LowerHas(name)) TRY(AddWhiteout(name));
  if (target != nullptr) {
    target->ChangeLinks(-1);
    if (target->IsDir()) target->Unpin();
  }
  return {};
}

}  // namespace skep::fs
