// The files of a named sandbox: <root>/<id>/ with state.json, control.sock and, if it is detached,
// output.log.
//
// The sandbox lives if control.sock accepts a connection. The files only say what a dead one was. A
// command that makes, changes or removes a directory holds its lock meanwhile, and not longer: no
// command has to live for the sandbox. One that is incomplete can be deleted like any
// other.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "runtime/client.h"

namespace skep::cli {

struct ContainerState {
  std::string id, status, bundle, created;
  int pid = 0;                   // of the sentry
  std::optional<int> exit_code;  // of one whose end was fetched
  std::string cgroup;            // what was made for its memory limit; empty: nothing
};

class StateDirectory {
 public:
  // A new one, locked. Fails if there is one of this name, in whatever state.
  static HostResult<StateDirectory> Make(const std::string& root, const std::string& id);
  // One that is there, not locked. The error says that there is none.
  static HostResult<StateDirectory> Open(const std::string& root, const std::string& id);
  // Names of all that are there.
  static std::vector<std::string> List(const std::string& root);

  int fd() const { return directory_.get(); }
  // Waits until nobody else holds it.
  HostResult<void> Lock();
  void Unlock() { lock_.Reset(); }
  // For a locked directory: the lock lasts until the result is closed too.
  HostResult<OwnedFd> ShareLock() const;
  bool IsLocked() const;  // by somebody else

  // Durable: written beside, synced, renamed.
  HostResult<void> Write(const ContainerState& state);
  // nullopt: there is none, or it is broken.
  std::optional<ContainerState> Read() const;
  Result<OwnedFd> OpenFile(const char* name, int flags) const;
  HostResult<OwnedFd> BindSocket() const;
  // The other's sandbox can be reached here too, also when the other is gone.
  HostResult<void> LinkSocket(const StateDirectory& other) const;
  Result<runtime::SandboxClient> Connect() const;
  // With all that is in it. The caller holds the lock.
  HostResult<void> Remove();

 private:
  StateDirectory(std::string path, OwnedFd directory)
      : path_(std::move(path)), directory_(std::move(directory)) {}

  std::string path_;
  OwnedFd directory_;
  OwnedFd lock_;  // an open file description of its own
};

// The default of --root for this user.
std::string DefaultStateRoot();
// Letters, digits and "_+-." only, and not "." or "..".
HostResult<void> CheckId(const std::string& id);
std::string StateJson(const ContainerState& state);
// The current time in the form of state.json.
std::string TimeNow();

inline constexpr const char* kOutputLog = "output.log";

}  // namespace skep::cli
