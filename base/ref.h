// Ref<T>: shared ownership by an intrusive, atomic count.
//
// T derives from RefCounted<T>. A Ref is never null except when moved from or default-constructed
// on purpose (`Ref<T>()` means "none"; test it with `if (ref)`).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "base/check.h"

namespace skep {

template <class T>
class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;

  void IncRef() const { count_.fetch_add(1, std::memory_order_relaxed); }
  // Takes a reference unless the object is already dying: for tables that hold bare pointers.
  bool TryIncRef() const {
    uint32_t old = count_.load(std::memory_order_relaxed);
    while (old != 0) {
      if (count_.compare_exchange_weak(old, old + 1, std::memory_order_acquire)) return true;
    }
    return false;
  }
  void DecRef() const {
    uint32_t old = count_.fetch_sub(1, std::memory_order_acq_rel);
    DCHECK(old != 0);
    if (old == 1) delete static_cast<const T*>(this);
  }
  uint32_t RefCount() const { return count_.load(std::memory_order_acquire); }

 protected:
  ~RefCounted() = default;

 private:
  mutable std::atomic<uint32_t> count_{0};
};

// An object of any class that can be held by Ref: what one layer keeps for another.
class RefCountedAny : public RefCounted<RefCountedAny> {
 public:
  virtual ~RefCountedAny() = default;
};

template <class T>
class [[nodiscard]] Ref {
 public:
  constexpr Ref() = default;
  constexpr Ref(std::nullptr_t) {}
  explicit Ref(T* object) : object_(object) {
    if (object_ != nullptr) object_->IncRef();
  }
  Ref(const Ref& other) : Ref(other.object_) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  template <class U>
    requires std::is_convertible_v<U*, T*>
  Ref(const Ref<U>& other) : Ref(other.get()) {}
  template <class U>
    requires std::is_convertible_v<U*, T*>
  Ref(Ref<U>&& other) noexcept : object_(other.Leak()) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_ != nullptr) object_->DecRef();
  }

  // A reference to an object that may be dying: none if it is.
  static Ref TryFrom(T* object) {
    Ref ref;
    if (object != nullptr && object->TryIncRef()) ref.object_ = object;
    return ref;
  }

  T* get() const { return object_; }
  T& operator*() const { return *object_; }
  T* operator->() const { return object_; }
  explicit operator bool() const { return object_ != nullptr; }
  // Gives the reference to the caller, who must hand it to a Ref or DecRef it.
  [[nodiscard]] T* Leak() { return std::exchange(object_, nullptr); }
  friend bool operator==(const Ref& a, const Ref& b) { return a.object_ == b.object_; }

 private:
  T* object_ = nullptr;
};

template <class T, class... Args>
Ref<T> MakeRef(Args&&... args) {
  return Ref<T>(new T(std::forward<Args>(args)...));
}

}  // namespace skep
