#include "sentry/net/interfaces.h"

#include <arpa/inet.h>
#include <linux/capability.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <algorithm>
#include <array>
#include <cstring>

namespace skep::net {
namespace {

constexpr int kLoopbackMtu = 65536, kQueueLength = 1000;

// Linux: dev_ioctl's commands that change an interface.
bool IsChange(uint64_t command) {
  switch (command) {
    case SIOCSIFNAME:
    case SIOCSIFFLAGS:
    case SIOCSIFMETRIC:
    case SIOCSIFMTU:
    case SIOCSIFHWADDR:
    case SIOCSIFHWBROADCAST:
    case SIOCSIFMAP:
    case SIOCSIFTXQLEN:
    case SIOCADDMULTI:
    case SIOCDELMULTI:
      return true;
    default:
      return false;
  }
}

// struct ifreq and struct ifconf without their pointers.
struct AbiIfreq {
  std::array<char, IFNAMSIZ> name;
  std::array<char, sizeof(ifreq) - IFNAMSIZ> value;

  // What the union holds.
  template <class T>
  T Get() const {
    T member;
    memcpy(&member, value.data(), sizeof member);
    return member;
  }
  template <class T>
  void Set(const T& member) {
    static_assert(sizeof member <= sizeof value);
    memcpy(value.data(), &member, sizeof member);
  }
  void SetName(const Interface& interface) {
    name = {};
    interface.name.copy(name.data(), name.size() - 1);
  }
};
struct AbiIfconf {
  int32_t size;
  uint32_t reserved;
  uint64_t buffer;
};
static_assert(sizeof(AbiIfreq) == sizeof(ifreq) && sizeof(AbiIfconf) == sizeof(ifconf));

// Linux: dev_ifsioc_locked. Writes the answer into the request.
Result<void> Answer(const Interface& interface, uint64_t command, AbiIfreq& request) {
  switch (command) {
    case SIOCGIFINDEX:
      request.Set(interface.index);
      return {};
    case SIOCGIFFLAGS:
      request.Set(interface.flags);
      return {};
    case SIOCGIFMETRIC:
      request.Set(int{0});
      return {};
    case SIOCGIFMTU:
      request.Set(interface.mtu);
      return {};
    case SIOCGIFHWADDR: {
      sockaddr address{};
      address.sa_family = interface.hardware_type;
      request.Set(address);
      return {};
    }
    case SIOCGIFMAP:
      request.Set(ifmap{});
      return {};
    case SIOCGIFTXQLEN:
      request.Set(interface.queue_length);
      return {};
    default:
      return Fail(ENOTTY);
  }
}

// SIOCGIFCONF (Linux: dev_ifconf): those that have an IPv4 address. With a null buffer: how much
// room they need.
Result<uint64_t> List(const Interfaces& interfaces, vfs::Caller& caller, uint64_t argument) {
  const mm::UserPtr<AbiIfconf> address(argument);
  AbiIfconf list = TRY(caller.memory().CopyIn(address));
  const bool counts = list.buffer == 0;
  const size_t room = list.size < 0 ? 0 : static_cast<size_t>(list.size);
  std::vector<AbiIfreq> found;
  for (const Interface& interface : interfaces.all()) {
    if (interface.ipv4 == 0) continue;
    if (!counts && (found.size() + 1) * sizeof(AbiIfreq) > room) break;
    AbiIfreq request{};
    request.SetName(interface);
    sockaddr_in ip{};
    ip.sin_family = AF_INET;
    ip.sin_addr.s_addr = interface.ipv4;
    request.Set(ip);
    found.push_back(request);
  }
  const auto bytes = std::as_bytes(std::span(found));
  if (!counts) {
    if (caller.memory().CopyOut(mm::UserAddr{list.buffer}, bytes).fault != 0) return Fail(EFAULT);
  }
  list.size = static_cast<int32_t>(bytes.size());
  TRY(caller.memory().CopyOut(address, list));
  return 0;
}

}  // namespace

Interfaces::Interfaces() {
  all_.push_back({.name = "lo",
                  .index = 1,
                  .flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING,
                  .hardware_type = ARPHRD_LOOPBACK,
                  .mtu = kLoopbackMtu,
                  .queue_length = kQueueLength,
                  .ipv4 = htonl(INADDR_LOOPBACK)});
}

const Interface* Interfaces::Find(std::string_view name) const {
  const auto it =
      std::find_if(all_.begin(), all_.end(), [&](const Interface& i) { return i.name == name; });
  return it == all_.end() ? nullptr : &*it;
}

const Interface* Interfaces::Find(int index) const {
  const auto it =
      std::find_if(all_.begin(), all_.end(), [&](const Interface& i) { return i.index == index; });
  return it == all_.end() ? nullptr : &*it;
}

bool IsInterfaceIoctl(uint64_t command) {
  switch (command) {
    case SIOCGIFNAME:
    case SIOCGIFCONF:
    case SIOCGIFINDEX:
    case SIOCGIFFLAGS:
    case SIOCGIFMETRIC:
    case SIOCGIFMTU:
    case SIOCGIFHWADDR:
    case SIOCGIFMAP:
    case SIOCGIFTXQLEN:
      return true;
    default:
      return IsChange(command);
  }
}

// Linux: sock_do_ioctl, dev_ioctl.
Result<uint64_t> InterfaceIoctl(const Interfaces& interfaces, const auth::UserNamespace* owner,
                                vfs::Caller& caller, uint64_t command, uint64_t argument) {
  if (command == SIOCGIFCONF) return List(interfaces, caller, argument);
  const mm::UserPtr<AbiIfreq> address(argument);
  AbiIfreq request = TRY(caller.memory().CopyIn(address));
  request.name.back() = '\0';
  const std::string_view name = request.name.data();
  if (command == SIOCGIFNAME) {
    const Interface* found = interfaces.Find(request.Get<int>());
    if (found == nullptr) return Fail(ENODEV);
    request.SetName(*found);
  } else if (IsChange(command)) {
    if (!caller.creds().HasIn(owner, CAP_NET_ADMIN)) return Fail(EPERM);
    return Fail(interfaces.Find(name) == nullptr ? ENODEV : EOPNOTSUPP);
  } else {
    const Interface* found = interfaces.Find(name);
    if (found == nullptr) return Fail(ENODEV);
    TRY(Answer(*found, command, request));
  }
  TRY(caller.memory().CopyOut(address, request));
  return 0;
}

}  // namespace skep::net
