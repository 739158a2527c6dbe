#include "sentry/fs/gofer/donated_files.h"

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/host_call.h"
#include "sentry/fs/gofer/gofer_inode.h"

namespace skep::fs {
namespace {

constexpr size_t kMaxIdle = 512;  // inodes with descriptors that nobody uses
// An inode in use has two descriptors at most: a share is half of the budget.
constexpr size_t kInodesOfShare = 4;
constexpr size_t kFavouredPart = 8;
constexpr size_t kBudgetMin = 16;
constexpr size_t kDefaultLimit = 1024;  // the host does not tell

}  // namespace

bool DonatedFiles::IsFavoured(const auth::Credentials& user) {
  return user.euid == 0 || user.HasInFirst(CAP_SYS_ADMIN);
}

size_t DonatedFiles::BudgetOfHost() {
  rlimit limit{};
  const Result<int64_t> got =
      host::Call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, reinterpret_cast<uint64_t>(&limit));
  const size_t most = got ? limit.rlim_cur : kDefaultLimit;
  return std::max(most / 2, kBudgetMin);
}

void DonatedFiles::SetBudget(size_t budget) {
  MutexLock lock(mutex_);
  budget_ = budget;
}

Result<DonatedFiles::Charge> DonatedFiles::ChargeTo(const auth::Credentials& user) {
  MutexLock lock(mutex_);
  size_t& count = in_use_[user.uid];
  if (!IsFavoured(user) && count >= budget_ / kInodesOfShare) return Fail(ENFILE);
  ++count;
  return Charge(*this, user.uid);
}

void DonatedFiles::EndCharge(uint32_t uid) {
  MutexLock lock(mutex_);
  const auto it = in_use_.find(uid);
  if (--it->second == 0) in_use_.erase(it);
}

Result<void> DonatedFiles::Reserve(bool favoured) {
  do {
    MutexLock lock(mutex_);
    const size_t most = favoured ? budget_ : budget_ - budget_ / kFavouredPart;
    if (open_ < most) {
      ++open_;
      return {};
    }
  } while (CloseOneIdle());
  return Fail(ENFILE);
}

void DonatedFiles::Return(size_t count) {
  MutexLock lock(mutex_);
  open_ -= std::min(open_, count);
}

// False: none is idle.
bool DonatedFiles::CloseOneIdle() {
  Ref<GoferInode> oldest;
  {
    MutexLock lock(mutex_);
    while (!oldest && !idle_.empty()) {
      GoferInode* victim = idle_.front();
      idle_.pop_front();
      victim->idle_at.reset();
      oldest = Ref<GoferInode>::TryFrom(victim);
    }
  }
  if (!oldest) return false;
  oldest->CloseIdleFds();
  return true;
}

void DonatedFiles::NoteIdle(GoferInode& inode) {
  {
    MutexLock lock(mutex_);
    if (!inode.idle_at) inode.idle_at = idle_.insert(idle_.end(), &inode);
    if (idle_.size() <= kMaxIdle) return;
  }
  (void)CloseOneIdle();
}

void DonatedFiles::Forget(GoferInode& inode) {
  MutexLock lock(mutex_);
  if (inode.idle_at) idle_.erase(*inode.idle_at);
  inode.idle_at.reset();
}

size_t DonatedFiles::open() const {
  MutexLock lock(mutex_);
  return open_;
}

}  // namespace skep::fs
