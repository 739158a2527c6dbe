// What the CLI tells people: to stderr, and to the file of --log in runc's format.
#pragma once

#include <string>

#include "base/log.h"
#include "base/owned_fd.h"
#include "base/result.h"

namespace skep::cli {

class Reporter {
 public:
  // `log_file` empty: stderr only.
  static HostResult<Reporter> Make(const std::string& log_file, LogFormat format);

  void Error(const std::string& text) const { Report("error", "", text); }
  void Warning(const std::string& text) const { Report("warning", "warning: ", text); }
  // Standard output, all of it. The exit status: 0, or 1 after an error.
  int Print(const std::string& text) const;
  // To the log only; to stderr where nobody asked for one but for --debug.
  void Note(const std::string& text) const;

  LogFormat format() const { return format_; }
  int fd() const { return file_.get(); }  // of the --log file; -1: none

 private:
  void Report(const char* level, const char* prefix, const std::string& text) const;
  void WriteToFile(const char* level, const std::string& text) const;

  OwnedFd file_;
  LogFormat format_ = LogFormat::kText;
};

// A JSON string literal with its quotes; bytes that are not UTF-8 become U+FFFD.
std::string JsonQuote(const std::string& text);
// For messages: control characters escaped.
std::string Printable(const std::string& text);

}  // namespace skep::cli
