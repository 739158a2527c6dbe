#include "sentry/vfs/dentry_cache.h"

#include <cstring>

#include "base/check.h"

namespace skep::vfs {
namespace {

constexpr size_t kFirstBuckets = 64;
constexpr int kEvictionSteps = 16;  // how far the hand may go past used ones

}  // namespace

DentryCache::DentryCache(size_t capacity) : capacity_(capacity) {}

DentryCache::~DentryCache() { Shutdown(); }

uint32_t DentryCache::HashOf(const Dentry* parent, std::string_view name) {
  constexpr uint64_t kMultiplier = 0x9e37'79b9'7f4a'7c15;
  uint64_t hash = reinterpret_cast<uintptr_t>(parent) * kMultiplier ^ name.size();
  const char* p = name.data();
  size_t left = name.size();
  while (left >= sizeof(uint64_t)) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    hash = (hash ^ word) * kMultiplier;
    hash ^= hash >> 32;
    p += sizeof word;
    left -= sizeof word;
  }
  uint64_t tail = 0;
  memcpy(&tail, p, left);
  hash = (hash ^ tail) * kMultiplier;
  return static_cast<uint32_t>(hash >> 32);
}

Dentry** DentryCache::BucketOf(uint32_t hash) { return &buckets_[hash & (buckets_.size() - 1)]; }

void DentryCache::Hash(Dentry& dentry) {
  if (hashed_ >= buckets_.size()) Grow();
  dentry.hash_ = HashOf(dentry.parent_.get(), dentry.name_);
  Dentry** bucket = BucketOf(dentry.hash_);
  dentry.bucket_next_ = *bucket;
  *bucket = &dentry;
  dentry.hashed_ = true;
  hashed_++;
}

void DentryCache::Unhash(Dentry& dentry) {
  if (!dentry.hashed_) return;
  Dentry** link = BucketOf(dentry.hash_);
  while (*link != &dentry) link = &(*link)->bucket_next_;
  *link = dentry.bucket_next_;
  dentry.bucket_next_ = nullptr;
  dentry.hashed_ = false;
  hashed_--;
}

void DentryCache::Grow() {
  std::vector<Dentry*> old(buckets_.empty() ? kFirstBuckets : buckets_.size() * 2);
  old.swap(buckets_);
  for (Dentry* first : old) {
    while (first != nullptr) {
      Dentry* next = first->bucket_next_;
      Dentry** bucket = BucketOf(first->hash_);
      first->bucket_next_ = *bucket;
      *bucket = first;
      first = next;
    }
  }
}

void DentryCache::AddToList(Dentry& dentry) {
  dentry.IncRef();
  dentry.in_lru_ = true;
  dentry.lru_previous_ = newest_;
  dentry.lru_next_ = nullptr;
  (newest_ != nullptr ? newest_->lru_next_ : oldest_) = &dentry;
  newest_ = &dentry;
  listed_++;
}

Ref<Dentry> DentryCache::TakeFromList(Dentry& dentry) {
  if (!dentry.in_lru_) return {};
  (dentry.lru_previous_ != nullptr ? dentry.lru_previous_->lru_next_ : oldest_) = dentry.lru_next_;
  (dentry.lru_next_ != nullptr ? dentry.lru_next_->lru_previous_ : newest_) = dentry.lru_previous_;
  dentry.lru_next_ = dentry.lru_previous_ = nullptr;
  dentry.in_lru_ = false;
  listed_--;
  Ref<Dentry> taken(&dentry);
  dentry.DecRef();  // the list's; `taken` keeps it alive
  return taken;
}

Ref<Dentry> DentryCache::Evict() {
  if (listed_ <= capacity_) return {};
  for (int i = 0; i < kEvictionSteps && oldest_->referenced_; i++) {
    Dentry& spared = *oldest_;
    spared.referenced_ = false;
    Ref<Dentry> held = TakeFromList(spared);
    AddToList(spared);
  }
  return TakeFromList(*oldest_);
}

Ref<Dentry> DentryCache::Find(const Dentry& parent, std::string_view name) {
  const uint32_t hash = HashOf(&parent, name);
  Ref<Dentry> victim;  // destroyed after the lock is released
  MutexLock lock(mutex_);
  if (buckets_.empty()) return {};
  for (Dentry* d = *BucketOf(hash); d != nullptr; d = d->bucket_next_) {
    if (d->hash_ != hash || d->parent_.get() != &parent || d->name_ != name) continue;
    Ref<Dentry> found = Ref<Dentry>::TryFrom(d);
    if (!found) continue;
    d->referenced_ = true;
    if (!d->in_lru_) {
      AddToList(*d);
      victim = Evict();
    }
    return found;
  }
  return {};
}

Ref<Dentry> DentryCache::Add(const Ref<Dentry>& parent, std::string_view name, Ref<Inode> inode) {
  if (Ref<Dentry> old = Find(*parent, name)) {
    if (old->raw_inode() == inode.get()) return old;
    Forget(*old);
  }
  Ref<Dentry> added(new Dentry(parent->fs(), std::move(inode), parent, name, Dentry::Kind::kNamed));
  Ref<Dentry> victim;
  MutexLock lock(mutex_);
  Hash(*added);
  AddToList(*added);
  victim = Evict();
  return added;
}

void DentryCache::AddNegative(const Ref<Dentry>& parent, std::string_view name) {
  const Ref<Dentry> added = Add(parent, name, {});
}

void DentryCache::Remove(Dentry& dentry) {
  if (dentry.kind_ == Dentry::Kind::kNamed) {
    dentry.unlinked_.store(true, std::memory_order_relaxed);
  }
  Forget(dentry);
}

void DentryCache::Forget(Dentry& dentry) {
  Ref<Dentry> from_list;
  MutexLock lock(mutex_);
  Unhash(dentry);
  from_list = TakeFromList(dentry);
}

void DentryCache::Move(Dentry& dentry, const Ref<Dentry>& parent, std::string_view name) {
  if (Ref<Dentry> old = Find(*parent, name); old && old.get() != &dentry) Forget(*old);
  Ref<Dentry> old_parent = parent;
  std::string new_name(name);
  MutexLock lock(mutex_);
  Unhash(dentry);
  std::swap(dentry.parent_, old_parent);
  dentry.name_.swap(new_name);
  Hash(dentry);
}

void DentryCache::Exchange(Dentry& a, Dentry& b) {
  MutexLock lock(mutex_);
  Unhash(a);
  Unhash(b);
  std::swap(a.parent_, b.parent_);
  a.name_.swap(b.name_);
  Hash(a);
  Hash(b);
}

void DentryCache::DropUnused() {
  for (;;) {
    Ref<Dentry> victim;
    MutexLock lock(mutex_);
    if (oldest_ == nullptr) return;
    victim = TakeFromList(*oldest_);
  }
}

void DentryCache::Shutdown() {
  DropUnused();
  Ref<Dentry> root;
  MutexLock lock(mutex_);
  std::swap(root, root_);
}

size_t DentryCache::hashed_count() const {
  MutexLock lock(mutex_);
  return hashed_;
}

// Parents that only this dentry held go too: in a loop, since a guest chooses how deep they nest.
void DentryCache::OnDestroy(Dentry& dentry) {
  Ref<Dentry> parent;
  {
    MutexLock lock(mutex_);
    Unhash(dentry);
    std::swap(parent, dentry.parent_);
  }
  while (parent) {
    Ref<Dentry> next;
    {
      MutexLock lock(mutex_);
      if (parent->kind_ == Dentry::Kind::kNamed && parent->RefCount() == 1) {
        Unhash(*parent);
        std::swap(next, parent->parent_);
      }
    }
    parent = std::move(next);
  }
}

}  // namespace skep::vfs
