// What Linux puts into namespaces, and the set of them that a task is in (Linux: struct nsproxy).
//
// The pid namespace is in kernel/pid.h, the user namespace in auth/user_namespace.h (credentials
// carry it), the mount namespace in vfs/mount.h (FsContext carries it).
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/mutex.h"
#include "base/ref.h"
#include "sentry/auth/user_namespace.h"
#include "sentry/kernel/pid.h"
#include "sentry/net/net_namespace.h"

namespace skep::kernel {

// What all kinds have. `number`: as /proc/<pid>/ns/KIND shows it (Linux: ns_common::inum);
// `owner`: in which a change asks for capabilities.
class Namespace {
 public:
  Namespace(Ref<auth::UserNamespace> owner, uint64_t number)
      : owner_(std::move(owner)), number_(number) {}
  const auth::UserNamespace& owner() const { return *owner_; }
  uint64_t number() const { return number_; }

 private:
  const Ref<auth::UserNamespace> owner_;
  const uint64_t number_;
};

// hostname(1) and domainname(1).
class UtsNamespace final : public Namespace, public RefCounted<UtsNamespace> {
 public:
  UtsNamespace(Ref<auth::UserNamespace> owner, uint64_t number, std::string hostname,
               std::string domainname)
      : Namespace(std::move(owner), number),
        hostname_(std::move(hostname)),
        domainname_(std::move(domainname)) {}

  std::string hostname() const {
    MutexLock lock(mutex_);
    return hostname_;
  }
  std::string domainname() const {
    MutexLock lock(mutex_);
    return domainname_;
  }
  void SetHostname(std::string name) {
    MutexLock lock(mutex_);
    hostname_.swap(name);
  }
  void SetDomainname(std::string name) {
    MutexLock lock(mutex_);
    domainname_.swap(name);
  }

 private:
  mutable Mutex mutex_{LockRank::kNames};
  std::string hostname_ GUARDED_BY(mutex_), domainname_ GUARDED_BY(mutex_);
};

// System V IPC and POSIX message queues. There are none yet.
class IpcNamespace final : public Namespace, public RefCounted<IpcNamespace> {
 public:
  using Namespace::Namespace;
};

// Its root is each control group's "/". There are no control groups inside a sandbox yet.
class CgroupNamespace final : public Namespace, public RefCounted<CgroupNamespace> {
 public:
  using Namespace::Namespace;
};

// Interfaces and abstract names of AF_UNIX; sockets hold what they are of.
class NetNamespace final : public Namespace, public RefCounted<NetNamespace> {
 public:
  NetNamespace(Ref<auth::UserNamespace> owner, uint64_t number, Ref<net::NetNamespace> sockets)
      : Namespace(std::move(owner), number), sockets_(std::move(sockets)) {}
  net::NetNamespace& sockets() { return *sockets_; }

 private:
  const Ref<net::NetNamespace> sockets_;
};

// A task's; constant and shared by those that have the same.
struct Namespaces : RefCounted<Namespaces> {
  Ref<UtsNamespace> uts;
  Ref<IpcNamespace> ipc;
  Ref<NetNamespace> net;
  Ref<CgroupNamespace> cgroup;
  Ref<PidNamespace> pids_of_children;  // a task's own never changes: Task::pid_namespace()
};

}  // namespace skep::kernel
