// HostFile: an open file over a descriptor that the sentry was given: stdin, stdout and stderr of
// `skep do` when they are pipes, sockets, regular files or devices.
//
// The host's description is shared with strangers, so its flags are never changed: reads and writes
// are made not to block by poll, RWF_NOWAIT and MSG_DONTWAIT; what can promise neither (terminals,
// FIFOs) is written by a helper thread. The position of a regular file is the host's, so
// that output of others who hold the description, before, meanwhile and after, stays whole.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "sentry/arena/host_table.h"
#include "sentry/sched/host_poller.h"
#include "sentry/vfs/anon_fs.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"

namespace skep::anon {

// Whether a terminal of the host's may be read now. Held: it is somebody else's for the moment, and
// so is what is typed there. Only the CLI, which is in the terminal's session, can tell.
enum class Input : bool { kHeld, kFlowing };

// The descriptor and what stat says about it. Owns `fd`.
class HostInode final : public vfs::Inode {
 public:
  enum class Kind : uint8_t { kRegular, kSocket, kOther };
  // `ino`: 0 for a new number; else that of another description of the same file. EBADF.
  static Result<Ref<HostInode>> Make(vfs::AnonFs& fs, sched::Scheduler& scheduler, arena::HostFd fd,
                                     uint64_t ino = 0);
  ~HostInode() override;

  Result<vfs::Attributes> GetAttributes() override;
  Result<void> SetAttributes(const vfs::AttributeChange& change) override;
  // Through /proc/<pid>/fd: another file over the same host description, with a position of its
  // own. Sockets: ENXIO; what the host's descriptor may not do: EACCES.
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override;

  // Who owns it for the guest; the host's numbers mean nothing there. Before others see the file.
  void SetOwner(uint32_t uid, uint32_t gid) { owner_ = {uid, gid}; }

  // For a terminal. `wanted` is called on a fiber when a guest reads while the input is held.
  void OnWantedInput(std::function<void()> wanted) { wanted_ = std::move(wanted); }
  void SetInput(Input input);
  // EAGAIN: it is held.
  Result<void> MayRead();

  Kind kind() const { return kind_; }
  int fd() const { return arena::HostTable::Get().Get(fd_); }
  sched::WaitQueue& waiters() { return waiters_; }
  sched::HostWatch& watch() { return *watch_; }

 private:
  HostInode(vfs::AnonFs& fs, sched::Scheduler& scheduler, arena::HostFd fd, uint32_t mode,
            uint64_t ino);

  const arena::HostFd fd_;
  const Kind kind_;
  std::optional<std::pair<uint32_t, uint32_t>> owner_;
  std::function<void()> wanted_;
  std::atomic<bool> input_held_{false};
  sched::WaitQueue waiters_;
  std::optional<sched::HostWatch> watch_;
};

struct HostFileOptions {
  uint64_t ino = 0;  // of another description of the same file; 0: a new number
  std::string name;  // as /proc/<pid>/fd shows it; empty: made of its type and inode number
};

class HostFile final : public vfs::File {
 public:
  // The first file over `fd`, which it owns. Access mode, O_APPEND and position are the host's.
  // EBADF.
  static Result<Ref<HostFile>> Make(vfs::AnonFs& fs, sched::Scheduler& scheduler, arena::HostFd fd,
                                    const HostFileOptions& options = {});
  enum class Position : bool { kHosts, kOwn };  // of regular files
  HostFile(Ref<HostInode> inode, vfs::Path path, uint32_t flags, Position whose);
  void SetOwner(uint32_t uid, uint32_t gid) { inode_->SetOwner(uid, gid); }
  bool IsTerminal() const;
  HostInode& host_inode() { return *inode_; }

  bool seekable() const override { return kind_ == Kind::kRegular; }
  uint64_t PeekPosition() const override;
  bool position_is_hosts() const override {
    return kind_ == Kind::kRegular && position_ == Position::kHosts;
  }
  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override;
  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) override;
  Result<uint64_t> Seek(int64_t offset, int whence) override REQUIRES(position_lock());
  // Size and modes of a terminal (so that isatty tells the truth); FIONREAD.
  Result<uint64_t> Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) override;
  Result<void> Truncate(vfs::Caller& caller, uint64_t size) override;
  Result<void> Sync(bool data_only) override;
  vfs::EventMask Poll(vfs::EventMask wanted) override;
  sched::WaitQueue* Waiters() override {
    return kind_ == Kind::kRegular ? nullptr : &inode_->waiters();
  }

 private:
  using Kind = HostInode::Kind;
  int fd() const { return inode_->fd(); }
  Result<uint64_t> SeekOwn(int64_t offset, int whence) REQUIRES(position_lock());
  Result<size_t> WriteRegular(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset);
  Result<size_t> WriteByHelper(mm::IoSequence& from);

  const Ref<HostInode> inode_;
  const Kind kind_;
  const Position position_;
};

// The readiness of a host descriptor now, in EPOLL* bits. EPOLLERR if it is gone.
vfs::EventMask PollHost(int fd, vfs::EventMask wanted);

}  // namespace skep::anon
