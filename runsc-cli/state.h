// What is on disk of a container: <root>/<id>/state.json, as `state` shows it.
//
// The directory is locked by the CLI that runs the container for as long as it lives, and removed
// by a janitor when that has ended, killed or not. One that nobody holds was left behind
// nevertheless and may be taken over.
#pragma once

#include <string>

#include "base/owned_fd.h"
#include "base/result.h"
#include "runtime/janitor.h"

namespace skep::cli {

struct ContainerState {
  std::string id, status, bundle, created;
  int pid = 0;
};

class StateDirectory {
 public:
  // Fails if a container of this name exists.
  static HostResult<StateDirectory> Make(const std::string& root, const std::string& id);
  StateDirectory(StateDirectory&& other) noexcept;
  StateDirectory& operator=(StateDirectory&&) = delete;
  ~StateDirectory();  // removes it

  // Durable: written beside, synced, renamed.
  HostResult<void> Write(const ContainerState& state);

 private:
  StateDirectory() = default;

  std::string path_;
  OwnedFd directory_;
  runtime::Janitor janitor_;
};

// The default of --root for this user.
std::string DefaultStateRoot();
// Letters, digits and "_+-." only, and not "." or "..".
HostResult<void> CheckId(const std::string& id);
std::string StateJson(const ContainerState& state);

}  // namespace skep::cli
