// The log of a skep process: one line per record, text or JSON, to one descriptor.
//
// Log() may be called from any thread and from fibers; it allocates nothing from the arena and
// writes each record with one write(2). Guest-chosen text is escaped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace skep {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };
enum class LogFormat : uint8_t { kText, kJson };

// Where records go from now on. fd is borrowed and must stay open; -1 drops everything below
// kWarning and sends the rest to stderr.
void ConfigureLog(int fd, LogFormat format, LogLevel least, std::string_view role);
bool LogEnabled(LogLevel level);
void LogText(LogLevel level, std::string_view text);
// For CHECK and signal handlers: raw bytes to the log and to stderr.
void WriteEmergency(const char* text, size_t size);

}  // namespace skep

// SKEP_LOG(kInfo, "mapped {} pages", n); needs <fmt/format.h> in the .cc that uses it.
#define SKEP_LOG(level, ...)                                                \
  do {                                                                      \
    if (::skep::LogEnabled(::skep::LogLevel::level))                        \
      ::skep::LogText(::skep::LogLevel::level, ::fmt::format(__VA_ARGS__)); \
  } while (0)
