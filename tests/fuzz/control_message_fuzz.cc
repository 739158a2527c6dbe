// Messages on a sandbox's control socket, both ways.
#include <sys/socket.h>
#include <unistd.h>

#include "sentry/boot/control.h"
#include "tests/fuzz/fuzz.h"

namespace skep::fuzz {
namespace {

std::vector<std::string> Seeds() {
  return {Bytes(boot::CliCommand::Kind::kSignal) + std::string("\0\0\0\x0f\0\0\0", 7),
          std::string("\0\0\0\0\0\0\0\0notify", 14), std::string(300, 'x'), ""};
}

int TestOneInput(const uint8_t* data, size_t size) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0) return 0;
  for (const bool as_sentry : {true, false}) {
    if (send(pair[0], data, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
    if (as_sentry) {
      OwnedFd file;
      (void)boot::ReceiveCommand(pair[1], &file);
    } else {
      (void)boot::ReceiveEvent(pair[1]);
    }
  }
  close(pair[0]);
  close(pair[1]);
  return 0;
}

const Target kTarget("control_message", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
