// For unit tests of AF_UNIX sockets: a network namespace and a caller.
#pragma once

#include <string>
#include <string_view>

#include "sentry/net/unix_socket.h"
#include "sentry/vfs/test_caller.h"

namespace skep::net {

inline Address Abstract(std::string_view name) {
  Address address(std::string_view("\1\0\0", 3));  // AF_UNIX
  address.Append(name);
  return address;
}

struct UnixTest : ::testing::Test {
  vfs::AnonFs fs{20};
  Ref<NetNamespace> space = MakeRef<NetNamespace>(fs);
  vfs::TestCaller caller;
  UnixTest() { fs.IncRef(); }

  Ref<Socket> New(int type, uint32_t flags = O_NONBLOCK) {
    return MakeUnixSocket(*space, caller, type, 0, flags).value();
  }
  SocketPair Pair(int type, uint32_t flags = O_NONBLOCK) {
    return MakeUnixPair(*space, caller, type, 0, flags).value();
  }
  Result<size_t> Send(Socket& socket, std::string_view text, int flags = 0, Address to = {},
                      Control control = {}) {
    mm::IoSequence data = mm::IoSequence::FromKernel(std::as_bytes(std::span(text)));
    SendRequest request{data, std::move(to), std::move(control), flags};
    return socket.Send(caller, request);
  }
  Result<Received> Receive(Socket& socket, std::string& text, int flags = 0) {
    mm::IoSequence to = mm::IoSequence::FromKernel(std::as_writable_bytes(std::span(text)));
    return socket.Receive(caller, to, flags);
  }
};

}  // namespace skep::net
