#include "runsc-cli/report.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <array>
#include <ctime>
#include <span>

#include "base/host_call.h"

namespace skep::cli {
namespace {

std::string Now() {
  const uint64_t now_ns = host::RealtimeNs();
  const time_t seconds = static_cast<time_t>(now_ns / 1'000'000'000);
  tm utc{};
  gmtime_r(&seconds, &utc);
  std::array<char, 40> text{};
  strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text.data();
}

void WriteText(int fd, const std::string& text) {
  (void)host::WriteAll(fd, std::as_bytes(std::span(text)));
}

// The length of the UTF-8 sequence that starts here; 0: none does.
size_t Utf8Length(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  size_t length = 0;
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) length = 2;
  if (lead >= 0xe0 && lead < 0xf0) length = 3;
  if (lead >= 0xf0 && lead < 0xf5) length = 4;
  if (length == 0 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

HostResult<Reporter> Reporter::Make(const std::string& log_file, LogFormat format) {
  Reporter reporter;
  reporter.format_ = format;
  if (log_file.empty()) return reporter;
  Result<OwnedFd> file =
      host::Open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (!file) return HostFail("cannot write the log file " + log_file, file.error().code());
  reporter.file_ = std::move(*file);
  return reporter;
}

void Reporter::Report(const char* level, const char* prefix, const std::string& text) const {
  WriteText(2, fmt::format("skep: {}{}\n", prefix, Printable(text)));
  WriteToFile(level, text);
}

int Reporter::Print(const std::string& text) const {
  const Result<void> written = host::WriteAll(1, std::as_bytes(std::span(text)));
  if (written) return 0;
  Error(HostFail("cannot write to standard output", written.error().code()).error().message);
  return 1;
}

void Reporter::Note(const std::string& text) const {
  if (file_) {
    WriteToFile("info", text);
  } else if (LogEnabled(LogLevel::kDebug)) {
    WriteText(2, fmt::format("skep: {}\n", Printable(text)));
  }
}

void Reporter::WriteToFile(const char* level, const std::string& text) const {
  if (!file_) return;
  if (format_ == LogFormat::kJson) {
    WriteText(file_.get(), fmt::format("{{\"level\":\"{}\",\"msg\":{},\"time\":\"{}\"}}\n", level,
                                       JsonQuote(text), Now()));
  } else {
    WriteText(file_.get(),
              fmt::format("time=\"{}\" level={} msg={}\n", Now(), level, JsonQuote(text)));
  }
}

std::string JsonQuote(const std::string& text) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const size_t length = Utf8Length(std::string_view(text).substr(i));
    const char c = text[i];
    if (length == 0) {
      out += "\xef\xbf\xbd";
    } else if (length > 1) {
      out.append(text, i, length);
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
    i += length == 0 ? 1 : length;
  }
  return out + '"';
}

std::string Printable(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace skep::cli
