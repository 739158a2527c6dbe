// The processes of a sandbox: one table says of each who it is on the host, where it stands, what
// it holds and what its end means. Processes are started by this table;
// tests/hostile/roles_test.py judges the processes of a running sandbox by it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace skep::runtime {

enum class Role : uint8_t { kSentry, kGofer, kStub };

enum class RoleIds : uint8_t {
  kOwn,      // one user and one group of its own (IdsOfItsOwn)
  kTree,     // those of the file tree it serves (IdsOfTree)
  kSentrys,  // in the sentry's user namespace, as the sentry
};

struct RoleRow {
  Role role;
  const char* name;  // of its first thread, as ps(1) shows it
  const char* verb;  // of this binary; null: an engine clones it from the sentry
  RoleIds ids;
  uint64_t namespaces;    // CLONE_NEW* of its own; 0: the sentry's
  uint64_t capabilities;  // that it keeps, in its own user namespace
  const char* root;
  const char* holds;  // descriptors
  const char* death;  // what its end means
};

std::span<const RoleRow> Roles();
const RoleRow& RowOf(Role role);
// "user mount pid ..."
std::string NamesOfNamespaces(uint64_t namespaces);

}  // namespace skep::runtime
