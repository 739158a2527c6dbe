// Pseudo-terminals: /dev/ptmx, the masters it makes, and the numbers under /dev/pts (Linux:
// drivers/tty/pty.c).
#pragma once

#include <functional>
#include <map>

#include "sentry/anon/terminal.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"

namespace skep::anon {

inline constexpr uint32_t kPtyMajor = 136;   // Linux: UNIX98_PTY_SLAVE_MAJOR
inline constexpr uint32_t kTtyAuxMajor = 5;  // /dev/tty 0, /dev/console 1, /dev/ptmx 2
inline constexpr int kMaxPtys = 4096;        // kernel.pty.max

// What shows the ptys that exist: devpts. Set once, at boot.
class PtyDirectory {
 public:
  virtual void Add(int index, uint32_t uid, uint32_t gid) = 0;
  virtual void Remove(int index) = 0;
  // The name of pty `index`, for TIOCGPTPEER.
  virtual Result<vfs::Path> PathOf(int index) = 0;

 protected:
  ~PtyDirectory() = default;
};

// All ptys of one devpts. Outlives its masters.
class PtyTable {
 public:
  explicit PtyTable(Terminals& terminals) : terminals_(terminals) {}
  void SetDirectory(PtyDirectory* directory) { directory_ = directory; }

  // open(2) of /dev/ptmx. ENOSPC at kMaxPtys.
  Result<Ref<vfs::File>> OpenMaster(vfs::Caller& caller, const vfs::Path& path, uint32_t flags);
  // open(2) of /dev/pts/`index`. ENXIO: its master is gone; EIO: locked.
  Result<Ref<vfs::File>> OpenSlave(vfs::Caller& caller, const vfs::Path& path, uint32_t flags,
                                   uint32_t index);
  // open(2) of /dev/tty: the caller's controlling terminal. ENXIO.
  Result<Ref<vfs::File>> OpenControlling(vfs::Caller& caller, const vfs::Path& path,
                                         uint32_t flags);

  // A terminal whose other end is not a file (the console). Its number.
  Result<int> AddTerminal(Ref<Terminal> terminal, uint32_t uid, uint32_t gid);
  void Remove(int index);
  Ref<Terminal> Find(int index);
  Terminals& terminals() { return terminals_; }
  PtyDirectory* directory() { return directory_; }

 private:
  Terminals& terminals_;
  PtyDirectory* directory_ = nullptr;
  Mutex mutex_{LockRank::kFile};
  std::map<int, Ref<Terminal>> terminals_by_index_ GUARDED_BY(mutex_);
};

class PtyMaster final : public vfs::File {
 public:
  PtyMaster(vfs::Path path, PtyTable& table, Ref<Terminal> terminal, int index, uint32_t flags);
  ~PtyMaster() override;  // hangs the terminal up

  int index() const { return index_; }
  Terminal& terminal() { return *terminal_; }
  // TIOCGPTPEER with these open flags; the descriptor is the syscall layer's to make.
  Result<Ref<vfs::File>> OpenPeer(vfs::Caller& caller, uint32_t flags);

  bool seekable() const override { return false; }
  Result<size_t> Read(vfs::Caller& caller, mm::IoSequence& to, uint64_t offset) override;
  Result<size_t> Write(vfs::Caller& caller, mm::IoSequence& from, uint64_t* offset) override;
  Result<uint64_t> Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) override;
  vfs::EventMask Poll(vfs::EventMask wanted) override;
  sched::WaitQueue* Waiters() override { return &terminal_->other_waiters(); }

 private:
  PtyTable& table_;
  const Ref<Terminal> terminal_;
  const int index_;
};

}  // namespace skep::anon
