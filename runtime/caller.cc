#include "runtime/caller.h"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <string>

#include "base/host_call.h"

namespace skep::runtime {
namespace {

constexpr uint32_t kEveryId = 0xffff'ffff;  // all but -1, which names none
constexpr uint32_t kNobody = 65534;
// Nothing hands out ids from here to 2^31: systemd's last range for containers ends below it.
constexpr uint32_t kFirstUnused = 0x7000'0000;
constexpr uint32_t kUnusedMask = 0x0fff'ffff;

// In a user namespace of somebody else's making, mounts are not ours to clone.
bool InFirstUserNamespace() {
  const Result<std::string> map = host::ReadWholeFile("/proc/self/uid_map", 4096);
  return map && map->find("4294967295") != std::string::npos;
}

int64_t FirstOf(const std::vector<IdMap>& maps) {
  const bool has_root =
      std::any_of(maps.begin(), maps.end(), [](const IdMap& map) { return map.inside == 0; });
  return has_root || maps.empty() ? 0 : maps[0].inside;
}

}  // namespace

bool HasCapability(int capability) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (!host::Call(SYS_capget, &header, data)) return false;
  const auto number = static_cast<unsigned>(capability);
  return (data[number / 32].effective >> (number % 32) & 1) != 0;
}

Caller WhoCalls() {
  Caller caller;
  caller.uid = geteuid();
  caller.gid = getegid();
  const int count = getgroups(0, nullptr);
  if (count > 0) {
    caller.groups.resize(static_cast<size_t>(count));
    const int got = getgroups(count, caller.groups.data());
    caller.groups.resize(got > 0 ? static_cast<size_t>(got) : 0);
  }
  caller.privileged = caller.uid == 0 && HasCapability(CAP_SYS_ADMIN) && InFirstUserNamespace();
  return caller;
}

HostResult<ChildIds> IdsOfItsOwn(const Caller& caller) {
  ChildIds ids;
  if (!caller.privileged) {
    ids.uids = {{caller.uid, caller.uid, 1}};
    ids.gids = {{caller.gid, caller.gid, 1}};
    ids.deny_setgroups = true;
    return ids;
  }
  uint32_t number = 0;
  const Result<int64_t> drawn = host::Call(SYS_getrandom, &number, sizeof number, 0);
  if (!drawn) return HostFail("cannot draw a user id (getrandom)", drawn.error().code());
  number = kFirstUnused | (number & kUnusedMask);
  ids.uids = ids.gids = {{number, number, 1}};
  ids.identity = {number, number, true};
  return ids;
}

ChildIds IdsOfTree(const Caller& caller, const std::vector<IdMap>& uids,
                   const std::vector<IdMap>& gids) {
  ChildIds ids;
  ids.uids = uids;
  ids.gids = gids;
  if (!caller.privileged) {
    if (uids.empty()) ids.uids = {{caller.uid, caller.uid, 1}};
    if (gids.empty()) ids.gids = {{caller.gid, caller.gid, 1}};
    ids.deny_setgroups = true;
    return ids;
  }
  if (uids.empty()) ids.uids = {{0, 0, kEveryId}};
  if (gids.empty()) ids.gids = {{0, 0, kEveryId}};
  ids.identity = {FirstOf(ids.uids), FirstOf(ids.gids), true};
  return ids;
}

uint32_t InsideOf(const std::vector<IdMap>& maps, uint32_t outside) {
  for (const IdMap& map : maps) {
    if (outside - map.outside < map.count) return map.inside + (outside - map.outside);
  }
  return kNobody;
}

}  // namespace skep::runtime
