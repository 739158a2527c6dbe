// UserNamespace: in which capabilities mean something, and how it numbers users and groups (Linux:
// struct user_namespace).
//
// The kernel keeps its own numbers (Linux: kuid_t, kgid_t): in Credentials, in the attributes of
// files. They are those of the kernel's first user namespace. Another one has an IdMap for users
// and one for groups; its ids are translated where they come from a guest and where they go to one.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/ref.h"

namespace skep::auth {

// Nobody's number (Linux: INVALID_UID): no task has it. The owner of a file that has no counterpart
// here, and what an id that is not mapped becomes.
inline constexpr uint32_t kNoId = UINT32_MAX;
// What guests are shown for it (/proc/sys/kernel/overflowuid).
inline constexpr uint32_t kOverflowId = 65534;

// Lines of /proc/<pid>/uid_map, with the kernel's numbers on the right.
class IdMap {
 public:
  struct Extent {
    uint32_t first, kernel_first, count;
  };
  IdMap() = default;  // maps nothing
  explicit IdMap(std::vector<Extent> extents) : extents_(std::move(extents)) {}

  uint32_t ToKernel(uint32_t id) const;    // Linux: make_kuid; kNoId: not mapped
  uint32_t FromKernel(uint32_t id) const;  // Linux: from_kuid; kNoId: not mapped
  const std::vector<Extent>& extents() const { return extents_; }

 private:
  std::vector<Extent> extents_;
};

class UserNamespace : public RefCounted<UserNamespace> {
 public:
  // `parent`: null for the first one of a kernel, which maps every id to itself. `owner`: the
  // effective user id of who made it. `number`: as /proc/<pid>/ns/user shows it.
  UserNamespace(Ref<UserNamespace> parent, uint32_t owner, uint64_t number, IdMap users = {},
                IdMap groups = {})
      : parent_(std::move(parent)),
        owner_(owner),
        level_(parent_ ? parent_->level() + 1 : 0),
        number_(number),
        users_(std::move(users)),
        groups_(std::move(groups)) {}

  const UserNamespace* parent() const { return parent_.get(); }
  uint32_t owner() const { return owner_; }
  int level() const { return level_; }
  uint64_t number() const { return number_; }
  // The first namespace has no maps.
  const IdMap& users() const { return users_; }
  const IdMap& groups() const { return groups_; }

 private:
  const Ref<UserNamespace> parent_;
  const uint32_t owner_;
  const int level_;
  const uint64_t number_;
  const IdMap users_, groups_;
};

}  // namespace skep::auth
