#include "runsc-cli/terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host_call.h"

namespace skep::cli {
namespace {

constexpr int kInput = 0;

}  // namespace

bool HasControllingTerminal() {
  return host::Open("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC).has_value();
}

bool RawTerminal::Usable() { return isatty(0) == 1 && isatty(1) == 1; }

bool RawTerminal::HasErrors() {
  const Result<struct stat> output = host::Stat(1);
  const Result<struct stat> errors = host::Stat(2);
  return isatty(2) == 1 && output && errors && output->st_rdev == errors->st_rdev;
}

bool RawTerminal::Owned() { return tcgetpgrp(kInput) == getpgrp(); }

bool RawTerminal::MayRead() {
  const pid_t foreground = tcgetpgrp(kInput);  // < 0: not a terminal, or not this session's
  return foreground < 0 || foreground == getpgrp();
}

void RawTerminal::EnterRaw() {
  if (saved_ || !Owned()) return;
  termios now{};
  if (tcgetattr(kInput, &now) != 0) return;
  termios raw = now;
  cfmakeraw(&raw);
  if (tcsetattr(kInput, TCSADRAIN, &raw) == 0) saved_ = now;
}

void RawTerminal::Restore() {
  if (!saved_) return;
  (void)tcsetattr(kInput, TCSADRAIN, &*saved_);
  saved_.reset();
}

WindowSize RawTerminal::Size() const {
  winsize size{};
  if (!host::Ioctl(kInput, TIOCGWINSZ, &size)) return {};
  return {size.ws_row, size.ws_col};
}

}  // namespace skep::cli
