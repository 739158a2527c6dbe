#include "sentry/anon/terminal.h"

#include <sys/epoll.h>
#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstring>

namespace skep::anon {
namespace {

constexpr size_t kOutputMax = size_t{64} << 10;  // Linux: what a pty's flip buffers take
constexpr size_t kLargestExpansion = 8;          // a tab, under XTABS
constexpr size_t kTab = 8;
constexpr uint64_t kDecisecond = 100'000'000;
constexpr sched::EventMask kReadable = EPOLLIN | EPOLLRDNORM;
constexpr sched::EventMask kWritable = EPOLLOUT | EPOLLWRNORM;

}  // namespace

Terminal::~Terminal() { terminals_.Forget(*this); }

void Terminal::Settle() {
  std::vector<int> signals;
  sched::EventMask here = 0, other = 0;
  {
    MutexLock lock(mutex_);
    signals.swap(signals_);
    if (Readable(false)) here |= kReadable;
    if (OutputRoom() != 0) here |= kWritable;
    if (!output_.empty() || packet_status_ != 0) other |= kReadable | EPOLLPRI;
    if (InputRoom() != 0) other |= kWritable;
  }
  if (here != 0) waiters_.Wake(here);
  if (other != 0) other_waiters_.Wake(other);
  if (signals.empty()) return;
  const Ref<vfs::ProcessId> foreground = terminals_.ForegroundOf(*this);
  if (!foreground) return;
  for (const int signo : signals) terminals_.processes().SignalGroup(*foreground, signo);
}

// -- output --------------------------------------------------------------------------------------

size_t Terminal::OutputRoom() const {
  if (stopped_ || output_.size() >= kOutputMax) return 0;
  return kOutputMax - output_.size();
}

// Linux: do_output_char.
bool Terminal::Process(uint8_t c) {
  switch (c) {
    case '\n':
      if (Out(ONLRET)) column_ = 0;
      if (Out(ONLCR)) {
        Put('\r');
        column_ = 0;
      }
      line_column_ = column_;
      break;
    case '\r':
      if (Out(ONOCR) && column_ == 0) return true;
      if (Out(OCRNL)) {
        c = '\n';
        if (Out(ONLRET)) column_ = line_column_ = 0;
      } else {
        column_ = line_column_ = 0;
      }
      break;
    case '\t': {
      const size_t spaces = kTab - column_ % kTab;
      column_ += spaces;
      if ((modes_.oflag & TABDLY) == XTABS) {
        for (size_t i = 0; i < spaces; ++i) Put(' ');
        return true;
      }
      break;
    }
    case '\b':
      if (column_ > 0) --column_;
      break;
    default:
      if (c < 0x20 || c == 0x7f) break;
      if (Out(OLCUC)) c = static_cast<uint8_t>(toupper(c));
      if (!In(IUTF8) || (c & 0xc0) != 0x80) ++column_;
      break;
  }
  Put(c);
  return true;
}

Result<size_t> Terminal::Write(std::span<const std::byte> bytes) {
  size_t done = 0;
  {
    MutexLock lock(mutex_);
    const bool process = Out(OPOST);
    const size_t margin = process ? kLargestExpansion : 1;
    while (done < bytes.size() && OutputRoom() >= margin) {
      const auto c = static_cast<uint8_t>(bytes[done++]);
      if (process) {
        Process(c);
      } else {
        Put(c);
      }
    }
  }
  if (done == 0) return Fail(EAGAIN);
  Settle();
  return done;
}

Result<std::vector<std::byte>> Terminal::TakeOutput(size_t size) {
  std::vector<std::byte> taken;
  {
    MutexLock lock(mutex_);
    if (packet_mode_ && packet_status_ != 0) {
      taken.push_back(static_cast<std::byte>(packet_status_));
      packet_status_ = 0;
      return taken;
    }
    if (output_.empty()) return Fail(was_opened_ && open_ends_ == 0 ? EIO : EAGAIN);
    if (packet_mode_) taken.push_back(std::byte{TIOCPKT_DATA});
    const size_t count = std::min(size - std::min(size, taken.size()), output_.size());
    const auto end = output_.begin() + static_cast<ptrdiff_t>(count);
    taken.insert(taken.end(), output_.begin(), end);
    output_.erase(output_.begin(), end);
  }
  Settle();
  return taken;
}

void Terminal::UntakeOutput(std::span<const std::byte> bytes) {
  MutexLock lock(mutex_);
  output_.insert(output_.begin(), bytes.begin(), bytes.end());
}

size_t Terminal::OutputSize() {
  MutexLock lock(mutex_);
  return output_.size();
}

// -- reading -------------------------------------------------------------------------------------

// Linux: input_available_p.
bool Terminal::Readable(bool poll) const {
  if (Local(ICANON)) return finished_ != 0;
  const size_t least = poll && modes_.cc[VTIME] == 0 && modes_.cc[VMIN] != 0 ? modes_.cc[VMIN] : 1;
  return input_.size() >= least;
}

void Terminal::NoteReader() {
  if (!away_.load()) return;
  wanted_input_.store(true);
  other_waiters_.Wake(EPOLLOUT);
}

Result<std::vector<std::byte>> Terminal::Read(size_t size, bool all) {
  std::vector<std::byte> taken;
  {
    MutexLock lock(mutex_);
    const bool canonical = Local(ICANON);
    if (canonical && finished_ == 0) return Fail(EAGAIN);
    if (!canonical) {
      const size_t least =
          all ? 1 : std::clamp<size_t>(modes_.cc[VMIN], 1, std::max<size_t>(size, 1));
      if (input_.empty() && modes_.cc[VMIN] == 0 && modes_.cc[VTIME] == 0) return taken;
      if (input_.size() < least) return Fail(EAGAIN);
    }
    while (taken.size() < size && !input_.empty()) {
      const Cell cell = input_.front();
      if (canonical && finished_ == 0) break;
      input_.pop_front();
      if (finished_ != 0) --finished_;
      if (canonical && cell.end_of_file) break;
      taken.push_back(static_cast<std::byte>(cell.c));
      if (canonical && cell.end) break;
      // An end of file right after what fills the buffer belongs to this read.
      if (canonical && taken.size() == size && finished_ != 0 && input_.front().end_of_file) {
        input_.pop_front();
        --finished_;
      }
    }
  }
  Settle();
  return taken;
}

void Terminal::Unread(std::span<const std::byte> bytes) {
  MutexLock lock(mutex_);
  const bool canonical = Local(ICANON);
  for (size_t i = bytes.size(); i != 0; --i) {
    const auto c = static_cast<uint8_t>(bytes[i - 1]);
    input_.push_front({c, canonical && i == bytes.size()});
    if (canonical) ++finished_;
  }
}

Terminal::ReadTiming Terminal::read_timing() {
  MutexLock lock(mutex_);
  if (Local(ICANON)) return {};
  return {.time_ns = modes_.cc[VTIME] * kDecisecond, .least = modes_.cc[VMIN], .canonical = false};
}

size_t Terminal::InputSize() {
  MutexLock lock(mutex_);
  if (!Local(ICANON)) return input_.size();
  size_t count = 0;
  for (size_t i = 0; i < finished_; ++i) count += input_[i].end_of_file ? 0 : 1;
  return count;
}

sched::EventMask Terminal::Poll() {
  MutexLock lock(mutex_);
  sched::EventMask ready = 0;
  if (Readable(true)) ready |= kReadable;
  if (OutputRoom() >= kLargestExpansion) ready |= kWritable;
  return ready;
}

sched::EventMask Terminal::PollOther() {
  MutexLock lock(mutex_);
  sched::EventMask ready = 0;
  if (!output_.empty()) ready |= kReadable;
  if (packet_mode_ && packet_status_ != 0) ready |= kReadable | EPOLLPRI;
  if (InputRoom() != 0) ready |= kWritable;
  if (was_opened_ && open_ends_ == 0) ready |= EPOLLHUP;
  return ready;
}

// -- modes and state -----------------------------------------------------------------------------

TerminalModes Terminal::modes() {
  MutexLock lock(mutex_);
  return modes_;
}

// Linux: n_tty_set_termios: what was typed becomes a line, or lines become characters.
void Terminal::ApplyCanonicalChange() {
  for (Cell& cell : input_) cell.end = cell.end_of_file = false;
  finished_ = 0;
  if (Local(ICANON) && !input_.empty()) {
    input_.back().end = true;
    finished_ = input_.size();
  }
  literal_next_ = false;
}

void Terminal::SetModes(const TerminalModes& modes, bool flush_input) {
  {
    MutexLock lock(mutex_);
    if (flush_input) FlushInput();
    const TerminalModes old = std::exchange(modes_, modes);
    if (((old.lflag ^ modes.lflag) & ICANON) != 0) ApplyCanonicalChange();
    if ((old.iflag & IXON) != 0 && !In(IXON)) StopLocked(false);
    const auto does_flow = [](const TerminalModes& m) {
      return (m.iflag & IXON) != 0 && m.cc[VSTOP] == 0x13 && m.cc[VSTART] == 0x11;
    };
    if (does_flow(old) != does_flow(modes)) {
      TellPacket(does_flow(modes) ? TIOCPKT_DOSTOP : TIOCPKT_NOSTOP);
    }
  }
  Settle();
}

winsize Terminal::window() {
  MutexLock lock(mutex_);
  return window_;
}

void Terminal::SetWindow(const winsize& size) {
  {
    MutexLock lock(mutex_);
    if (memcmp(&window_, &size, sizeof size) == 0) return;
    window_ = size;
    signals_.push_back(SIGWINCH);
  }
  Settle();
}

void Terminal::TellPacket(uint8_t status) {
  if (!packet_mode_) return;
  // A status that contradicts an earlier one replaces it.
  constexpr uint8_t kFlow = TIOCPKT_STOP | TIOCPKT_START;
  constexpr uint8_t kDoes = TIOCPKT_DOSTOP | TIOCPKT_NOSTOP;
  if ((status & kFlow) != 0) packet_status_ &= static_cast<uint8_t>(~kFlow);
  if ((status & kDoes) != 0) packet_status_ &= static_cast<uint8_t>(~kDoes);
  packet_status_ |= status;
}

void Terminal::SetPacketMode(bool on) {
  MutexLock lock(mutex_);
  if (on && !packet_mode_) packet_status_ = 0;
  packet_mode_ = on;
}

bool Terminal::packet_mode() {
  MutexLock lock(mutex_);
  return packet_mode_;
}

void Terminal::FlushInput() {
  input_.clear();
  finished_ = 0;
  literal_next_ = false;
  TellPacket(TIOCPKT_FLUSHREAD);
}

void Terminal::FlushOutput() {
  output_.clear();
  TellPacket(TIOCPKT_FLUSHWRITE);
}

void Terminal::Flush(bool input, bool output) {
  {
    MutexLock lock(mutex_);
    if (input) FlushInput();
    if (output) FlushOutput();
  }
  Settle();
}

void Terminal::StopLocked(bool on) {
  if (stopped_ == on) return;
  stopped_ = on;
  TellPacket(on ? TIOCPKT_STOP : TIOCPKT_START);
}

void Terminal::Stop(bool on) {
  {
    MutexLock lock(mutex_);
    StopLocked(on);
  }
  Settle();
}

void Terminal::SendChar(uint8_t c) {
  {
    MutexLock lock(mutex_);
    if (c != 0) Put(c);
  }
  Settle();
}

uint64_t Terminal::OpenEnd() {
  MutexLock lock(mutex_);
  ++open_ends_;
  was_opened_ = true;
  return generation();
}

void Terminal::CloseEnd(uint64_t opened_in) {
  bool last = false;
  {
    MutexLock lock(mutex_);
    if (opened_in == generation()) last = --open_ends_ == 0;  // else HangUp closed it
  }
  if (last) other_waiters_.Wake(sched::kAllEvents);
}

// Linux: __tty_hangup.
void Terminal::HangUp() {
  const Ref<vfs::ProcessId> session = terminals_.Detach(*this);
  {
    MutexLock lock(mutex_);
    generation_.fetch_add(1);
    open_ends_ = 0;
    FlushInput();
    stopped_ = false;
    modes_ = {};
  }
  waiters_.Wake(sched::kAllEvents);
  other_waiters_.Wake(sched::kAllEvents);
  if (!session) return;
  terminals_.processes().SignalLeader(*session, SIGHUP);
  terminals_.processes().SignalLeader(*session, SIGCONT);
}

}  // namespace skep::anon
