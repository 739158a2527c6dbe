// NetNamespace: what the sockets of a network namespace share (Linux: struct net). Sockets hold it.
#pragma once

#include "base/ref.h"
#include "sentry/net/in_flight.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/unix_names.h"
#include "sentry/vfs/anon_fs.h"

namespace skep::net {

class NetNamespace final : public RefCounted<NetNamespace> {
 public:
  // `fs`: where sockets' inodes are; it outlives this. `in_flight`: one for all namespaces of a
  // sandbox, since sockets may be sent from one to another. `owner`: in which changes ask for
  // capabilities; null: the kernel's first.
  explicit NetNamespace(vfs::AnonFs& fs, Ref<InFlight> in_flight = MakeRef<InFlight>(),
                        Ref<auth::UserNamespace> owner = {})
      : anon_fs_(fs), owner_(std::move(owner)), unix_names_(std::move(in_flight)) {}

  vfs::AnonFs& anon_fs() { return anon_fs_; }
  UnixNamespace& unix_names() { return unix_names_; }
  InFlight& in_flight() { return unix_names_.in_flight(); }
  Interfaces& interfaces() { return interfaces_; }
  const auth::UserNamespace* owner() const { return owner_.get(); }

 private:
  vfs::AnonFs& anon_fs_;
  const Ref<auth::UserNamespace> owner_;
  UnixNamespace unix_names_;
  Interfaces interfaces_;
};

}  // namespace skep::net
