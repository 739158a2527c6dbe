#include "sentry/fs/gofer/gofer_inode.h"

#include <fcntl.h>
#include <array>

#include "base/host_call.h"
#include "sentry/arena/arena.h"
#include "sentry/auth/exec_credentials.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/sched/scheduler.h"
#include "sentry/vfs/special_files.h"

namespace skep::fs {

static_assert(gofer::kUnmappedId == vfs::kUnmappedId);

vfs::Attributes FromGofer(const gofer::Attributes& from, uint32_t dev_minor) {
  return {.ino = from.ino,
          .dev_major = 0,
          .dev_minor = dev_minor,
          .mode = from.mode,
          .nlink = from.nlink,
          .uid = from.uid,
          .gid = from.gid,
          .rdev_major = from.rdev_major,
          .rdev_minor = from.rdev_minor,
          .size = from.size,
          .blocks = from.blocks,
          .blksize = from.blksize,
          .atime = {from.atime_sec, from.atime_nsec},
          .mtime = {from.mtime_sec, from.mtime_nsec},
          .ctime = {from.ctime_sec, from.ctime_nsec},
          .btime = {from.btime_sec, from.btime_nsec}};
}

void CloseHostFd(arena::HostFd fd, bool mapped) {
  if (!fd) return;
  const arena::HostHeapScope host;
  sched::Fiber* fiber = sched::Fiber::CurrentOrNull();
  if (mapped && fiber != nullptr) {
    sched::Scheduler& scheduler = fiber->worker().scheduler();
    for (int i = 0; i < scheduler.worker_count(); i++) {
      scheduler.worker(i).engine().Forget(arena::HostTable::FileIdOf(fd));
    }
  }
  const OwnedFd closed = arena::HostTable::Get().Remove(fd);
}

GoferInode::GoferInode(GoferFs& fs, const gofer::NodeRecord& record)
    : Inode(fs, record.attributes.ino, record.attributes.mode & S_IFMT),
      gofer_fs_(fs),
      node_(record.node),
      remote_(record.attributes.remote != 0),
      attributes_(FromGofer(record.attributes, fs.dev_minor())),
      heard_ns_(host::MonotonicNs()) {}

GoferInode::~GoferInode() {
  ForgetChildren();
  CloseHostFd(read_fd_, mapped_);
  CloseHostFd(write_fd_, mapped_);
  gofer_fs_.donated().Return((read_fd_ ? 1 : 0) + (write_fd_ ? 1 : 0));
  gofer_fs_.OnDestroy(*this, node_, references_);
}

Result<void> GoferInode::CheckWritable() const {
  if (gofer_fs_.read_only()) return Fail(EROFS);
  return {};
}

void GoferInode::Absorb(const gofer::NodeRecord& record) {
  {
    MutexLock lock(mutex_);
    references_++;
  }
  UpdateAttributes(record.attributes);
}

void GoferInode::UpdateAttributes(const gofer::Attributes& attributes) {
  const vfs::Attributes now = FromGofer(attributes, gofer_fs_.dev_minor());
  bool shrunk = false;
  {
    MutexLock lock(mutex_);
    shrunk = now.size < attributes_.size && !mappings_.empty();
    attributes_ = now;
    heard_ns_ = host::MonotonicNs();
    stale_ = false;
  }
  if (shrunk) InvalidateMappings(now.size);
}

void GoferInode::MarkStale() {
  MutexLock lock(mutex_);
  stale_ = true;
}

bool GoferInode::Fresh() {
  MutexLock lock(mutex_);
  return gofer_fs_.StillTrue(heard_ns_);
}

Result<void> GoferInode::Refresh() {
  const gofer::Attributes now =
      TRY(gofer_fs_.Call([&](gofer::Client& client) { return client.GetAttr(node_); }));
  UpdateAttributes(now);
  return {};
}

Result<vfs::Attributes> GoferInode::GetAttributes() {
  {
    MutexLock lock(mutex_);
    if (!stale_ && gofer_fs_.StillTrue(heard_ns_)) return attributes_;
  }
  TRY(Refresh());
  MutexLock lock(mutex_);
  return attributes_;
}

Result<void> GoferInode::SetAttributes(const vfs::AttributeChange& change) {
  TRY(CheckWritable());
  gofer::SetAttrRequest request{.node = node_};
  const auto set = [&](uint32_t bit) { request.mask |= bit; };
  if (change.mode) {
    set(gofer::kSetMode);
    request.mode = *change.mode;
  }
  if (change.uid) {
    set(gofer::kSetUid);
    request.uid = *change.uid;
  }
  if (change.gid) {
    set(gofer::kSetGid);
    request.gid = *change.gid;
  }
  if (change.size) {
    set(gofer::kSetSize);
    request.size = *change.size;
  }
  if (change.atime) {
    set(gofer::kSetAtime);
    request.atime_sec = change.atime->sec;
    request.atime_nsec = change.atime->nsec;
  }
  if (change.mtime) {
    set(gofer::kSetMtime);
    request.mtime_sec = change.mtime->sec;
    request.mtime_nsec = change.mtime->nsec;
  }
  const gofer::Attributes now =
      TRY(gofer_fs_.Call([&](gofer::Client& client) { return client.SetAttr(request); }));
  UpdateAttributes(now);
  return {};
}

void GoferInode::SetTarget(std::string_view target) {
  MutexLock lock(mutex_);
  target_ = std::make_unique<std::string>(target);
}

Result<std::string> GoferInode::ReadLink(vfs::Caller&) {
  {
    MutexLock lock(mutex_);
    if (target_ != nullptr) return *target_;
  }
  if (!IsSymlink()) return Fail(EINVAL);
  const Result<std::string> target =
      gofer_fs_.Call([&](gofer::Client& client) { return client.Readlink(node_); });
  if (!target) return std::unexpected(target.error());
  SetTarget(*target);
  return std::string(*target);
}

// -- descriptors --

Result<arena::HostFd> GoferInode::OpenFd(bool write, bool favoured) {
  TRY(gofer_fs_.donated().Reserve(favoured));
  Result<gofer::Opened> opened = gofer_fs_.Call([&](gofer::Client& client) {
    Result<gofer::Opened> first = client.Open(node_, write ? O_RDWR : O_RDONLY);
    if (first || !write || first.error() != Errno(EACCES)) return first;
    return client.Open(node_, O_WRONLY);
  });
  if (!opened) {
    gofer_fs_.donated().Return(1);
    return std::unexpected(opened.error());
  }
  UpdateAttributes(opened->attributes);
  return arena::HostTable::Get().Add(std::move(opened->file));
}

// One more user of the inode's descriptor, or of `fresh` if it has none.
arena::HostFd GoferInode::UseFd(bool write, DonatedFiles::Charge& charge, arena::HostFd fresh) {
  MutexLock lock(mutex_);
  if (write) wrote_ = true;
  arena::HostFd& fd = write ? write_fd_ : read_fd_;
  if (!fd) fd = fresh;
  if (fd && fd_users_++ == 0) charge_ = std::move(charge);
  return fd;
}

Result<arena::HostFd> GoferInode::AcquireFd(bool write, const auth::Credentials* user) {
  DonatedFiles& donated = gofer_fs_.donated();
  DonatedFiles::Charge charge;  // given back at the end unless it is this user who pays
  if (user != nullptr) charge = TRY(donated.ChargeTo(*user));
  if (const arena::HostFd fd = UseFd(write, charge)) return fd;
  if (write) TRY(CheckWritable());
  const bool favoured = user != nullptr && DonatedFiles::IsFavoured(*user);
  const arena::HostFd opened = TRY(OpenFd(write, favoured));
  const arena::HostFd used = UseFd(write, charge, opened);
  if (used != opened) CloseDonated(opened);
  return used;
}

void GoferInode::CloseDonated(arena::HostFd fd, bool mapped) {
  if (!fd) return;
  CloseHostFd(fd, mapped);
  gofer_fs_.donated().Return(1);
}

// A descriptor that came with the walk to this file; nobody uses it yet.
void GoferInode::KeepReadFd(OwnedFd file) {
  const bool room = gofer_fs_.donated().Reserve(false).has_value();
  bool kept = false;
  bool idle = false;
  if (room) {
    MutexLock lock(mutex_);
    kept = !read_fd_;
    if (kept) read_fd_ = arena::HostTable::Get().Add(std::move(file));
    idle = kept && fd_users_ == 0;
  }
  if (room && !kept) gofer_fs_.donated().Return(1);
  if (idle) gofer_fs_.donated().NoteIdle(*this);
  const arena::HostHeapScope host;
  file.Reset();
}

void GoferInode::ReleaseFd() {
  DonatedFiles::Charge ended;
  {
    MutexLock lock(mutex_);
    if (--fd_users_ != 0) return;
    std::swap(ended, charge_);
  }
  gofer_fs_.donated().NoteIdle(*this);
}

void GoferInode::CloseIdleFds() {
  arena::HostFd read_fd, write_fd;
  bool mapped = false;
  {
    MutexLock lock(mutex_);
    if (fd_users_ != 0) return;
    read_fd = std::exchange(read_fd_, {});
    write_fd = std::exchange(write_fd_, {});
    mapped = std::exchange(mapped_, false);
  }
  CloseDonated(read_fd, mapped);
  CloseDonated(write_fd, mapped);
}

Result<void> GoferInode::ReopenFds() {
  arena::HostFd read_fd, write_fd;
  {
    MutexLock lock(mutex_);
    read_fd = read_fd_;
    write_fd = write_fd_;
  }
  const auto reopen = [&](arena::HostFd fd, int flags) -> Result<void> {
    if (!fd) return {};
    gofer::Opened opened =
        TRY(gofer_fs_.Call([&](gofer::Client& client) { return client.Open(node_, flags); }));
    arena::HostTable::Get().Restore(fd, std::move(opened.file));
    return {};
  };
  TRY(reopen(read_fd, O_RDONLY));
  return reopen(write_fd, O_RDWR);
}

std::optional<uint64_t> GoferInode::KnownSize() {
  MutexLock lock(mutex_);
  if (!gofer_fs_.exclusive() || wrote_ || stale_) return std::nullopt;
  if (!gofer_fs_.StillTrue(heard_ns_)) return std::nullopt;
  return attributes_.size;
}

void GoferInode::NoteWrite(uint64_t end) {
  MutexLock lock(mutex_);
  stale_ = true;
  attributes_.size = std::max(attributes_.size, end);
}

Result<Ref<vfs::File>> GoferInode::Open(vfs::Caller& caller, const vfs::Path& path,
                                        uint32_t flags) {
  if (IsDir()) return MakeGoferDirectoryFile(*this, path, flags);
  if (type() != S_IFREG) return vfs::OpenSpecial(*this, caller, path, flags);
  const bool write = (flags & O_ACCMODE) != O_RDONLY;
  const arena::HostFd fd = TRY(AcquireFd(write, &caller.creds()));
  if (!gofer_fs_.exclusive()) MarkStale();  // close-to-open: asked for again
  return MakeGoferFile(*this, path, flags, fd);
}

// -- mappings --

void GoferInode::AddMapping(mm::MemoryManager& mm, Range addresses, uint64_t offset) {
  MutexLock lock(mutex_);
  mapped_ = true;
  mappings_.push_back({&mm, addresses, offset});
}

void GoferInode::RemoveMapping(mm::MemoryManager& mm, Range addresses, uint64_t offset) {
  MutexLock lock(mutex_);
  for (Mapping& mapping : mappings_) {
    if (mapping.mm != &mm || mapping.addresses != addresses || mapping.offset != offset) continue;
    mapping = mappings_.back();
    mappings_.pop_back();
    return;
  }
}

void GoferInode::InvalidateMappings(uint64_t new_size) {
  struct Target {
    Ref<mm::MemoryManager> mm;
    Range addresses;
  };
  std::vector<Target> targets;
  {
    MutexLock lock(mutex_);
    for (const Mapping& m : mappings_) {
      const Range beyond{PageCeil(new_size), m.offset + m.addresses.size()};
      if (beyond.end <= beyond.start) continue;
      Ref<mm::MemoryManager> mm = Ref<mm::MemoryManager>::TryFrom(m.mm);
      if (!mm) continue;
      const uint64_t skip = beyond.start > m.offset ? beyond.start - m.offset : 0;
      targets.push_back({std::move(mm), {m.addresses.start + skip, m.addresses.end}});
    }
  }
  for (const Target& target : targets) target.mm->InvalidateMapping(target.addresses);
}

// -- extended attributes --

namespace {

constexpr std::string_view kAccessAcl = "system.posix_acl_access";

// A bit for each attribute that the kernel itself asks for; 0 for the others.
uint32_t AskedOften(std::string_view name) {
  return name == auth::kFileCapabilitiesXattr ? 1 : name == kAccessAcl ? 2 : 0;
}

}  // namespace

Result<std::string> GoferInode::GetXattr(std::string_view name) {
  const uint32_t often = AskedOften(name);
  if (often != 0) {
    MutexLock lock(mutex_);
    if (!gofer_fs_.StillTrue(absent_ns_)) absent_ = 0;
    if ((absent_ & often) != 0) return Fail(ENODATA);
  }
  Result<std::string> value = FetchXattr(name);
  if (often != 0 && !value &&
      (value.error().code() == ENODATA || value.error().code() == EOPNOTSUPP)) {
    MutexLock lock(mutex_);
    if (absent_ == 0) absent_ns_ = host::MonotonicNs();
    absent_ |= often;
  }
  return value;
}

Result<std::string> GoferInode::AccessAcl() {
  Result<std::string> acl = GetXattr(kAccessAcl);
  if (acl) return acl;
  const int error = acl.error().code();
  if (error == ENODATA || error == EOPNOTSUPP) return std::string();
  return acl;
}

// Asked for with room for the largest: a larger one is ERANGE at the gofer.
Result<std::string> GoferInode::FetchXattr(std::string_view name) {
  struct Value {
    std::unique_ptr<std::byte[]> room;
    size_t size;
  };
  const Result<Value> value = gofer_fs_.Call([&](gofer::Client& client) -> Result<Value> {
    auto room = std::make_unique_for_overwrite<std::byte[]>(gofer::kXattrSizeMax);
    const size_t size =
        TRY(client.GetXattr(node_, name, std::span(room.get(), gofer::kXattrSizeMax)));
    return Value{std::move(room), size};
  });
  if (!value) return std::unexpected(value.error());
  return std::string(reinterpret_cast<const char*>(value->room.get()), value->size);
}

Result<void> GoferInode::SetXattr(std::string_view name, std::string_view value, int flags) {
  TRY(CheckWritable());
  MarkStale();
  return gofer_fs_.Call([&](gofer::Client& client) {
    return client.SetXattr(node_, name, std::as_bytes(std::span(value)), flags);
  });
}

Result<void> GoferInode::RemoveXattr(std::string_view name) {
  TRY(CheckWritable());
  MarkStale();
  return gofer_fs_.Call([&](gofer::Client& client) { return client.RemoveXattr(node_, name); });
}

Result<std::vector<std::string>> GoferInode::ListXattrs() {
  const Result<std::string> all = gofer_fs_.Call([&](gofer::Client& client) -> Result<std::string> {
    std::string room(gofer::kXattrSizeMax, '\0');
    const size_t size = TRY(client.ListXattr(node_, std::as_writable_bytes(std::span(room))));
    room.resize(size);
    return room;
  });
  if (!all) return std::unexpected(all.error());
  std::vector<std::string> names;
  for (size_t at = 0; at < all->size();) {
    const size_t end = std::min(all->find('\0', at), all->size());
    names.push_back(all->substr(at, end - at));
    at = end + 1;
  }
  return names;
}

}  // namespace skep::fs
