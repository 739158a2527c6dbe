// What arrives from the other end: signals, flow control, line editing and echo (Linux: the
// n_tty_receive_* functions).
#include <cctype>
#include <csignal>

#include "sentry/anon/terminal.h"

namespace skep::anon {
namespace {

constexpr size_t kInputMax = 4095;             // Linux: N_TTY_BUF_SIZE - 1
constexpr size_t kEchoMax = size_t{80} << 10;  // output beyond which echoes are dropped
constexpr size_t kTab = 8;

bool IsControl(uint8_t c) { return c < 0x20 || c == 0x7f; }

}  // namespace

bool Terminal::Is(uint8_t c, int index) const {
  const uint8_t special = modes_.cc[static_cast<size_t>(index)];
  return special != 0 && special == c;  // 0: _POSIX_VDISABLE
}

size_t Terminal::InputRoom() const {
  if (input_.size() < kInputMax) return kInputMax - input_.size();
  return Local(ICANON) && finished_ == 0 ? 1 : 0;  // a line must be able to end
}

size_t Terminal::Feed(std::span<const std::byte> bytes) {
  size_t taken = 0;
  {
    MutexLock lock(mutex_);
    while (taken < bytes.size() && InputRoom() != 0) {
      FeedChar(static_cast<uint8_t>(bytes[taken++]));
    }
  }
  Settle();
  return taken;
}

void Terminal::FeedChar(uint8_t c) {
  if (In(ISTRIP)) c &= 0x7f;
  if (In(IUCLC) && Local(IEXTEN)) c = static_cast<uint8_t>(tolower(c));
  if (literal_next_) {
    literal_next_ = false;
  } else {
    if (In(IXON) && FeedFlowControl(c)) return;
    if (Local(ISIG) && FeedSignal(c)) return;
    if (stopped_ && In(IXON) && In(IXANY)) StopLocked(false);
    if (c == '\r') {
      if (In(IGNCR)) return;
      if (In(ICRNL)) c = '\n';
    } else if (c == '\n' && In(INLCR)) {
      c = '\r';
    }
    if (Local(ICANON) && FeedCanonical(c)) return;
  }
  if (Local(ECHO)) {
    if (finished_ == input_.size()) line_column_ = column_;
    if (c == '\n') {
      EchoRaw("\n");
    } else {
      Echo(c);
    }
  }
  if (In(PARMRK) && c == 0xff) Store({c});
  Store({c});
}

bool Terminal::FeedFlowControl(uint8_t c) {
  const bool start = Is(c, VSTART);
  const bool stop = Is(c, VSTOP);
  if (!start && !stop) return false;
  StopLocked(start && stop ? !stopped_ : stop);
  return true;
}

bool Terminal::FeedSignal(uint8_t c) {
  if (Is(c, VINTR)) {
    Raise(c, SIGINT);
  } else if (Is(c, VQUIT)) {
    Raise(c, SIGQUIT);
  } else if (Is(c, VSUSP)) {
    Raise(c, SIGTSTP);
  } else {
    return false;
  }
  return true;
}

void Terminal::Raise(uint8_t c, int signo) {
  if (!Local(NOFLSH)) {
    FlushInput();
    FlushOutput();
  }
  signals_.push_back(signo);
  if (In(IXON)) StopLocked(false);
  if (Local(ECHO)) Echo(c);
}

// True: c was dealt with.
bool Terminal::FeedCanonical(uint8_t c) {
  const bool extended = Local(IEXTEN);
  if (Is(c, VERASE) || Is(c, VKILL) || (extended && Is(c, VWERASE))) {
    Erase(c);
    return true;
  }
  if (extended && Is(c, VLNEXT)) {
    literal_next_ = true;
    if (Local(ECHO) && Local(ECHOCTL)) EchoRaw("^\b");
    return true;
  }
  if (extended && Local(ECHO) && Is(c, VREPRINT)) {
    Echo(c);
    EchoRaw("\n");
    Reprint();
    return true;
  }
  Cell cell{c, true};
  if (c == '\n') {
    if (Local(ECHO) || Local(ECHONL)) EchoRaw("\n");
  } else if (Is(c, VEOF)) {
    cell = {0, true, true};
  } else if (Is(c, VEOL) || (extended && Is(c, VEOL2))) {
    if (Local(ECHO)) {
      if (finished_ == input_.size()) line_column_ = column_;
      Echo(c);
    }
    if (In(PARMRK) && c == 0xff) Store({c});
  } else {
    return false;
  }
  Store(cell);
  finished_ = input_.size();
  return true;
}

// When the buffer is full of a line without an end, what comes last replaces its last character.
void Terminal::Store(Cell cell) {
  if (input_.size() < kInputMax) {
    input_.push_back(cell);
  } else if (Local(ICANON) && finished_ == 0) {
    input_.back() = cell;
  }
}

// Linux: eraser.
void Terminal::Erase(uint8_t c) {
  if (input_.size() == finished_) return;
  const bool kill = Is(c, VKILL);
  const bool word = !kill && !Is(c, VERASE);
  if (kill && !(Local(ECHO) && Local(ECHOK) && Local(ECHOKE) && Local(ECHOE))) {
    input_.resize(finished_);
    if (!Local(ECHO)) return;
    Echo(c);
    if (Local(ECHOK)) EchoRaw("\n");
    return;
  }
  bool seen_word = false;
  while (input_.size() > finished_ && EraseOne(c, word, seen_word)) {
    if (!kill && !word) return;
  }
}

// Takes the last character away. False: a word ends before it.
bool Terminal::EraseOne(uint8_t c, bool word, bool& seen_word) {
  // With IUTF8 all bytes of a character go together.
  size_t start = input_.size() - 1;
  if (In(IUTF8)) {
    while (start > finished_ && (input_[start].c & 0xc0) == 0x80) --start;
    if ((input_[start].c & 0xc0) == 0x80) return false;
  }
  const uint8_t erased = input_[start].c;
  if (word) {
    if (isalnum(erased) != 0 || erased == '_') {
      seen_word = true;
    } else if (seen_word) {
      return false;
    }
  }
  input_.resize(start);
  if (!Local(ECHO)) return true;
  if (Is(c, VERASE) && !Local(ECHOE)) {
    Echo(c);
  } else if (erased == '\t') {
    EraseTab();
  } else {
    if (IsControl(erased) && Local(ECHOCTL)) EchoRaw("\b \b");
    if (!IsControl(erased) || Local(ECHOCTL)) EchoRaw("\b \b");
  }
  return true;
}

// The cursor goes back to where the tab, which is no longer in input_, started.
void Terminal::EraseTab() {
  size_t width = 0;
  size_t i = input_.size();
  bool after_tab = false;
  while (i > finished_ && !after_tab) {
    const uint8_t c = input_[--i].c;
    if (c == '\t') {
      after_tab = true;
    } else if (IsControl(c)) {
      if (Local(ECHOCTL)) width += 2;
    } else if (!In(IUTF8) || (c & 0xc0) != 0x80) {
      ++width;
    }
  }
  if (!after_tab) width += line_column_;
  for (size_t back = kTab - width % kTab; back != 0; --back) {
    EchoRaw("\b");
  }
}

void Terminal::Reprint() {
  for (size_t i = finished_; i < input_.size(); ++i) Echo(input_[i].c);
}

// Linux: echo_char: a control character is shown as ^X.
void Terminal::Echo(uint8_t c) {
  if (output_.size() > kEchoMax) return;
  if (Local(ECHOCTL) && IsControl(c) && c != '\t') {
    Put('^');
    Put(c ^ 0x40);
    column_ += 2;
  } else if (!Out(OPOST)) {
    Put(c);
  } else {
    (void)Process(c);
  }
}

void Terminal::EchoRaw(std::string_view text) {
  if (output_.size() > kEchoMax) return;
  for (const char c : text) {
    if (!Out(OPOST) || !Process(static_cast<uint8_t>(c))) Put(static_cast<uint8_t>(c));
  }
}

}  // namespace skep::anon
