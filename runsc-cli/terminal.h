// The host's terminal in raw mode while a sandbox uses it.
#pragma once

#include <termios.h>
#include <cstdint>
#include <optional>

namespace skep::cli {

struct WindowSize {
  uint16_t rows = 0, columns = 0;
};

// Whether this session has a terminal, and so perhaps a shell that would continue what is stopped.
bool HasControllingTerminal();

// Restores the terminal when it goes. Signals that could end the process before are blocked by the
// supervisor, so only SIGKILL leaves a raw terminal behind.
class RawTerminal {
 public:
  // Both standard input and output are terminals.
  static bool Usable();
  // ... and standard error is the same one.
  static bool HasErrors();
  // This process group is in the foreground.
  static bool Owned();

  // Standard input is no terminal that another process group has: its own read(2) would not stop
  // this one (Linux: __tty_check_change).
  static bool MayRead();

  RawTerminal() = default;
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  ~RawTerminal() { Restore(); }

  // Nothing happens while another process group owns the terminal.
  void EnterRaw();
  void Restore();
  WindowSize Size() const;

 private:
  std::optional<termios> saved_;
};

}  // namespace skep::cli
