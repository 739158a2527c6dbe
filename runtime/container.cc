#include "runtime/container.h"

#include <sys/socket.h>
#include <vector>

#include "base/host_call.h"

namespace skep::runtime {

HostResult<std::optional<boot::ErrorReply>> StartContainer(SandboxClient& client,
                                                           SandboxPlan plan) {
  plan.outlives_caller = true;
  host::SocketPair pair;
  if (Result<host::SocketPair> made = host::MakeSocketPair(SOCK_SEQPACKET)) {
    pair = std::move(*made);
  } else {
    return HostFail("cannot make a socket pair", made.error().code());
  }
  boot::StartContainerRequest request = {plan.config, plan.config};
  DescribeIds(plan, request.container, request.process);
  std::vector<int> fds = {pair.a.get()};
  for (size_t i = 0; i < plan.stdio.size(); ++i) {
    request.process.stdio_fds[i] = plan.stdio[i];
    if (plan.stdio[i] >= 0) fds.push_back(plan.stdio[i]);
  }
  Gofer gofer = TRY(StartGofer(plan, std::move(pair.b)));
  TRY(JudgeGofer(gofer));
  // If the request is lost, its socket is closed, and the gofer ends.
  Result<uint64_t> sent = client.Send(request, fds);
  if (!sent) return HostFail("cannot ask the sandbox", sent.error().code());
  pair.a.Reset();
  for (;;) {
    Result<boot::Packet<boot::Reply>> packet = client.Receive();
    if (!packet) return HostFail("the sandbox has ended", packet.error().code());
    if (packet->id != *sent) continue;
    if (auto* error = std::get_if<boot::ErrorReply>(&packet->message)) return std::move(*error);
    gofer.child.LetGo();
    return std::optional<boot::ErrorReply>();
  }
}

}  // namespace skep::runtime
