// Address families: what socket(2) and socketpair(2) make. A new family is a row in families.cc.
#pragma once

#include "sentry/net/net_namespace.h"
#include "sentry/net/socket.h"

namespace skep::net {

struct SocketPair {
  Ref<Socket> first, second;
};

// `type` without SOCK_NONBLOCK and SOCK_CLOEXEC; flags: O_NONBLOCK or 0. EAFNOSUPPORT; what the
// family answers to type and protocol.
Result<Ref<Socket>> MakeSocket(NetNamespace& space, vfs::Caller& caller, int family, int type,
                               int protocol, uint32_t flags);
// The same; EOPNOTSUPP: the family makes no pairs.
Result<SocketPair> MakeSocketPair(NetNamespace& space, vfs::Caller& caller, int family, int type,
                                  int protocol, uint32_t flags);

}  // namespace skep::net
