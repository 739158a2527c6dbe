#include "sentry/anon/pty.h"

#include <sys/epoll.h>
#include <algorithm>
#include <csignal>

#include "sentry/anon/tty_file.h"

namespace skep::anon {
namespace {

constexpr size_t kReadMax = 64 << 10;
constexpr size_t kWriteChunk = 1024;

}  // namespace

Result<int> PtyTable::AddTerminal(Ref<Terminal> terminal, uint32_t uid, uint32_t gid) {
  int index = 0;
  {
    MutexLock lock(mutex_);
    for (const auto& [used, unused] : terminals_by_index_) {
      if (used != index) break;
      ++index;
    }
    if (index >= kMaxPtys) return Fail(ENOSPC);
    terminal->SetNumber(index);
    terminals_by_index_.emplace(index, std::move(terminal));
  }
  if (directory_ != nullptr) directory_->Add(index, uid, gid);
  return index;
}

void PtyTable::Remove(int index) {
  Ref<Terminal> removed;  // let go of without the lock
  {
    MutexLock lock(mutex_);
    const auto found = terminals_by_index_.find(index);
    if (found == terminals_by_index_.end()) return;
    removed = std::move(found->second);
    terminals_by_index_.erase(found);
  }
  if (directory_ != nullptr) directory_->Remove(index);
}

Ref<Terminal> PtyTable::Find(int index) {
  MutexLock lock(mutex_);
  const auto found = terminals_by_index_.find(index);
  return found == terminals_by_index_.end() ? Ref<Terminal>() : found->second;
}

Result<Ref<vfs::File>> PtyTable::OpenMaster(vfs::Caller& caller, const vfs::Path& path,
                                            uint32_t flags) {
  auto terminal = MakeRef<Terminal>(terminals_);
  terminal->SetLocked(true);
  const auth::Credentials& creds = caller.creds();
  const int index = TRY(AddTerminal(terminal, creds.fsuid, creds.fsgid));
  flags &= ~static_cast<uint32_t>(O_NOCTTY);
  auto master = MakeRef<PtyMaster>(path, *this, std::move(terminal), index, flags);
  return Ref<vfs::File>(std::move(master));
}

Result<Ref<vfs::File>> PtyTable::OpenSlave(vfs::Caller& caller, const vfs::Path& path,
                                           uint32_t flags, uint32_t index) {
  Ref<Terminal> terminal = Find(static_cast<int>(index));
  if (!terminal) return Fail(ENXIO);
  return OpenTerminal(caller, std::move(terminal), path, flags);
}

Result<Ref<vfs::File>> PtyTable::OpenControlling(vfs::Caller& caller, const vfs::Path& path,
                                                 uint32_t flags) {
  vfs::JobControlCaller* const task = caller.job_control();
  if (task == nullptr) return Fail(ENXIO);
  Ref<Terminal> terminal = terminals_.Of(*task->SessionId());
  if (!terminal) return Fail(ENXIO);
  return OpenTerminal(caller, std::move(terminal), path, flags | O_NOCTTY);
}

PtyMaster::PtyMaster(vfs::Path path, PtyTable& table, Ref<Terminal> terminal, int index,
                     uint32_t flags)
    : File(std::move(path), flags), table_(table), terminal_(std::move(terminal)), index_(index) {}

PtyMaster::~PtyMaster() {
  table_.Remove(index_);
  terminal_->HangUp();
}

Result<Ref<vfs::File>> PtyMaster::OpenPeer(vfs::Caller& caller, uint32_t flags) {
  if (table_.directory() == nullptr) return Fail(EIO);
  const vfs::Path path = TRY(table_.directory()->PathOf(index_));
  return OpenTerminal(caller, terminal_, path, flags);
}

Result<size_t> PtyMaster::Read(vfs::Caller&, mm::IoSequence& to, uint64_t) {
  if (to.empty()) return 0;
  const bool packet = terminal_->packet_mode();
  const std::vector<std::byte> taken = TRY(terminal_->TakeOutput(std::min(to.size(), kReadMax)));
  const mm::CopyResult copied = to.CopyOut(taken);
  if (copied.bytes < taken.size()) {
    const size_t told = std::max<size_t>(copied.bytes, packet ? 1 : 0);
    terminal_->UntakeOutput(std::span(taken).subspan(told));
  }
  return copied.OrFault();
}

Result<size_t> PtyMaster::Write(vfs::Caller&, mm::IoSequence& from, uint64_t*) {
  size_t done = 0;
  std::vector<std::byte> buffer(std::min(from.size(), kWriteChunk));
  while (!from.empty()) {
    const size_t size = std::min(from.size(), kWriteChunk);
    mm::IoSequence part = from.TakeFirst(size);
    const mm::CopyResult copied = part.CopyIn(std::span(buffer).first(size));
    if (copied.bytes == 0) return mm::CopyResult{done, copied.fault}.OrFault();
    const size_t fed = terminal_->Feed(std::span(buffer).first(copied.bytes));
    if (fed == 0 && done == 0) return Fail(EAGAIN);
    from.DropFirst(fed);
    done += fed;
    if (fed < size) break;
  }
  return done;
}

vfs::EventMask PtyMaster::Poll(vfs::EventMask) { return terminal_->PollOther(); }

Result<uint64_t> PtyMaster::Ioctl(vfs::Caller& caller, uint64_t command, uint64_t argument) {
  const auto put = [&](int value) -> Result<uint64_t> {
    TRY(caller.memory().CopyOut(mm::UserPtr<int32_t>(argument), value));
    return 0;
  };
  switch (command) {
    case TIOCGPTN:
      return put(index_);
    case TIOCGPTLCK:
      return put(terminal_->locked() ? 1 : 0);
    case TIOCGPKT:
      return put(terminal_->packet_mode() ? 1 : 0);
    case FIONREAD:
      return put(static_cast<int>(terminal_->OutputSize()));
    case TIOCOUTQ:
      return put(0);
    case TIOCSPTLCK: {
      const int on = TRY(caller.memory().CopyIn(mm::UserPtr<const int32_t>(argument)));
      terminal_->SetLocked(on != 0);
      return 0;
    }
    case TIOCPKT: {
      const int on = TRY(caller.memory().CopyIn(mm::UserPtr<const int32_t>(argument)));
      terminal_->SetPacketMode(on != 0);
      return 0;
    }
    case TIOCSIG: {
      const auto signo = static_cast<int>(argument);
      if (signo < 1 || signo >= NSIG) return Fail(EINVAL);
      const Ref<vfs::ProcessId> group = table_.terminals().ForegroundOf(*terminal_);
      if (group) table_.terminals().processes().SignalGroup(*group, signo);
      return 0;
    }
    case TIOCSCTTY:
    case TIOCNOTTY:
    case TIOCSTI:
      return Fail(ENOTTY);
    default:
      return TerminalIoctl(caller, *terminal_, true, readable(), command, argument);
  }
}

}  // namespace skep::anon
