#include "sentry/vfs/file.h"

namespace skep::vfs {

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

void File::operator delete(File* file, std::destroying_delete_t) {
  if (FileObserver* observer = file->observer_.exchange(nullptr, std::memory_order_acq_rel)) {
    observer->OnLastReference();
    observer->DecRef();
  }
  void* memory = dynamic_cast<void*>(file);
  file->~File();
  ::operator delete(memory);
}

}  // namespace skep::vfs
