#include "sentry/syscalls/strace.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <cstring>

#include "base/host_call.h"
#include "sentry/syscalls/strace_args.h"

namespace skep::syscalls {
namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000, kNsPerUs = 1000;

// "[    7]   0.001234 ": the thread, and the seconds since the sandbox started.
std::string Start(Task& task) {
  const uint64_t ns = task.kernel.scheduler.clock().MonotonicNs() - task.kernel.boot_monotonic_ns();
  return fmt::format("[{:>5}] {:>3}.{:06} ", task.tid.load(), ns / kNsPerSecond,
                     ns % kNsPerSecond / kNsPerUs);
}

void WriteCall(const TracedCall& traced, const Syscall& call, uint64_t number, std::string& line) {
  line += call.name != nullptr ? std::string(call.name) : fmt::format("syscall_{}", number);
  line += '(';
  const ArgumentWriters* writers = WritersOf(number);
  for (size_t i = 0; i < call.arity; ++i) {
    if (i != 0) line += ", ";
    if (writers != nullptr && (*writers)[i] != nullptr) {
      (*writers)[i](traced, i, line);
    } else if (call.formats != nullptr && call.formats[i] != nullptr) {
      call.formats[i](traced.task, traced.args[i], line);
    } else {
      format::Hex(traced.task, traced.args[i], line);
    }
  }
  line += ')';
}

const char* RestartName(int code) {
  switch (code) {
    case kRestartSys:
      return "ERESTARTSYS";
    case kRestartNoIntr:
      return "ERESTARTNOINTR";
    case kRestartNoHand:
      return "ERESTARTNOHAND";
    case kRestartBlock:
      return "ERESTART_RESTARTBLOCK";
    default:
      return nullptr;
  }
}

// Calls that do not return, or replace the memory that their arguments are in.
bool TellsAtStart(uint64_t number) {
  return number == SYS_execve || number == SYS_execveat || number == SYS_exit ||
         number == SYS_exit_group;
}

std::string ResultText(uint64_t number, const Result<uint64_t>& result) {
  if (!result) {
    const int code = result.error().code();
    const char* name = RestartName(code);
    if (name == nullptr) name = strerrorname_np(code);
    return fmt::format(" = -1 {}", name != nullptr ? name : "?");
  }
  const bool is_address = *result > 0xffff'ffff || number == SYS_brk;
  return is_address ? fmt::format(" = {:#x}", *result) : fmt::format(" = {}", *result);
}

}  // namespace

void Strace::Write(std::string line) {
  line += '\n';
  const int fd = arena::HostTable::Get().Get(fd_);
  if (fd >= 0) (void)host::WriteAll(fd, std::as_bytes(std::span(line)));
}

void Strace::Started(Task& init, const std::string& path, const std::vector<std::string>& argv) {
  std::string line = Start(init) + "execve(";
  trace::Quote(path, false, line);
  line += ", [";
  for (const std::string& word : argv) {
    if (&word != &argv.front()) line += ", ";
    trace::Quote(word, false, line);
  }
  Write(line + "], ...)");
}

void Strace::Enter(Task& task, uint64_t number, const RawArgs& args) {
  if (!TellsAtStart(number)) return;
  std::string line = Start(task);
  WriteCall({task, args, std::nullopt}, kSyscalls[number], number, line);
  Write(std::move(line));
}

void Strace::Leave(Task& task, uint64_t number, const RawArgs& args,
                   const Result<uint64_t>& result) {
  if (!result && result.error().code() == kKilled) return;
  const Syscall& call = kSyscalls[number];
  std::string line = Start(task);
  if (TellsAtStart(number)) {
    line += fmt::format("<... {} resumed>)", call.name);
  } else {
    std::optional<int64_t> value;
    if (result) value = static_cast<int64_t>(*result);
    WriteCall({task, args, value}, call, number, line);
  }
  Write(line + ResultText(number, result));
}

void Strace::Signal(Task& task, const siginfo_t& info) {
  std::string line = Start(task) + "--- ";
  format::Signal(task, static_cast<uint64_t>(info.si_signo), line);
  line += fmt::format(" {{si_code={}}} ---", info.si_code);
  Write(std::move(line));
}

void Strace::Exited(Task& task) {
  int status = 0;
  {
    kernel::TasksLock lock(task.kernel);
    status = task.group->exit_status;
  }
  std::string line = Start(task);
  if ((status & 0x7f) == 0) {
    line += fmt::format("+++ exited with {} +++", status >> 8);
  } else {
    line += "+++ killed by ";
    format::Signal(task, static_cast<uint64_t>(status & 0x7f), line);
    line += " +++";
  }
  Write(std::move(line));
}

}  // namespace skep::syscalls
