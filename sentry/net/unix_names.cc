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
constexpr uint32_t kAutobindNames = 1 << 20;

}  // namespace

Result<UnixName> ParseUnixName(const Address& address) {
  if (address.size < sizeof(sa_family_t) || address.size > sizeof(sockaddr_un)) {
    return Fail(EINVAL);
  }
  if (address.family() != AF_UNIX) return Fail(EINVAL);
  const std::string_view text = address.view().substr(kPathOffset);
  if (text.empty()) return UnixName{};
  if (text[0] == '\0') return UnixName{UnixName::Kind::kAbstract, std::string(text.substr(1))};
  return UnixName{UnixName::Kind::kPath, std::string(text.substr(0, text.find('\0')))};
}

Address UnixAddressOf(const UnixName& name) {
  const sa_family_t family = AF_UNIX;
  // SAFETY: the bytes of an integer.
  Address address({reinterpret_cast<const char*>(&family), sizeof family});
  constexpr std::string_view kNul("", 1);
  if (name.kind == UnixName::Kind::kAbstract) address.Append(kNul);
  address.Append(name.text);
  if (name.kind == UnixName::Kind::kPath) address.Append(kNul);
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

}  // namespace skep::net
