// Terminal: a tty with the N_TTY line discipline (Linux: drivers/tty/n_tty.c). Guests have one end
// (TtyFile, tty_file.h); the other end is a pty master (pty.h) or the host's terminal (console.h).
//
// Bytes that the guest's end writes go through OPOST into output_. Bytes from the other end are
// edited into input_ and echoed into output_. mutex_ guards all of it; signals that characters
// raise are collected and sent once it is released. Guest memory is never touched here.
#pragma once

#include <sys/ioctl.h>
#include <termios.h>
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <span>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "sentry/anon/job_control.h"
#include "sentry/sched/wait_queue.h"

namespace skep::anon {

// struct termios2 of the kernel; struct termios is its first 36 bytes.
struct TerminalModes {
  uint32_t iflag = ICRNL | IXON;
  uint32_t oflag = OPOST | ONLCR;
  uint32_t cflag = B38400 | CS8 | CREAD;
  uint32_t lflag = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN;
  uint8_t line = 0;
  std::array<uint8_t, 19> cc = {0x03, 0x1c, 0x7f, 0x15, 0x04, 0,    1, 0, 0x11, 0x13,
                                0x1a, 0,    0x12, 0x0f, 0x17, 0x16, 0, 0, 0};
  uint32_t ispeed = 38400, ospeed = 38400;
};
static_assert(sizeof(TerminalModes) == 44);
inline constexpr size_t kOldModesSize = 36;  // without the speeds

class Terminal final : public RefCounted<Terminal> {
 public:
  explicit Terminal(Terminals& terminals) : terminals_(terminals) {}
  ~Terminal();

  Terminals& terminals() { return terminals_; }
  // N of /dev/pts/N; -1: it has no name (yet).
  int number() const { return number_.load(std::memory_order_relaxed); }
  void SetNumber(int number) { number_.store(number, std::memory_order_relaxed); }

  // -- the guest's end --
  // What a read(2) of at most `size` bytes gets. `all`: whatever is there, even less than VMIN asks
  // for. EAGAIN.
  Result<std::vector<std::byte>> Read(size_t size, bool all);
  // Puts back the end of what Read gave, when the guest's buffer could not be written.
  void Unread(std::span<const std::byte> bytes);
  // How many bytes were taken. EAGAIN: there is no room, or output is stopped.
  Result<size_t> Write(std::span<const std::byte> bytes);
  sched::EventMask Poll();
  sched::WaitQueue& waiters() { return waiters_; }
  // An open file of the guest's end; the number is for CloseEnd.
  uint64_t OpenEnd();
  void CloseEnd(uint64_t generation);

  // -- the other end --
  // Characters arrive. How many were taken; the rest finds no room.
  size_t Feed(std::span<const std::byte> bytes);
  // Up to size bytes of output. EAGAIN; EIO: every guest end has been closed. In packet mode the
  // first byte says what the rest is.
  Result<std::vector<std::byte>> TakeOutput(size_t size);
  void UntakeOutput(std::span<const std::byte> bytes);  // without the packet byte
  sched::EventMask PollOther();
  sched::WaitQueue& other_waiters() { return other_waiters_; }
  size_t OutputSize();
  void SetPacketMode(bool on);
  bool packet_mode();
  bool locked() const { return locked_.load(); }  // TIOCSPTLCK
  void SetLocked(bool on) { locked_.store(on); }

  // -- both --
  TerminalModes modes();
  void SetModes(const TerminalModes& modes, bool flush_input);
  winsize window();
  void SetWindow(const winsize& size);  // SIGWINCH if it changed
  void Flush(bool input, bool output);
  void Stop(bool on);  // TCXONC, ^S and ^Q
  size_t InputSize();  // FIONREAD
  // An input character on behalf of TCXONC's TCIOFF and TCION.
  void SendChar(uint8_t c);
  // The user of the other end is away: who reads is noted, and the other end is woken.
  void SetAway(bool on) { away_.store(on); }
  void NoteReader();
  bool TakeWantedInput() { return wanted_input_.exchange(false); }
  // Nothing that is open now works any more: reads end, writes answer EIO. The session's leader
  // gets SIGHUP and SIGCONT.
  void HangUp();
  // Grows with every HangUp; an open file remembers the value of its time.
  uint64_t generation() const { return generation_.load(); }
  // VTIME in ns, VMIN; 0 if canonical.
  struct ReadTiming {
    uint64_t time_ns = 0;
    size_t least = 1;
    bool canonical = true;
  };
  ReadTiming read_timing();

 private:
  friend class Terminals;
  // A character of input. `end`: it ends a line; `end_of_file`: by VEOF, which is not itself read.
  struct Cell {
    uint8_t c;
    bool end = false;
    bool end_of_file = false;
  };

  bool In(uint32_t flag) const REQUIRES(mutex_) { return (modes_.iflag & flag) != 0; }
  bool Out(uint32_t flag) const REQUIRES(mutex_) { return (modes_.oflag & flag) != 0; }
  bool Local(uint32_t flag) const REQUIRES(mutex_) { return (modes_.lflag & flag) != 0; }
  bool Is(uint8_t c, int index) const REQUIRES(mutex_);

  void FeedChar(uint8_t c) REQUIRES(mutex_);
  bool FeedFlowControl(uint8_t c) REQUIRES(mutex_);
  bool FeedSignal(uint8_t c) REQUIRES(mutex_);
  bool FeedCanonical(uint8_t c) REQUIRES(mutex_);
  void Raise(uint8_t c, int signo) REQUIRES(mutex_);
  void Store(Cell cell) REQUIRES(mutex_);
  size_t InputRoom() const REQUIRES(mutex_);
  void Erase(uint8_t c) REQUIRES(mutex_);
  bool EraseOne(uint8_t c, bool word, bool& seen_word) REQUIRES(mutex_);
  void EraseTab() REQUIRES(mutex_);
  void Reprint() REQUIRES(mutex_);
  void Echo(uint8_t c) REQUIRES(mutex_);
  void EchoRaw(std::string_view text) REQUIRES(mutex_);
  // False: no room for all that c becomes.
  bool Process(uint8_t c) REQUIRES(mutex_);
  void Put(uint8_t c) REQUIRES(mutex_) { output_.push_back(static_cast<std::byte>(c)); }
  size_t OutputRoom() const REQUIRES(mutex_);
  void StopLocked(bool on) REQUIRES(mutex_);
  void FlushInput() REQUIRES(mutex_);
  void FlushOutput() REQUIRES(mutex_);
  void ApplyCanonicalChange() REQUIRES(mutex_);
  bool Readable(bool poll) const REQUIRES(mutex_);
  void TellPacket(uint8_t status) REQUIRES(mutex_);
  // After a change, unlocked: wakes who waits for what there is now, and sends collected signals.
  void Settle() EXCLUDES(mutex_);

  Terminals& terminals_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<bool> locked_{false};
  std::atomic<int> number_{-1};
  std::atomic<bool> away_{false}, wanted_input_{false};
  sched::WaitQueue waiters_, other_waiters_;

  Mutex mutex_{LockRank::kFile};
  TerminalModes modes_ GUARDED_BY(mutex_);
  winsize window_ GUARDED_BY(mutex_){};
  std::deque<Cell> input_ GUARDED_BY(mutex_);
  size_t finished_ GUARDED_BY(mutex_) = 0;  // cells of input_ that belong to complete lines
  std::deque<std::byte> output_ GUARDED_BY(mutex_);
  size_t column_ GUARDED_BY(mutex_) = 0;       // of the cursor
  size_t line_column_ GUARDED_BY(mutex_) = 0;  // where the line being edited starts
  bool literal_next_ GUARDED_BY(mutex_) = false;
  bool stopped_ GUARDED_BY(mutex_) = false;
  bool packet_mode_ GUARDED_BY(mutex_) = false;
  uint8_t packet_status_ GUARDED_BY(mutex_) = 0;  // TIOCPKT_* not told yet
  int open_ends_ GUARDED_BY(mutex_) = 0;
  bool was_opened_ GUARDED_BY(mutex_) = false;
  std::vector<int> signals_ GUARDED_BY(mutex_);  // to the foreground group, once unlocked

  // Guarded by the registry's mutex.
  Ref<vfs::ProcessId> session_;     // null: nobody's
  Ref<vfs::ProcessId> foreground_;  // a process group, or none
};

}  // namespace skep::anon
