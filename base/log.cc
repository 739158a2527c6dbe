#include "base/log.h"

#include <unistd.h>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "base/last_words.h"

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

// gmtime_r and strftime would read /etc/localtime the first time, which a jail answers with a kill.
tm CivilTime(time_t seconds) {
  const int64_t second = ((seconds % 86400) + 86400) % 86400;
  // Days since 0000-03-01, so that a leap day ends a year of the count; eras are 400 years.
  const int64_t days = (seconds - second) / 86400 + 719468;
  const int64_t era = (days >= 0 ? days : days - 146096) / 146097;
  const int64_t of_era = days - era * 146097;
  const int64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  const int64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const int64_t month = (5 * of_year + 2) / 153;  // March is 0
  tm utc{};
  utc.tm_year = static_cast<int>(year_of_era + era * 400 + (month >= 10 ? 1 : 0) - 1900);
  utc.tm_mon = static_cast<int>(month < 10 ? month + 2 : month - 10);
  utc.tm_mday = static_cast<int>(of_year - (153 * month + 2) / 5 + 1);
  utc.tm_hour = static_cast<int>(second / 3600);
  utc.tm_min = static_cast<int>(second / 60 % 60);
  utc.tm_sec = static_cast<int>(second % 60);
  return utc;
}

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
  const tm utc = CivilTime(now.tv_sec);
  char line[3072];
  char when[80];
  snprintf(when, sizeof when, "%04d-%02d-%02dT%02d:%02d:%02d", utc.tm_year + 1900, utc.tm_mon + 1,
           utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
  int head = snprintf(
      line, sizeof line,
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
  NoteLogLine({line, n});
  const int fd = state.fd;
  (void)!write(fd >= 0 ? fd : 2, line, n);
}

void WriteEmergency(const char* text, size_t size) {
  const int fd = state.fd;
  if (fd >= 0 && fd != 2) (void)!write(fd, text, size);
  (void)!write(2, text, size);
}

}  // namespace skep
