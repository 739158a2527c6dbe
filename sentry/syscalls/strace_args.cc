#include "sentry/syscalls/strace_args.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <algorithm>
#include <cstring>
#include <iterator>

#include "sentry/syscalls/adapter.h"

namespace skep::syscalls {
namespace trace {
namespace {

// SAFETY of the view: bytes outlive it.
std::string_view View(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

void Quote(std::string_view text, bool more, std::string& out) {
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
      case '\\':
        out += '\\';
        out += c;
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\0':
        out += "\\0";
        break;
      default:
        if (byte < 0x20 || byte >= 0x7f) {
          fmt::format_to(std::back_inserter(out), "\\x{:02x}", byte);
        } else {
          out += c;
        }
    }
  }
  out += '"';
  if (more) out += "...";
}

void Bytes(Task& task, uint64_t address, uint64_t size, std::string& out) {
  if (address == 0) {
    out += "NULL";
    return;
  }
  std::array<std::byte, kStraceBytes> bytes;
  const auto shown = std::span(bytes).first(std::min<uint64_t>(size, bytes.size()));
  const size_t got = task.mm->CopyIn(UserAddr{address}, shown).bytes;
  if (got == 0 && size != 0) {
    format::Hex(task, address, out);
    return;
  }
  Quote(View(shown.first(got)), size > got, out);
}

void Flags(uint64_t value, std::span<const Name> names, std::string& out) {
  if (value == 0) {
    out += '0';
    return;
  }
  bool first = true;
  const auto add = [&](std::string_view text) {
    if (!first) out += '|';
    first = false;
    out += text;
  };
  for (const Name& name : names) {
    if (name.value == 0 || (value & name.value) != name.value) continue;
    add(name.name);
    value &= ~name.value;
  }
  if (value != 0) add(fmt::format("{:#x}", value));
}

void OneOf(uint64_t value, std::span<const Name> names, std::string& out) {
  for (const Name& name : names) {
    if (name.value == value) {
      out += name.name;
      return;
    }
  }
  fmt::format_to(std::back_inserter(out), "{:#x}", value);
}

}  // namespace trace

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
  const auto signo = static_cast<int32_t>(raw);
  if (const char* name = sigabbrev_np(signo); name != nullptr) {
    out += "SIG";
    out += name;
  } else if (signo >= 32 && signo <= 64) {
    fmt::format_to(std::back_inserter(out), "SIGRT_{}", signo - 32);
  } else {
    fmt::format_to(std::back_inserter(out), "{}", signo);
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
  std::array<std::byte, kStraceText> bytes;
  const size_t got = task.mm->CopyIn(UserAddr{raw}, bytes).bytes;
  if (got == 0) {
    Hex(task, raw, out);
    return;
  }
  const auto end = std::find(bytes.begin(), bytes.begin() + got, std::byte{0});
  const auto size = static_cast<size_t>(end - bytes.begin());
  trace::Quote({reinterpret_cast<const char*>(bytes.data()), size}, size == got, out);
}

void Flags(Task&, uint64_t raw, std::string& out) {
  static constexpr trace::Name kNames[] = {{O_TMPFILE, "O_TMPFILE"},   {O_CREAT, "O_CREAT"},
                                           {O_EXCL, "O_EXCL"},         {O_NOCTTY, "O_NOCTTY"},
                                           {O_TRUNC, "O_TRUNC"},       {O_APPEND, "O_APPEND"},
                                           {O_NONBLOCK, "O_NONBLOCK"}, {O_SYNC, "O_SYNC"},
                                           {O_DSYNC, "O_DSYNC"},       {O_ASYNC, "O_ASYNC"},
                                           {O_DIRECT, "O_DIRECT"},     {0100000, "O_LARGEFILE"},
                                           {O_NOATIME, "O_NOATIME"},   {O_DIRECTORY, "O_DIRECTORY"},
                                           {O_NOFOLLOW, "O_NOFOLLOW"}, {O_CLOEXEC, "O_CLOEXEC"},
                                           {O_PATH, "O_PATH"}};
  const auto flags = static_cast<uint32_t>(raw);
  constexpr const char* kModes[] = {"O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"};
  out += kModes[flags & O_ACCMODE];
  const uint32_t rest = flags & ~uint32_t{O_ACCMODE};
  if (rest == 0) return;
  out += '|';
  trace::Flags(rest, kNames, out);
}

}  // namespace format
}  // namespace skep::syscalls
