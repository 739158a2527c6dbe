#include "sentry/net/unix_names.h"

#include <sys/un.h>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstring>

#include "sentry/net/unix_endpoint.h"

namespace skep::net {
namespace {

constexpr size_t kPathOffset = offsetof(sockaddr_un, sun_path);
constexpr size_t kMaxInFlight = size_t{1} << 16;
constexpr uint32_t kAutobindNames = 1 << 20;

}  // namespace

Result<UnixName> ParseUnixName(std::string_view address) {
  sa_family_t family = 0;
  if (address.size() < sizeof family || address.size() > sizeof(sockaddr_un)) return Fail(EINVAL);
  memcpy(&family, address.data(), sizeof family);
  if (family != AF_UNIX) return Fail(EINVAL);
  address.remove_prefix(kPathOffset);
  if (address.empty()) return UnixName{};
  if (address[0] == '\0') {
    return UnixName{UnixName::Kind::kAbstract, std::string(address.substr(1))};
  }
  return UnixName{UnixName::Kind::kPath, std::string(address.substr(0, address.find('\0')))};
}

Address UnixAddressOf(const UnixName& name) {
  const sa_family_t family = AF_UNIX;
  Address address(sizeof family, '\0');
  memcpy(address.data(), &family, sizeof family);
  if (name.kind == UnixName::Kind::kAbstract) address += '\0' + name.text;
  if (name.kind == UnixName::Kind::kPath) address += name.text + '\0';
  return address;
}

Result<void> UnixNamespace::Bind(int type, const std::string& name, UnixEndpoint& endpoint) {
  MutexLock lock(mutex_);
  if (!abstract_.try_emplace(Key{type, name}, &endpoint).second) return Fail(EADDRINUSE);
  return {};
}

Result<std::string> UnixNamespace::BindAny(int type, UnixEndpoint& endpoint) {
  MutexLock lock(mutex_);
  for (uint32_t i = 0; i < kAutobindNames; ++i) {
    std::array<char, 8> text{};
    const int size = snprintf(text.data(), text.size(), "%05x", next_autobind_++ % kAutobindNames);
    std::string name(text.data(), static_cast<size_t>(size));
    if (abstract_.try_emplace(Key{type, name}, &endpoint).second) return name;
  }
  return Fail(ENOSPC);
}

void UnixNamespace::Unbind(int type, const std::string& name) {
  MutexLock lock(mutex_);
  abstract_.erase(Key{type, name});
}

Ref<UnixEndpoint> UnixNamespace::Find(int type, const std::string& name) {
  MutexLock lock(mutex_);
  const auto found = abstract_.find(Key{type, name});
  if (found == abstract_.end()) return {};
  return Ref<UnixEndpoint>::TryFrom(found->second);
}

Result<void> UnixNamespace::AddInFlight(size_t count) {
  if (in_flight_.fetch_add(count) + count <= kMaxInFlight) return {};
  in_flight_ -= count;
  return Fail(ETOOMANYREFS);
}

}  // namespace skep::net
