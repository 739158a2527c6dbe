// Console: a terminal whose other end is the host's terminal, which the CLI has put into raw mode,
// or a pty master that the CLI holds (OCI --console-socket).
//
// Two fibers carry the bytes. The sandbox's last output is flushed by Drain(), before its end.
#pragma once

#include <atomic>
#include <functional>

#include "sentry/anon/host_file.h"
#include "sentry/anon/terminal.h"
#include "sentry/arena/host_table.h"
#include "sentry/sched/scheduler.h"

namespace skep::anon {

class Console final : public RefCounted<Console> {
 public:
  // Owns both descriptors (they may be the same number twice). `output` is written by helper
  // threads: a host terminal that its user has stopped does not stop a worker.
  static Result<Ref<Console>> Start(sched::Scheduler& scheduler, Ref<Terminal> terminal,
                                    arena::HostFd input, arena::HostFd output);
  ~Console();

  Terminal& terminal() { return *terminal_; }
  void SetInput(Input input);
  // Called on a fiber when a guest reads while the input is held. Before the first read.
  void OnWantedInput(std::function<void()> wanted) { wanted_ = std::move(wanted); }
  // Sleeps until all output has been written, or the deadline.
  void Drain(sched::Deadline deadline);
  // The fibers end; no byte is carried any more.
  void Stop();

 private:
  Console(Ref<Terminal> terminal, arena::HostFd input, arena::HostFd output)
      : terminal_(std::move(terminal)), input_(input), output_(output) {}
  void CarryInput(sched::Scheduler& scheduler);
  void CarryOutput();
  bool WriteHost(std::vector<std::byte> bytes);

  const Ref<Terminal> terminal_;
  const arena::HostFd input_, output_;
  sched::WaitQueue input_ready_;
  sched::WaitQueue progress_;
  std::function<void()> wanted_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> input_held_{false};
  std::atomic<bool> writing_{false};
};

}  // namespace skep::anon
