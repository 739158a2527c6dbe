// Requests to a running sandbox and their replies, as packets of a SOCK_SEQPACKET socket: what the
// command line, mirrors and the service speak with it. Descriptors come along (SCM_RIGHTS).
//
// A client numbers its requests; a reply has the number of its request and may come after replies
// to later ones. Both sides check every length and number: a packet that is malformed ends the
// connection, nothing else.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "sentry/boot/control.h"

namespace skep::boot {

// All containers of the sandbox -> ListReply.
struct ListRequest {};
// Another process in a container -> ExecReply when it runs, or ErrorReply. Descriptors: those of
// process.stdio_fds that are not -1, in order; stdio_owners are the asker's ids.
struct ExecRequest {
  std::string container;
  // Environment: added to the container's. Limits, umask, no_new_privs: the container's.
  ProcessConfig process;
  // "UID[:GID]" or names, as the container's /etc/passwd and /etc/group have them; empty: whoever
  // the container's first process is.
  std::string user;
  bool has_cwd = false;  // else that of the first process
};
// When the process has ended -> ExitReply. `exec` empty: the container's first process.
struct WaitRequest {
  std::string container, exec;
};
// -> DoneReply when it has been delivered; ESRCH.
struct SignalRequest {
  std::string container, exec;
  int32_t signo = 0;
};
// The size of an exec session's terminal -> DoneReply.
struct WindowRequest {
  std::string container, exec;
  uint32_t rows = 0, columns = 0;
};
// The status of the container's end was fetched and noted: it is forgotten, and the sandbox ends
// with its last one -> DoneReply. EBUSY: it runs.
struct ReleaseRequest {
  std::string container;
};
// Ends the container whatever it does, and forgets it -> DoneReply. The sandbox ends with its last
// one, or now if no container is named: the connection ends with it then.
struct EndRequest {
  std::string container;
};
// One more container in the sandbox -> DoneReply when its first process runs, or ErrorReply:
// EEXIST, EMFILE, the errno of its execve, or ECANCELED if its files could not be set up.
// Descriptors: the client's socket of a gofer of its own, then those of process.stdio_fds that are
// not -1, in order.
struct StartContainerRequest {
  ContainerConfig container;
  ProcessConfig process;
};

using Request = std::variant<ListRequest, ExecRequest, WaitRequest, SignalRequest, WindowRequest,
                             ReleaseRequest, EndRequest, StartContainerRequest>;

struct ErrorReply {
  int32_t code = 0;  // an errno; of execve: why the program does not run
  std::string text;
};
struct DoneReply {};
struct ContainerEntry {
  std::string id;
  bool running = false;
  int32_t status = 0;  // as wait4 tells it, of one that has ended
  std::vector<std::string> execs;
};
struct ListReply {
  std::vector<ContainerEntry> containers;
};
struct ExecReply {
  std::string exec;
};
struct ExitReply {
  int32_t status = 0;  // as wait4 tells it
  std::string text;    // why, where it was not the process's own doing
};
using Reply = std::variant<ErrorReply, DoneReply, ListReply, ExecReply, ExitReply>;

inline constexpr size_t kMaxPacketFds = 5;  // a long body, a gofer, three standard files

template <class Message>
struct Packet {
  uint64_t id = 0;
  Message message;
  std::vector<OwnedFd> fds;
};

// `fds`: lent. A message too long for a packet travels in a memory file.
Result<void> SendRequest(int socket, uint64_t id, const Request& request,
                         const std::vector<int>& fds = {});
Result<void> SendReply(int socket, uint64_t id, const Reply& reply);
// ECONNRESET: the peer is gone; EPROTO: what came is no such packet; EAGAIN.
Result<Packet<Request>> ReceiveRequest(int socket);
Result<Packet<Reply>> ReceiveReply(int socket);

// The bodies, for tests and fuzzing. EPROTO.
std::string EncodeRequest(const Request& request);
Result<Request> DecodeRequest(uint32_t kind, std::string_view body);
std::string EncodeReply(const Reply& reply);
Result<Reply> DecodeReply(uint32_t kind, std::string_view body);

}  // namespace skep::boot
