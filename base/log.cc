#include "base/log.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <unistd.h>

namespace skep {
namespace {

// Host-side state of the process, not of the guest's kernel: it is set again after a restore.
struct LogState {
  std::atomic<int> fd{-1};
  std::atomic<LogFormat> format{LogFormat::kText};
  std::atomic<LogLevel> least{LogLevel::kWarning};
  char role[16] = "skep";
};
constinit LogState state;

constexpr const char* kNames[] = {"debug", "info", "warning", "error"};

size_t AppendEscaped(char* out, size_t room, std::string_view text, bool json) {
  size_t n = 0;
  for (unsigned char c : text) {
    if (n + 8 > room) break;
    if (c == '"' || c == '\\') {
      if (json) out[n++] = '\\';
      out[n++] = static_cast<char>(c);
    } else if (c < 0x20 || c == 0x7f) {
      n += static_cast<size_t>(snprintf(out + n, room - n, json ? "\\u%04x" : "\\x%02x", c));
    } else {
      out[n++] = static_cast<char>(c);
    }
  }
  return n;
}

}  // namespace

void ConfigureLog(int fd, LogFormat format, LogLevel least, std::string_view role) {
  size_t n = role.copy(state.role, sizeof state.role - 1);
  state.role[n] = 0;
  state.format = format;
  state.least = least;
  state.fd = fd;
}

bool LogEnabled(LogLevel level) { return level >= state.least.load(std::memory_order_relaxed); }

__attribute__((noinline)) void LogText(LogLevel level, std::string_view text) {
  if (!LogEnabled(level)) return;
  const bool json = state.format == LogFormat::kJson;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  char line[3072];
  char when[40];
  strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &utc);
  int head = snprintf(line, sizeof line,
                      json ? "{\"time\":\"%s.%06ldZ\",\"level\":\"%s\",\"role\":\"%s\",\"pid\":%d,\"msg\":\""
                           : "%s.%06ldZ %s %s[%d] ",
                      when, now.tv_nsec / 1000, kNames[static_cast<int>(level)], state.role, getpid());
  size_t n = static_cast<size_t>(head);
  n += AppendEscaped(line + n, sizeof line - n - 4, text, json);
  if (json) {
    line[n++] = '"';
    line[n++] = '}';
  }
  line[n++] = '\n';
  const int fd = state.fd;
  (void)!write(fd >= 0 ? fd : 2, line, n);
}

void WriteEmergency(const char* text, size_t size) {
  const int fd = state.fd;
  if (fd >= 0 && fd != 2) (void)!write(fd, text, size);
  (void)!write(2, text, size);
}

}  // namespace skep
