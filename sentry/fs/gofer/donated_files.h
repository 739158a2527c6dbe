// DonatedFiles: how many of the host's files the sentry holds open for its guests, and for whom.
//
// A process may have only so many descriptors. Those that a gofer donates have a budget below that
// limit, so that engines (two for each guest process and one for each thread) and the sentry itself
// always find some. Descriptors that no guest uses stay open for the next who asks, and are closed,
// the longest idle first, when the budget is used up: they can be donated again.
//
// No user of the guest gets all: at its share an open fails with ENFILE for that user alone, and
// the last eighth of the budget is for root and those with CAP_SYS_ADMIN, as Linux exempts them
// from fs.file-max (fs/file_table.c: alloc_empty_file).
#pragma once

#include <list>
#include <unordered_map>
#include <utility>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "sentry/auth/credentials.h"

namespace skep::fs {

class GoferInode;

class DonatedFiles : public RefCounted<DonatedFiles> {
 public:
  explicit DonatedFiles(size_t budget) : budget_(budget) {}
  // Half of the descriptors that the host lets this process have.
  static size_t BudgetOfHost();
  // After a restore: what is open stays open.
  void SetBudget(size_t budget);

  // One user's use of one inode's descriptors. Ends with this object.
  class Charge {
   public:
    Charge() = default;
    Charge(Charge&& other) noexcept
        : files_(std::exchange(other.files_, nullptr)), uid_(other.uid_) {}
    Charge& operator=(Charge&& other) noexcept {
      std::swap(files_, other.files_);
      std::swap(uid_, other.uid_);
      return *this;
    }
    ~Charge() {
      if (files_ != nullptr) files_->EndCharge(uid_);
    }

   private:
    friend class DonatedFiles;
    Charge(DonatedFiles& files, uint32_t uid) : files_(&files), uid_(uid) {}
    DonatedFiles* files_ = nullptr;  // outlives its inodes, which hold the charges
    uint32_t uid_ = 0;
  };
  // ENFILE: the user has its share.
  Result<Charge> ChargeTo(const auth::Credentials& user);

  // Whether `user` may use the last part of the budget.
  static bool IsFavoured(const auth::Credentials& user);
  // Room for one more descriptor. Idle ones may be closed for it, so under no Mutex. ENFILE.
  Result<void> Reserve(bool favoured);
  // `count` descriptors were closed, or were not donated after all.
  void Return(size_t count);

  // `inode` has descriptors that nobody uses now. Under no Mutex.
  void NoteIdle(GoferInode& inode);
  // It is being destroyed.
  void Forget(GoferInode& inode);

  size_t open() const;  // descriptors that are reserved, for tests

 private:
  bool CloseOneIdle();
  void EndCharge(uint32_t uid);

  mutable Mutex mutex_{LockRank::kMappable};
  size_t budget_ GUARDED_BY(mutex_);
  size_t open_ GUARDED_BY(mutex_) = 0;
  std::unordered_map<uint32_t, size_t> in_use_ GUARDED_BY(mutex_);  // inodes, by user
  std::list<GoferInode*> idle_ GUARDED_BY(mutex_);                  // oldest first
};

}  // namespace skep::fs
