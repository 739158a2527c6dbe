// GoferConnection: a gofer by number. The connection itself is a host resource in malloc's heap; a
// file system in the arena holds the number, which survives a checkpoint.
#pragma once

#include <cstdint>
#include <memory>

#include "gofer/protocol/client.h"

namespace skep::fs {

class GoferConnection {
 public:
  GoferConnection() = default;

  // Any number of gofers a process may have, up to a bound: CHECKed, for boot decides it.
  static GoferConnection Add(std::unique_ptr<gofer::Client> client);
  // After a restore: a new gofer for the same tree. Whoever was there before is gone.
  void Restore(std::unique_ptr<gofer::Client> client) const;
  // The container is gone.
  void Remove() const;

  // CHECKs that there is one.
  gofer::Client& client() const;
  explicit operator bool() const { return index_ != 0; }

 private:
  explicit GoferConnection(uint32_t index) : index_(index) {}
  uint32_t index_ = 0;  // 0: none
};

}  // namespace skep::fs
