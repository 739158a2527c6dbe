// ExecSession: a process that somebody outside has started in a running container, and its streams.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/ref.h"
#include "sentry/anon/console.h"
#include "sentry/boot/control.h"
#include "sentry/boot/stdio.h"
#include "sentry/kernel/container.h"

namespace skep::boot {

struct ContainerHost;

// Whom a reply goes to: a connection, while it lasts. Guarded by the server's mutex.
struct ControlClient : RefCounted<ControlClient> {
  arena::HostFd socket;
  bool gone = false;
};

struct PendingWait {
  Ref<ControlClient> client;
  uint64_t id = 0;  // of the request
};

struct ExecSession : RefCounted<ExecSession> {
  std::string id;  // in its container
  Ref<ContainerHost> host;
  ProcessConfig process;
  std::string user;  // ExecRequest::user
  ProcessStdio stdio;
  Ref<ControlClient> owner;  // who started it
  std::string failure;       // of the start, in words

  // Belongs to the session's fibers; others may look at the console while it is `running`.
  Ref<anon::Console> console;
  int console_index = -1;

  Ref<kernel::StartedProcess> started;  // set before StartSession returns

  // Guarded by the server's mutex.
  bool running = false;
  std::optional<int> status;  // as wait4 tells it, when it has ended
  std::vector<PendingWait> waits;
};

// What becomes of a session, told on fibers.
class SessionEvents {
 public:
  // `error`: 0, or why the program does not run (ECANCELED: it was not tried); session.failure
  // says it in words.
  virtual void Started(ExecSession& session, int error) = 0;
  virtual void Ended(ExecSession& session, int status) = 0;

 protected:
  ~SessionEvents() = default;
};

// Starts it. The caller has filled in id, host, process, user, stdio and owner. Arena heap.
Result<void> StartSession(Ref<ExecSession> session, SessionEvents& events);
}  // namespace skep::boot
