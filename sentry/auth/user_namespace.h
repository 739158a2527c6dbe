// UserNamespace: in which capabilities mean something (Linux: struct user_namespace).
#pragma once

#include <cstdint>
#include <utility>

#include "base/ref.h"

namespace skep::auth {

class UserNamespace : public RefCounted<UserNamespace> {
 public:
  // `parent`: null for the first one of a kernel. `owner`: the effective user id of who made it.
  // `number`: as /proc/<pid>/ns/user shows it.
  UserNamespace(Ref<UserNamespace> parent, uint32_t owner, uint64_t number)
      : parent_(std::move(parent)),
        owner_(owner),
        level_(parent_ ? parent_->level() + 1 : 0),
        number_(number) {}

  const UserNamespace* parent() const { return parent_.get(); }
  uint32_t owner() const { return owner_; }
  int level() const { return level_; }
  uint64_t number() const { return number_; }

 private:
  const Ref<UserNamespace> parent_;
  const uint32_t owner_;
  const int level_;
  const uint64_t number_;
};

}  // namespace skep::auth
