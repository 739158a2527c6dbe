// Sockets: addresses and messages between the guest's structures and net::Socket.
#include <fcntl.h>
#include <cstring>

#include "base/limits.h"
#include "sentry/kernel/kernel.h"
#include "sentry/net/control.h"
#include "sentry/net/families.h"
#include "sentry/syscalls/abi.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"

namespace skep::syscalls {
namespace {

constexpr int kTypeMask = 0xf;
constexpr int kTypeFlags = SOCK_CLOEXEC | SOCK_NONBLOCK;

struct SocketFile {
  Ref<vfs::File> file;
  net::Socket& socket;
};

Result<SocketFile> SocketOf(Task& task, Fd fd) {
  Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  auto* socket = dynamic_cast<net::Socket*>(file.get());
  if (socket == nullptr) return Fail(ENOTSOCK);
  return SocketFile{std::move(file), *socket};
}

net::NetNamespace& NetOf(Task& task) { return task.namespaces->net->sockets(); }

// Linux: move_addr_to_kernel.
Result<net::Address> CopyInAddress(Task& task, UserPtr<const uint8_t> from, int32_t size) {
  if (size < 0 || static_cast<size_t>(size) > net::kMaxAddress) return Fail(EINVAL);
  net::Address address;
  address.size = static_cast<uint8_t>(size);
  if (task.mm->CopyIn(from.addr(), std::as_writable_bytes(address.writable())).fault != 0) {
    return Fail(EFAULT);
  }
  return address;
}

// Linux: move_addr_to_user: as much as fits; the length it really has.
Result<void> CopyOutAddress(Task& task, const net::Address& address, UserPtr<uint8_t> to,
                            UserPtr<uint32_t> size) {
  const auto room = static_cast<int32_t>(TRY(task.mm->CopyIn(size)));
  if (room < 0) return Fail(EINVAL);
  const size_t n = std::min<size_t>(address.size, static_cast<size_t>(room));
  if (task.mm->CopyOut(to.addr(), std::as_bytes(std::span(address.view().substr(0, n)))).fault != 0)
    return Fail(EFAULT);
  return task.mm->CopyOut(size, uint32_t{address.size});
}

uint32_t FileFlags(int32_t type) { return (type & SOCK_NONBLOCK) != 0 ? O_NONBLOCK : 0; }

Result<Fd> Socket(Task& task, int32_t family, int32_t type, int32_t protocol) {
  if ((type & ~(kTypeFlags | kTypeMask)) != 0) return Fail(EINVAL);
  if (family < 0 || family > AF_MAX) return Fail(EAFNOSUPPORT);
  if ((type & kTypeMask) > SOCK_PACKET) return Fail(EINVAL);
  Ref<net::Socket> socket =
      TRY(net::MakeSocket(NetOf(task), task, family, type & kTypeMask, protocol, FileFlags(type)));
  return InstallFile(task, std::move(socket), (type & SOCK_CLOEXEC) != 0);
}

Result<void> Socketpair(Task& task, int32_t family, int32_t type, int32_t protocol,
                        UserPtr<std::array<int32_t, 2>> out) {
  if ((type & ~(kTypeFlags | kTypeMask)) != 0) return Fail(EINVAL);
  const uint64_t limit = task.Limit(RLIMIT_NOFILE);
  vfs::FdReservation first = TRY(task.files->Reserve(limit));
  vfs::FdReservation second = TRY(task.files->Reserve(limit));
  // Linux copies the numbers before it makes the sockets.
  TRY(task.mm->CopyOut(out, {first.fd(), second.fd()}));
  if (family < 0 || family > AF_MAX) return Fail(EAFNOSUPPORT);
  net::SocketPair pair = TRY(
      net::MakeSocketPair(NetOf(task), task, family, type & kTypeMask, protocol, FileFlags(type)));
  const auto cloexec = (type & SOCK_CLOEXEC) != 0 ? vfs::CloseOnExec::kYes : vfs::CloseOnExec::kNo;
  std::move(first).Commit(std::move(pair.first), cloexec);
  std::move(second).Commit(std::move(pair.second), cloexec);
  return {};
}

Result<void> Bind(Task& task, Fd fd, UserPtr<const uint8_t> address, int32_t size) {
  const SocketFile s = TRY(SocketOf(task, fd));
  const net::Address name = TRY(CopyInAddress(task, address, size));
  return s.socket.Bind(task, name);
}

Result<void> Connect(Task& task, Fd fd, UserPtr<const uint8_t> address, int32_t size) {
  const SocketFile s = TRY(SocketOf(task, fd));
  const net::Address name = TRY(CopyInAddress(task, address, size));
  return s.socket.Connect(task, name);
}

Result<void> Listen(Task& task, Fd fd, int32_t backlog) {
  const SocketFile s = TRY(SocketOf(task, fd));
  return s.socket.Listen(task, backlog);
}

Result<Fd> Accept4(Task& task, Fd fd, UserPtr<uint8_t> address, UserPtr<uint32_t> size,
                   int32_t flags) {
  if ((flags & ~kTypeFlags) != 0) return Fail(EINVAL);
  const SocketFile s = TRY(SocketOf(task, fd));
  vfs::FdReservation slot = TRY(task.files->Reserve(task.Limit(RLIMIT_NOFILE)));
  Ref<net::Socket> accepted = TRY(s.socket.Accept(task, FileFlags(flags)));
  if (!address.is_null()) {
    auto name = accepted->PeerName();
    if (!name) return Fail(ECONNABORTED);
    TRY(CopyOutAddress(task, *name, address, size));
  }
  const auto cloexec = (flags & SOCK_CLOEXEC) != 0 ? vfs::CloseOnExec::kYes : vfs::CloseOnExec::kNo;
  return Fd{std::move(slot).Commit(std::move(accepted), cloexec)};
}

Result<Fd> Accept(Task& task, Fd fd, UserPtr<uint8_t> address, UserPtr<uint32_t> size) {
  return Accept4(task, fd, address, size, 0);
}

Result<void> Getsockname(Task& task, Fd fd, UserPtr<uint8_t> address, UserPtr<uint32_t> size) {
  const SocketFile s = TRY(SocketOf(task, fd));
  const net::Address name = TRY(s.socket.LocalName());
  return CopyOutAddress(task, name, address, size);
}

Result<void> Getpeername(Task& task, Fd fd, UserPtr<uint8_t> address, UserPtr<uint32_t> size) {
  const SocketFile s = TRY(SocketOf(task, fd));
  const net::Address name = TRY(s.socket.PeerName());
  return CopyOutAddress(task, name, address, size);
}

Result<int64_t> Sendto(Task& task, Fd fd, UserPtr<void> data, uint64_t size, uint32_t flags,
                       UserPtr<const uint8_t> address, int32_t address_size) {
  mm::IoSequence io = TRY(mm::IoSequence::FromBuffer(*task.mm, data.addr(), size));
  const SocketFile s = TRY(SocketOf(task, fd));
  net::SendRequest request{.data = io, .flags = static_cast<int>(flags)};
  if (!address.is_null()) request.address = TRY(CopyInAddress(task, address, address_size));
  const size_t n = TRY(s.socket.Send(task, request));
  return static_cast<int64_t>(n);
}

Result<int64_t> Recvfrom(Task& task, Fd fd, UserPtr<void> data, uint64_t size, uint32_t flags,
                         UserPtr<uint8_t> address, UserPtr<uint32_t> address_size) {
  mm::IoSequence io = TRY(mm::IoSequence::FromBuffer(*task.mm, data.addr(), size));
  const SocketFile s = TRY(SocketOf(task, fd));
  const net::Received received = TRY(s.socket.Receive(task, io, static_cast<int>(flags)));
  if (!address.is_null()) TRY(CopyOutAddress(task, received.address, address, address_size));
  return static_cast<int64_t>(received.size);
}

Result<net::Control> CopyInControl(Task& task, const AbiMsghdr& message) {
  if (message.control_size == 0) return net::Control{};
  if (message.control_size > net::kMaxControl) return Fail(ENOBUFS);
  std::string bytes(message.control_size, '\0');
  const auto room = std::as_writable_bytes(std::span(bytes));
  if (task.mm->CopyIn(UserAddr{message.control}, room).fault != 0) return Fail(EFAULT);
  return net::ParseControl(task, *task.files, bytes);
}

Result<int64_t> SendOne(Task& task, net::Socket& socket, const AbiMsghdr& message, uint32_t flags) {
  mm::IoSequence io = TRY(
      mm::IoSequence::FromIovec(*task.mm, UserPtr<const iovec>(message.iov), message.iov_count));
  net::SendRequest request{.data = io, .flags = static_cast<int>(flags)};
  if (message.name != 0 && message.name_size != 0) {
    request.address = TRY(CopyInAddress(task, UserPtr<const uint8_t>(message.name),
                                        static_cast<int32_t>(message.name_size)));
  }
  request.control = TRY(CopyInControl(task, message));
  const size_t n = TRY(socket.Send(task, request));
  return static_cast<int64_t>(n);
}

Result<int64_t> ReceiveOne(Task& task, net::Socket& socket, UserPtr<AbiMsghdr> address,
                           uint32_t flags) {
  AbiMsghdr message = TRY(task.mm->CopyIn(address));
  mm::IoSequence io = TRY(
      mm::IoSequence::FromIovec(*task.mm, UserPtr<const iovec>(message.iov), message.iov_count));
  net::Received received = TRY(socket.Receive(task, io, static_cast<int>(flags)));
  if (message.name != 0) {
    if (static_cast<int32_t>(message.name_size) < 0) return Fail(EINVAL);
    const size_t n = std::min<size_t>(received.address.size, message.name_size);
    const auto name = std::as_bytes(std::span(received.address.view().substr(0, n)));
    if (task.mm->CopyOut(UserAddr{message.name}, name).fault != 0) return Fail(EFAULT);
  }
  // Without a buffer there is room for nothing, whatever its size is said to be.
  const uint64_t room = message.control == 0 ? 0 : message.control_size;
  net::ControlReply control(task, std::move(received.control), socket.passes_credentials(),
                            *task.files, room, static_cast<int>(flags));
  const auto reply = std::as_bytes(std::span(control.bytes()));
  if (task.mm->CopyOut(UserAddr{message.control}, reply).fault != 0) return Fail(EFAULT);
  std::move(control).Commit();
  message.name_size = received.address.size;
  message.control_size = control.bytes().size();
  message.flags = received.flags | control.flags();
  const UserAddr base = address.addr();
  TRY(task.mm->CopyOut(UserPtr<uint32_t>(base + offsetof(AbiMsghdr, name_size)),
                       message.name_size));
  TRY(task.mm->CopyOut(UserPtr<uint64_t>(base + offsetof(AbiMsghdr, control_size)),
                       message.control_size));
  TRY(task.mm->CopyOut(UserPtr<int32_t>(base + offsetof(AbiMsghdr, flags)), message.flags));
  return static_cast<int64_t>(received.size);
}

Result<int64_t> Sendmsg(Task& task, Fd fd, UserPtr<const AbiMsghdr> address, uint32_t flags) {
  const SocketFile s = TRY(SocketOf(task, fd));
  const AbiMsghdr message = TRY(task.mm->CopyIn(address));
  return SendOne(task, s.socket, message, flags);
}

Result<int64_t> Recvmsg(Task& task, Fd fd, UserPtr<AbiMsghdr> address, uint32_t flags) {
  const SocketFile s = TRY(SocketOf(task, fd));
  return ReceiveOne(task, s.socket, address, flags);
}

Result<int32_t> Sendmmsg(Task& task, Fd fd, UserPtr<AbiMmsghdr> list, uint32_t count,
                         uint32_t flags) {
  const SocketFile s = TRY(SocketOf(task, fd));
  count = std::min<uint32_t>(count, kMaxIov);
  for (uint32_t i = 0; i < count; ++i) {
    const auto message = task.mm->CopyIn(UserPtr<const AbiMsghdr>(list.At(i).addr()));
    auto sent = message ? SendOne(task, s.socket, *message, flags)
                        : Result<int64_t>(std::unexpected(message.error()));
    if (sent) {
      const UserAddr length = list.At(i).addr() + offsetof(AbiMmsghdr, length);
      auto copied = task.mm->CopyOut(UserPtr<uint32_t>(length), static_cast<uint32_t>(*sent));
      if (!copied) sent = std::unexpected(copied.error());
    }
    if (!sent)
      return i != 0 ? Result<int32_t>(static_cast<int32_t>(i)) : std::unexpected(sent.error());
  }
  return static_cast<int32_t>(count);
}

Result<int32_t> Recvmmsg(Task& task, Fd fd, UserPtr<AbiMmsghdr> list, uint32_t count,
                         uint32_t flags, UserPtr<timespec> timeout) {
  sched::Deadline deadline;
  if (!timeout.is_null()) {
    const timespec t = TRY(task.mm->CopyIn(timeout));
    const uint64_t ns = TRY(ToNs(t));
    deadline = After(task, ns);
  }
  const SocketFile s = TRY(SocketOf(task, fd));
  count = std::min<uint32_t>(count, kMaxIov);
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t once = i != 0 && (flags & MSG_WAITFORONE) != 0 ? MSG_DONTWAIT : 0;
    auto got = ReceiveOne(task, s.socket, UserPtr<AbiMsghdr>(list.At(i).addr()),
                          (flags & ~uint32_t{MSG_WAITFORONE}) | once);
    if (got) {
      const UserAddr length = list.At(i).addr() + offsetof(AbiMmsghdr, length);
      auto copied = task.mm->CopyOut(UserPtr<uint32_t>(length), static_cast<uint32_t>(*got));
      if (!copied) got = std::unexpected(copied.error());
    }
    if (!got)
      return i != 0 ? Result<int32_t>(static_cast<int32_t>(i)) : std::unexpected(got.error());
    // As recvmmsg(2) admits, the timeout is looked at after each message only.
    if (deadline && task.kernel.scheduler.clock().MonotonicNs() >= *deadline)
      return static_cast<int32_t>(i + 1);
  }
  return static_cast<int32_t>(count);
}

Result<void> Shutdown(Task& task, Fd fd, int32_t how) {
  const SocketFile s = TRY(SocketOf(task, fd));
  if (how < SHUT_RD || how > SHUT_RDWR) return Fail(EINVAL);
  return s.socket.Shutdown(how);
}

Result<void> Setsockopt(Task& task, Fd fd, int32_t level, int32_t name,
                        UserPtr<const uint8_t> value, int32_t size) {
  if (size < 0) return Fail(EINVAL);
  const SocketFile s = TRY(SocketOf(task, fd));
  if (static_cast<size_t>(size) > kPageSize) return Fail(EINVAL);
  std::string bytes(static_cast<size_t>(size), '\0');
  if (task.mm->CopyIn(value.addr(), std::as_writable_bytes(std::span(bytes))).fault != 0)
    return Fail(EFAULT);
  return s.socket.SetOption(task, level, name, bytes);
}

Result<void> Getsockopt(Task& task, Fd fd, int32_t level, int32_t name, UserPtr<uint8_t> value,
                        UserPtr<int32_t> size) {
  const SocketFile s = TRY(SocketOf(task, fd));
  const int32_t room = TRY(task.mm->CopyIn(size));
  if (room < 0) return Fail(EINVAL);
  net::OptionReply reply(static_cast<size_t>(room));
  const Result<void> answered = s.socket.GetOption(task, level, name, reply);
  if (!answered && reply.size() == static_cast<size_t>(room)) return answered;
  if (task.mm->CopyOut(value.addr(), std::as_bytes(std::span(reply.bytes()))).fault != 0)
    return Fail(EFAULT);
  TRY(task.mm->CopyOut(size, static_cast<int32_t>(reply.size())));
  return answered;
}

constexpr Row kRows[] = {
    Partial<Socket>(SYSCALL(socket), "AF_UNIX only; other families answer EAFNOSUPPORT"),
    Full<Connect>(SYSCALL(connect)),
    Full<Accept>(SYSCALL(accept)),
    Full<Sendto>(SYSCALL(sendto)),
    Full<Recvfrom>(SYSCALL(recvfrom)),
    Full<Sendmsg>(SYSCALL(sendmsg)),
    Full<Recvmsg>(SYSCALL(recvmsg)),
    Full<Shutdown>(SYSCALL(shutdown)),
    Full<Bind>(SYSCALL(bind)),
    Full<Listen>(SYSCALL(listen)),
    Full<Getsockname>(SYSCALL(getsockname)),
    Full<Getpeername>(SYSCALL(getpeername)),
    Full<Socketpair>(SYSCALL(socketpair)),
    Full<Setsockopt>(SYSCALL(setsockopt)),
    Full<Getsockopt>(SYSCALL(getsockopt)),
    Full<Accept4>(SYSCALL(accept4)),
    Full<Recvmmsg>(SYSCALL(recvmmsg)),
    Full<Sendmmsg>(SYSCALL(sendmmsg)),
};

}  // namespace

constinit const std::span<const Row> kSocketRows = kRows;

}  // namespace skep::syscalls
