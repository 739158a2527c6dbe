#include "sentry/net/families.h"

#include "sentry/net/unix_socket.h"

namespace skep::net {
namespace {

struct Family {
  int number;
  // Null: EAFNOSUPPORT.
  Result<Ref<Socket>> (*make)(NetNamespace& space, vfs::Caller& caller, int type, int protocol,
                              uint32_t flags);
  // Null: EOPNOTSUPP.
  Result<SocketPair> (*make_pair)(NetNamespace& space, vfs::Caller& caller, int type, int protocol,
                                  uint32_t flags);
};

constexpr Family kFamilies[] = {
    {AF_UNIX, MakeUnixSocket, MakeUnixPair},
    {AF_INET, nullptr, nullptr},
    {AF_INET6, nullptr, nullptr},
};

Result<const Family*> Find(int number) {
  for (const Family& family : kFamilies) {
    if (family.number == number) return &family;
  }
  return Fail(EAFNOSUPPORT);
}

}  // namespace

Result<Ref<Socket>> MakeSocket(NetNamespace& space, vfs::Caller& caller, int family, int type,
                               int protocol, uint32_t flags) {
  const Family* found = TRY(Find(family));
  if (found->make == nullptr) return Fail(EAFNOSUPPORT);
  return found->make(space, caller, type, protocol, flags);
}

Result<SocketPair> MakeSocketPair(NetNamespace& space, vfs::Caller& caller, int family, int type,
                                  int protocol, uint32_t flags) {
  const Family* found = TRY(Find(family));
  if (found->make_pair == nullptr) return Fail(EOPNOTSUPP);
  return found->make_pair(space, caller, type, protocol, flags);
}

}  // namespace skep::net
