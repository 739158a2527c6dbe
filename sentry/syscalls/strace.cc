#include "sentry/syscalls/strace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <cstring>
#include <iterator>

#include "base/host_call.h"

namespace skep::syscalls {
namespace {

constexpr size_t kTextShown = 64;

std::string Call(Task& task, const Syscall& call, uint64_t number, const RawArgs& args) {
  std::string line = fmt::format("[{:>5}] ", task.tid);
  line += call.name != nullptr ? std::string(call.name) : fmt::format("syscall_{}", number);
  line += '(';
  for (size_t i = 0; i < call.arity; ++i) {
    if (i != 0) line += ", ";
    if (call.formats != nullptr && call.formats[i] != nullptr) {
      call.formats[i](task, args[i], line);
    } else {
      format::Hex(task, args[i], line);
    }
  }
  line += ')';
  return line;
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

bool TellsAtStart(const Syscall& call) {
  return call.name != nullptr &&
         (strcmp(call.name, "execve") == 0 || strcmp(call.name, "execveat") == 0 ||
          strcmp(call.name, "exit") == 0 || strcmp(call.name, "exit_group") == 0);
}

}  // namespace

namespace format {

void Decimal(Task&, uint64_t raw, std::string& out) {
  fmt::format_to(std::back_inserter(out), "{}", static_cast<int32_t>(raw));
}
void Decimal64(Task&, uint64_t raw, std::string& out) {
  fmt::format_to(std::back_inserter(out), "{}", static_cast<int64_t>(raw));
}
void Unsigned(Task&, uint64_t raw, std::string& out) {
  fmt::format_to(std::back_inserter(out), "{}", static_cast<uint32_t>(raw));
}
void Hex(Task&, uint64_t raw, std::string& out) {
  if (raw == 0) {
    out += '0';
  } else {
    fmt::format_to(std::back_inserter(out), "{:#x}", raw);
  }
}
void Octal(Task&, uint64_t raw, std::string& out) {
  fmt::format_to(std::back_inserter(out), "{:#o}", static_cast<uint32_t>(raw));
}
void Signal(Task&, uint64_t raw, std::string& out) {
  const char* name = sigabbrev_np(static_cast<int>(raw));
  if (name != nullptr) {
    out += "SIG";
    out += name;
  } else {
    fmt::format_to(std::back_inserter(out), "{}", static_cast<int32_t>(raw));
  }
}
void Descriptor(Task& task, uint64_t raw, std::string& out) {
  if (static_cast<int32_t>(raw) == AT_FDCWD) {
    out += "AT_FDCWD";
  } else {
    Decimal(task, raw, out);
  }
}

void Text(Task& task, uint64_t raw, std::string& out) {
  if (raw == 0) {
    out += "NULL";
    return;
  }
  std::array<std::byte, kTextShown> bytes;
  size_t got = 0;
  // Byte by byte past a page end would be slow: what can be read in one go is enough to show.
  got = task.mm->CopyIn(UserAddr{raw}, bytes).bytes;
  if (got == 0) {
    Hex(task, raw, out);
    return;
  }
  out += '"';
  size_t i = 0;
  for (; i < got && bytes[i] != std::byte{0}; ++i) {
    const auto c = static_cast<unsigned char>(bytes[i]);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20 || c >= 0x7f) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", c);
    } else {
      out += static_cast<char>(c);
    }
  }
  out += '"';
  if (i == got) out += "...";
}

void Flags(Task&, uint64_t raw, std::string& out) {
  struct Name {
    uint32_t bit;
    const char* name;
  };
  static constexpr Name kNames[] = {
      {O_CREAT, "O_CREAT"},         {O_EXCL, "O_EXCL"},         {O_NOCTTY, "O_NOCTTY"},
      {O_TRUNC, "O_TRUNC"},         {O_APPEND, "O_APPEND"},     {O_NONBLOCK, "O_NONBLOCK"},
      {O_DIRECTORY, "O_DIRECTORY"}, {O_NOFOLLOW, "O_NOFOLLOW"}, {O_CLOEXEC, "O_CLOEXEC"},
      {O_PATH, "O_PATH"},           {O_DIRECT, "O_DIRECT"},     {O_NOATIME, "O_NOATIME"}};
  const auto flags = static_cast<uint32_t>(raw);
  constexpr const char* kModes[] = {"O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"};
  out += kModes[flags & O_ACCMODE];
  for (const Name& n : kNames) {
    if ((flags & n.bit) != 0) {
      out += '|';
      out += n.name;
    }
  }
}

}  // namespace format

void Strace::Write(std::string line) {
  line += '\n';
  const int fd = arena::HostTable::Get().Get(fd_);
  if (fd >= 0) (void)host::WriteAll(fd, std::as_bytes(std::span(line)));
}

void Strace::Enter(Task& task, const Syscall& call, uint64_t number, const RawArgs& args) {
  if (TellsAtStart(call)) Write(Call(task, call, number, args));
}

void Strace::Leave(Task& task, const Syscall& call, uint64_t number, const RawArgs& args,
                   const Result<uint64_t>& result) {
  if (!result && result.error().code() == kKilled) return;
  std::string line;
  if (TellsAtStart(call)) {
    line = fmt::format("[{:>5}] <... {} resumed>)", task.tid, call.name);
  } else {
    line = Call(task, call, number, args);
  }
  if (result) {
    const uint64_t value = *result;
    if (value > 0xffffffff) {
      line += fmt::format(" = {:#x}", value);
    } else {
      line += fmt::format(" = {}", value);
    }
  } else {
    const int code = result.error().code();
    const char* name = RestartName(code);
    if (name == nullptr) name = strerrorname_np(code);
    line += fmt::format(" = -1 {}", name != nullptr ? name : "?");
  }
  Write(std::move(line));
}

void Strace::Signal(Task& task, const siginfo_t& info) {
  std::string line = fmt::format("[{:>5}] --- ", task.tid);
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
  Write((status & 0x7f) == 0
            ? fmt::format("[{:>5}] +++ exited with {} +++", task.tid, status >> 8)
            : fmt::format("[{:>5}] +++ killed by signal {} +++", task.tid, status & 0x7f));
}

}  // namespace skep::syscalls
