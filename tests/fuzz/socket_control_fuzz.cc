// Control messages of sendmsg(2), and what recvmsg makes of what they carried.
#include <sys/socket.h>

#include "sentry/net/control.h"
#include "tests/fuzz/kernel.h"

namespace skep::fuzz {
namespace {

std::vector<std::string> Seeds() {
  std::string rights(CMSG_SPACE(8), '\0');
  auto* header = reinterpret_cast<cmsghdr*>(rights.data());
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(8);
  std::string credentials(CMSG_SPACE(sizeof(ucred)), '\0');
  header = reinterpret_cast<cmsghdr*>(credentials.data());
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_CREDENTIALS;
  header->cmsg_len = CMSG_LEN(sizeof(ucred));
  return {rights, credentials, rights + credentials, credentials + rights + rights};
}

int TestOneInput(const uint8_t* data, size_t size) {
  syscalls::TestKernel& kernel = fuzz::TheKernel();
  static const bool has_files = [&] {
    syscalls::TestKernel::Guest init = kernel.init();
    return init.Run(SYS_pipe2, {init.Allocate(8), 0}) == 0;  // descriptors 0 and 1
  }();
  (void)has_files;
  kernel.OnFiber([&] {
    kernel::Task& task = kernel.init().task();
    vfs::FdTable& table = *task.files.Mine();
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    auto control = net::ParseControl(task, table, bytes);
    if (!control) return;
    const size_t room = size > 0 ? data[0] : 0;
    net::ControlReply reply(task, std::move(*control), size % 2 == 0, table, room,
                            size % 3 == 0 ? MSG_CMSG_CLOEXEC : 0);
    if (reply.bytes().size() > room) fuzz::Fail("more than there is room for");
  });
  return 0;
}

const Target kTarget("socket_control", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
