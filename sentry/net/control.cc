#include "sentry/net/control.h"

#include <linux/capability.h>
#include <algorithm>
#include <cstring>

namespace skep::net {
namespace {

// Linux: __scm_send, scm_check_creds.
Result<Sender> CheckCredentials(vfs::Caller& caller, const ucred& asked) {
  const auth::Credentials& own = caller.creds();
  Sender claimed{.process = caller.Process(),
                 .uid = own.KernelUser(asked.uid),
                 .gid = own.KernelGroup(asked.gid)};
  const bool as_itself = claimed.process && caller.NumberOf(*claimed.process) == asked.pid;
  if (claimed.uid == auth::kNoId || claimed.gid == auth::kNoId) return Fail(EINVAL);
  if (!as_itself && !own.HasIn(caller.PidNamespaceOwner(), CAP_SYS_ADMIN)) return Fail(EPERM);
  const auto is_one_of = [](uint32_t id, uint32_t a, uint32_t b, uint32_t c) {
    return id == a || id == b || id == c;
  };
  if (!is_one_of(claimed.uid, own.uid, own.euid, own.suid) && !own.HasInOwn(CAP_SETUID)) {
    return Fail(EPERM);
  }
  if (!is_one_of(claimed.gid, own.gid, own.egid, own.sgid) && !own.HasInOwn(CAP_SETGID)) {
    return Fail(EPERM);
  }
  if (!as_itself) claimed.process = TRY(caller.FindProcess(asked.pid));
  return claimed;
}

Result<void> AddFiles(const vfs::FdTable& table, std::string_view payload, Control& control) {
  const size_t count = payload.size() / sizeof(int);
  if (control.files.size() + count > kMaxSentFiles) return Fail(EINVAL);
  for (size_t i = 0; i < count; ++i) {
    int fd = -1;
    memcpy(&fd, payload.data() + i * sizeof fd, sizeof fd);
    Ref<vfs::File> file = TRY(table.GetIncludingPath(fd));
    control.files.push_back(std::move(file));
  }
  return {};
}

}  // namespace

Sender Sender::EffectiveOf(const vfs::Caller& caller) {
  return {caller.Process(), caller.creds().euid, caller.creds().egid};
}

Sender Sender::RealOf(const vfs::Caller& caller) {
  return {caller.Process(), caller.creds().uid, caller.creds().gid};
}

ucred Sender::SeenBy(const vfs::Caller& receiver) const {
  return {.pid = process ? receiver.NumberOf(*process) : 0,
          .uid = receiver.creds().ShownUser(uid),
          .gid = receiver.creds().ShownGroup(gid)};
}

// Linux: __scm_send.
Result<Control> ParseControl(vfs::Caller& caller, const vfs::FdTable& table,
                             std::string_view bytes) {
  Control control;
  while (bytes.size() >= sizeof(cmsghdr)) {
    cmsghdr header{};
    memcpy(&header, bytes.data(), sizeof header);
    if (header.cmsg_len < sizeof header || header.cmsg_len > bytes.size()) return Fail(EINVAL);
    const std::string_view payload = bytes.substr(sizeof header, header.cmsg_len - sizeof header);
    if (header.cmsg_level == SOL_SOCKET) {
      switch (header.cmsg_type) {
        case SCM_RIGHTS:
          TRY(AddFiles(table, payload, control));
          break;
        case SCM_CREDENTIALS: {
          ucred claimed{};
          if (payload.size() != sizeof claimed) return Fail(EINVAL);
          memcpy(&claimed, payload.data(), sizeof claimed);
          control.credentials = TRY(CheckCredentials(caller, claimed));
          break;
        }
        default:
          return Fail(EINVAL);
      }
    }
    bytes.remove_prefix(std::min(bytes.size(), CMSG_ALIGN(header.cmsg_len)));
  }
  return control;
}

ControlReply::ControlReply(vfs::Caller& receiver, Control control, bool wants_credentials,
                           vfs::FdTable& table, size_t size, int flags)
    : flags_(flags & MSG_CMSG_CLOEXEC),
      cloexec_((flags & MSG_CMSG_CLOEXEC) != 0 ? vfs::CloseOnExec::kYes : vfs::CloseOnExec::kNo) {
  if (wants_credentials && control.credentials) {
    const ucred seen = control.credentials->SeenBy(receiver);
    // SAFETY: ucred is three 32-bit words.
    Put(SCM_CREDENTIALS, {reinterpret_cast<const char*>(&seen), sizeof seen}, size);
  }
  if (!control.files.empty()) PutFiles(std::move(control.files), table, receiver.FileLimit(), size);
}

// Linux: put_cmsg: cut short if it does not fit, left out if not even its header does.
void ControlReply::Put(int type, std::string_view payload, size_t size) {
  if (size - bytes_.size() < sizeof(cmsghdr)) {
    flags_ |= MSG_CTRUNC;
    return;
  }
  size_t length = CMSG_LEN(payload.size());
  if (length > size - bytes_.size()) {
    flags_ |= MSG_CTRUNC;
    length = size - bytes_.size();
  }
  cmsghdr header{};
  header.cmsg_len = length;
  header.cmsg_level = SOL_SOCKET;
  header.cmsg_type = type;
  // SAFETY: the header's bytes, which have no padding.
  bytes_.append(reinterpret_cast<const char*>(&header), sizeof header);
  bytes_.append(payload.substr(0, length - sizeof header));
  bytes_.resize(std::min(size, CMSG_ALIGN(bytes_.size())));
}

// Linux: scm_detach_fds: as many as there is room and there are numbers for.
void ControlReply::PutFiles(std::vector<Ref<vfs::File>> files, vfs::FdTable& table,
                            uint64_t fd_limit, size_t size) {
  const size_t room = size - bytes_.size();
  const size_t fits = room < sizeof(cmsghdr) ? 0 : (room - sizeof(cmsghdr)) / sizeof(int);
  const size_t count = files.size();
  std::string numbers;
  for (size_t i = 0; i < std::min(fits, count); ++i) {
    Result<vfs::FdReservation> number = table.Reserve(fd_limit);
    if (!number) break;
    const int fd = number->fd();
    // SAFETY: the bytes of an int.
    numbers.append(reinterpret_cast<const char*>(&fd), sizeof fd);
    reserved_.push_back(std::move(*number));
    files_.push_back(std::move(files[i]));
  }
  if (reserved_.size() < count) flags_ |= MSG_CTRUNC;
  if (!reserved_.empty()) Put(SCM_RIGHTS, numbers, size);
}

void ControlReply::Commit() && {
  for (size_t i = 0; i < reserved_.size(); ++i) {
    std::move(reserved_[i]).Commit(std::move(files_[i]), cloexec_);
  }
}

}  // namespace skep::net
