// The gofer as a process: its configuration, and the main of `skep gofer`.
//
// The one who starts it (the CLI) keeps the other end of a control socket, sends a GoferConfig with
// SendConfig and waits for a JailReport with ReceiveReport. After that the control socket is closed
// and the gofer lives until its client's socket closes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "gofer/jail/jail.h"
#include "gofer/server/server.h"
#include "jail/identity.h"

namespace skep::gofer {

struct GoferConfig {
  std::vector<AttachPoint> attach_points;  // at most kMaxAttachPoints
  std::vector<HiddenPath> hidden;
  OwnedFd client;      // the gofer's end of the client's SOCK_SEQPACKET socket
  OwnedFd log;         // or none: stderr
  OwnedFd last_words;  // where it says why it died, or none (base/last_words.h)
  OwnedFd filter_use;  // a test mode: where the use of the filter's rows is counted
  LogFormat log_format = LogFormat::kText;
  LogLevel log_level = LogLevel::kWarning;
  bool allow_fifos = false;
  bool allow_sockets = false;
  bool jail = true;
  bool self_test = false;  // the test hook: try to break out, report, refuse with EPERM
  // CLONE_NEW* to enter, beside those that it was started in. With CLONE_NEWPID the gofer is a
  // child of the process that called GoferMain, which waits for it.
  uint32_t namespaces = 0;
  jail::Identity identity;  // to enter once the trees are isolated
  uint64_t max_nodes = 1 << 20;
};
inline constexpr size_t kMaxAttachPoints = 60;
// Everything there is to enter, for those who start a gofer from the host's namespaces.
uint32_t AllNamespaces();

Result<void> SendConfig(int control, const GoferConfig& config);
Result<JailReport> ReceiveReport(int control);

// The main of `skep gofer`; the exit status. `control`: an inherited SOCK_SEQPACKET socket.
int GoferMain(int control);

}  // namespace skep::gofer
