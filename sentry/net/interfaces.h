// Network interfaces of a namespace, and the ioctls by which sockets of every family tell of them
// (Linux: net/core/dev_ioctl.c). Families answer those of their own (SIOCGIFADDR) themselves.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sentry/vfs/types.h"

namespace skep::net {

struct Interface {
  std::string name;
  int index = 0;
  uint16_t flags = 0;          // IFF_*
  uint16_t hardware_type = 0;  // ARPHRD_*
  int mtu = 0;
  int queue_length = 0;
  uint32_t ipv4 = 0;  // in network byte order; 0: none
};

class Interfaces {
 public:
  Interfaces();  // `lo`, up, 127.0.0.1
  const Interface* Find(std::string_view name) const;
  const Interface* Find(int index) const;
  const std::vector<Interface>& all() const { return all_; }

 private:
  std::vector<Interface> all_;
};

bool IsInterfaceIoctl(uint64_t command);
// `owner`: of the network namespace; null: the kernel's first. ENODEV: there is no such interface;
// EPERM: a change without CAP_NET_ADMIN; EOPNOTSUPP: a change.
Result<uint64_t> InterfaceIoctl(const Interfaces& interfaces, const auth::UserNamespace* owner,
                                vfs::Caller& caller, uint64_t command, uint64_t argument);

}  // namespace skep::net
