#include "base/user_database.h"

#include <limits.h>
#include <array>
#include <optional>
#include <string_view>

namespace skep {
namespace {

// The first four fields of a line of /etc/passwd or /etc/group.
struct Record {
  std::array<std::string_view, 4> fields;
  size_t count = 0;
};

// Takes what is before `end` off the text.
std::string_view TakeUntil(std::string_view& text, char end) {
  const size_t size = std::min(text.find(end), text.size());
  const std::string_view taken = text.substr(0, size);
  text.remove_prefix(std::min(size + 1, text.size()));
  return taken;
}

// The next line with so many fields at least; nullopt: there is none.
std::optional<Record> NextRecord(std::string_view& text, size_t least) {
  while (!text.empty()) {
    std::string_view line = TakeUntil(text, '\n');
    Record record;
    bool more = true;
    while (more && record.count < record.fields.size()) {
      more = line.find(':') != std::string_view::npos;
      record.fields[record.count++] = TakeUntil(line, ':');
    }
    if (record.count >= least) return record;
  }
  return std::nullopt;
}

std::optional<uint32_t> ParseId(std::string_view text) {
  constexpr uint64_t kNone = 0xffff'ffff;  // -1 means "none" to the kernel
  uint64_t number = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    number = number * 10 + static_cast<uint64_t>(c - '0');
    if (number >= kNone) return std::nullopt;
  }
  if (text.empty()) return std::nullopt;
  return static_cast<uint32_t>(number);
}

HostResult<uint32_t> FindGroup(std::string_view name, const UserDatabase* database) {
  if (const auto id = ParseId(name)) return *id;
  if (database == nullptr) {
    return HostFail("--user: give the group '" + std::string(name) +
                    "' as a number: skep does not read the /etc/group of a rootfs");
  }
  std::string_view text = database->group;
  while (const auto record = NextRecord(text, 3)) {
    const auto id = ParseId(record->fields[2]);
    if (record->fields[0] == name && id) return *id;
  }
  return HostFail("--user: no group '" + std::string(name) + "' in /etc/group");
}

bool IsMember(std::string_view members, std::string_view user) {
  while (!members.empty()) {
    if (TakeUntil(members, ',') == user) return true;
  }
  return false;
}

std::vector<uint32_t> GroupsOf(std::string_view user, uint32_t gid, std::string_view group) {
  std::vector<uint32_t> groups = {gid};
  while (const auto record = NextRecord(group, 4)) {
    const auto id = ParseId(record->fields[2]);
    if (!id || !IsMember(record->fields[3], user)) continue;
    if (groups.size() == NGROUPS_MAX) break;
    groups.push_back(*id);
  }
  return groups;
}

}  // namespace

HostResult<User> ParseUser(const std::string& text, const UserDatabase* database) {
  const size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  User user;
  const auto number = ParseId(name);
  bool found = false;
  if (number) user = {*number, *number, {*number}};
  std::string_view lines = database != nullptr ? std::string_view(database->passwd) : "";
  while (const auto record = NextRecord(lines, 4)) {
    const auto uid = ParseId(record->fields[2]);
    const auto gid = ParseId(record->fields[3]);
    if (!uid || !gid || (number ? *uid != *number : record->fields[0] != name)) continue;
    user = {*uid, *gid, GroupsOf(record->fields[0], *gid, database->group)};
    found = true;
    break;
  }
  if (!number && database == nullptr) {
    return HostFail("--user: give '" + name +
                    "' as a number: skep does not read the /etc/passwd of a rootfs");
  }
  if (!number && !found) return HostFail("--user: no user '" + name + "' in /etc/passwd");
  if (colon == std::string::npos) return user;
  user.gid = TRY(FindGroup(std::string_view(text).substr(colon + 1), database));
  user.groups = {user.gid};
  return user;
}

}  // namespace skep
