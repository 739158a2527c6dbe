#include <linux/capability.h>
#include <sys/time.h>
#include <algorithm>
#include <array>
#include <cstring>

#include "sentry/net/net_namespace.h"
#include "sentry/net/socket.h"

namespace skep::net {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr int kMinSendBuffer = 4608, kMinReceiveBuffer = 2304;  // Linux: SOCK_MIN_SNDBUF, _RCVBUF
constexpr int kMaxPriority = 6;                                 // without CAP_NET_ADMIN

Result<int> IntOf(std::string_view value) {
  int number = 0;
  if (value.size() < sizeof number) return Fail(EINVAL);
  memcpy(&number, value.data(), sizeof number);
  return number;
}

// Linux: sock_set_timeout. EDOM for microseconds out of range; negative seconds: no waiting at all.
Result<uint64_t> TimeoutOf(std::string_view value) {
  timeval time{};
  if (value.size() < sizeof time) return Fail(EINVAL);
  memcpy(&time, value.data(), sizeof time);
  if (time.tv_usec < 0 || time.tv_usec >= 1'000'000) return Fail(EDOM);
  if (time.tv_sec < 0) return 1;
  constexpr int64_t kForEver = 1'000'000'000;  // seconds
  if (time.tv_sec >= kForEver) return 0;
  return static_cast<uint64_t>(time.tv_sec) * kSecond + static_cast<uint64_t>(time.tv_usec) * 1000;
}

timeval TimevalOf(uint64_t ns) {
  return {.tv_sec = static_cast<time_t>(ns / kSecond),
          .tv_usec = static_cast<suseconds_t>(ns % kSecond / 1000)};
}

// Options that are kept and told back, and change nothing here.
constexpr std::array kKept = {SO_DEBUG,     SO_REUSEADDR, SO_DONTROUTE, SO_BROADCAST, SO_KEEPALIVE,
                              SO_OOBINLINE, SO_NO_CHECK,  SO_REUSEPORT, SO_TIMESTAMP};
bool IsKept(int name) { return std::find(kKept.begin(), kKept.end(), name) != kKept.end(); }

int DoubledBuffer(int value, int least, bool forced) {
  if (value < 0) value = 0;
  if (!forced) value = std::min(value, kMaxBuffer);
  constexpr int kLargest = 1 << 29;
  return std::max(std::min(value, kLargest) * 2, least);
}

}  // namespace

Result<void> Socket::SetOption(vfs::Caller& caller, int level, int name, std::string_view value) {
  if (level != SOL_SOCKET) return Fail(EOPNOTSUPP);
  return SetSocketOption(caller, name, value);
}

Result<void> Socket::SetSocketOption(vfs::Caller& caller, int name, std::string_view value) {
  // Linux: sockopt_ns_capable.
  const bool net_admin = caller.creds().HasIn(net_namespace().owner(), CAP_NET_ADMIN);
  if (name == SO_RCVTIMEO || name == SO_SNDTIMEO) {
    auto& timeout = name == SO_RCVTIMEO ? options_.receive_timeout_ns : options_.send_timeout_ns;
    timeout = TRY(TimeoutOf(value));
    return {};
  }
  const int number = TRY(IntOf(value));
  if (IsKept(name)) {
    const uint32_t bit = uint32_t{1} << (name & 31);
    if (number != 0) {
      options_.flags |= bit;
    } else {
      options_.flags &= ~bit;
    }
    return {};
  }
  switch (name) {
    case SO_SNDBUFFORCE:
    case SO_RCVBUFFORCE:
      if (!caller.creds().HasInFirst(CAP_NET_ADMIN)) return Fail(EPERM);  // the host's memory
      [[fallthrough]];
    case SO_SNDBUF:
    case SO_RCVBUF: {
      const bool forced = name == SO_SNDBUFFORCE || name == SO_RCVBUFFORCE;
      const bool send = name == SO_SNDBUF || name == SO_SNDBUFFORCE;
      auto& buffer = send ? options_.send_buffer : options_.receive_buffer;
      buffer = DoubledBuffer(number, send ? kMinSendBuffer : kMinReceiveBuffer, forced);
      OnOptionsChanged();
      return {};
    }
    case SO_PASSCRED:
      options_.pass_credentials = number != 0;
      OnOptionsChanged();
      return {};
    case SO_RCVLOWAT:
      options_.receive_low = number < 0 ? INT32_MAX : std::max(number, 1);
      return {};
    case SO_PRIORITY:
      if ((number < 0 || number > kMaxPriority) && !net_admin) return Fail(EPERM);
      options_.priority = number;
      return {};
    case SO_MARK:
      if (!net_admin) return Fail(EPERM);
      options_.mark = number;
      return {};
    case SO_LINGER: {
      if (value.size() < sizeof(struct linger)) return Fail(EINVAL);
      uint64_t bits = 0;
      memcpy(&bits, value.data(), sizeof bits);
      options_.linger = bits;
      return {};
    }
    case SO_TYPE:
    case SO_PROTOCOL:
    case SO_DOMAIN:
    case SO_ERROR:
    default:
      return Fail(ENOPROTOOPT);
  }
}

Result<void> Socket::GetOption(vfs::Caller& caller, int level, int name, OptionReply& reply) {
  if (level != SOL_SOCKET) return Fail(EOPNOTSUPP);
  return GetSocketOption(caller, name, reply);
}

// Linux: sk_getsockopt, SO_PEERGROUPS: all of them or, with the length they need, ERANGE.
Result<void> Socket::PeerGroupsOption(vfs::Caller& caller, OptionReply& reply) {
  std::vector<uint32_t> groups = TRY(PeerGroups());
  for (uint32_t& group : groups) group = caller.creds().ShownGroup(group);
  const std::string_view bytes(reinterpret_cast<const char*>(groups.data()),
                               groups.size() * sizeof(uint32_t));
  if (reply.room() < bytes.size()) {
    reply.SetNeeded(bytes.size());
    return Fail(ERANGE);
  }
  reply.SetBytes(bytes);
  return {};
}

Result<void> Socket::GetSocketOption(vfs::Caller& caller, int name, OptionReply& reply) {
  const auto answer = [&reply](const auto& value) -> Result<void> {
    reply.Set(value);
    return {};
  };
  if (IsKept(name)) return answer(int{(options_.flags.load() >> (name & 31) & 1) != 0});
  switch (name) {
    case SO_TYPE:
      return answer(type_);
    case SO_DOMAIN:
      return answer(family_);
    case SO_PROTOCOL:
      return answer(protocol_);
    case SO_ERROR:
      return answer(TakeError());
    case SO_ACCEPTCONN:
      return answer(int{IsListening()});
    case SO_SNDBUF:
      return answer(options_.send_buffer.load());
    case SO_RCVBUF:
      return answer(options_.receive_buffer.load());
    case SO_RCVTIMEO:
      return answer(TimevalOf(options_.receive_timeout_ns.load()));
    case SO_SNDTIMEO:
      return answer(TimevalOf(options_.send_timeout_ns.load()));
    case SO_PASSCRED:
      return answer(int{options_.pass_credentials.load()});
    case SO_RCVLOWAT:
      return answer(options_.receive_low.load());
    case SO_SNDLOWAT:
      return answer(int{1});
    case SO_PRIORITY:
      return answer(options_.priority.load());
    case SO_MARK:
      return answer(options_.mark.load());
    case SO_LINGER:
      return answer(options_.linger.load());
    case SO_PEERCRED: {
      // Linux: cred_to_ucred.
      constexpr ucred kNobody = {.pid = 0, .uid = auth::kNoId, .gid = auth::kNoId};
      const std::optional<Sender> peer = TRY(PeerCredentials());
      return answer(peer ? peer->SeenBy(caller) : kNobody);
    }
    case SO_PEERGROUPS:
      return PeerGroupsOption(caller, reply);
    default:
      return Fail(ENOPROTOOPT);
  }
}

}  // namespace skep::net
