#include "base/mutex.h"
#include "sentry/sched/release_slot.h"
#include "sentry/vfs/file.h"

namespace skep::vfs {
namespace {

constexpr int kReleasedAtOnce = 256;

}  // namespace

Ref<FileObserver> File::Observer(const std::function<Ref<FileObserver>()>& make) {
  FileObserver* observer = observer_.load(std::memory_order_acquire);
  if (observer == nullptr) {
    FileObserver* made = make().Leak();
    if (observer_.compare_exchange_strong(observer, made, std::memory_order_acq_rel)) {
      observer = made;
    } else {
      made->DecRef();
    }
  }
  return Ref<FileObserver>(observer);
}

// Files that have lost their last reference during the destruction of another, in that order. On
// the stack of whoever destroys the first.
class File::ReleaseList {
 public:
  void Add(File& file) {
    (last_ != nullptr ? last_->next_released_ : first_) = &file;
    last_ = &file;
  }
  File* Take() {
    File* file = first_;
    if (file == nullptr) return nullptr;
    first_ = file->next_released_;
    if (first_ == nullptr) last_ = nullptr;
    return file;
  }

 private:
  File* first_ = nullptr;
  File* last_ = nullptr;
};

void File::Destroy() {
  if (FileObserver* observer = observer_.exchange(nullptr, std::memory_order_acq_rel)) {
    observer->OnLastReference();
    observer->DecRef();
  }
  void* memory = dynamic_cast<void*>(this);
  this->~File();
  ::operator delete(memory);
}

void File::operator delete(File* file, std::destroying_delete_t) {
  void*& slot = sched::ReleaseSlot();
  if (slot != nullptr) {
    static_cast<ReleaseList*>(slot)->Add(*file);
    return;
  }
  ReleaseList list;
  slot = &list;
  for (int done = 1; file != nullptr; file = list.Take(), ++done) {
    file->Destroy();
    // A task that lets go of very many leaves room for others.
    const sched::Fiber* fiber = sched::Fiber::CurrentOrNull();
    const bool is_task = fiber != nullptr && fiber->cookie != nullptr;
    if (done % kReleasedAtOnce == 0 && is_task && HoldsNoMutex()) sched::Yield();
  }
  sched::ReleaseSlot() = nullptr;
}

}  // namespace skep::vfs
