// Control messages: what msg_control of sendmsg and recvmsg says (Linux: net/core/scm.c).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sentry/net/socket.h"
#include "sentry/vfs/fd_table.h"

namespace skep::net {

inline constexpr size_t kMaxControl = 20480;  // net.core.optmem_max: ENOBUFS beyond
inline constexpr size_t kMaxSentFiles = 253;  // Linux: SCM_MAX_FD

// SCM_RIGHTS and SCM_CREDENTIALS of level SOL_SOCKET; other levels are passed over. EINVAL, EBADF;
// EPERM: credentials that the caller may not claim; ESRCH: of no process.
Result<Control> ParseControl(vfs::Caller& caller, const vfs::FdTable& table,
                             std::string_view bytes);

// What recvmsg puts into a buffer of `size` bytes; descriptors that are in it are committed by
// Commit(), once the guest has it.
class ControlReply {
 public:
  // flags: MSG_CMSG_CLOEXEC. `wants_credentials`: SO_PASSCRED.
  ControlReply(vfs::Caller& receiver, Control control, bool wants_credentials, vfs::FdTable& table,
               size_t size, int flags);
  const std::string& bytes() const { return bytes_; }
  int flags() const { return flags_; }  // MSG_CTRUNC, MSG_CMSG_CLOEXEC
  void Commit() &&;

 private:
  void Put(int type, std::string_view payload, size_t size);
  void PutFiles(std::vector<Ref<vfs::File>> files, vfs::FdTable& table, uint64_t fd_limit,
                size_t size);

  std::string bytes_;
  int flags_ = 0;
  vfs::CloseOnExec cloexec_;
  std::vector<vfs::FdReservation> reserved_;
  std::vector<Ref<vfs::File>> files_;
};

}  // namespace skep::net
