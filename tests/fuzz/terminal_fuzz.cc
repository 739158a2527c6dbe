// The line discipline: what is typed, what the guest writes, reads and sets, in any modes.
#include <algorithm>
#include <memory>

#include "sentry/anon/terminal.h"
#include "tests/fuzz/fuzz.h"

namespace skep::fuzz {
namespace {

using anon::Terminal;
using anon::TerminalModes;

constexpr size_t kMostInput = 4095;               // Linux: N_TTY_BUF_SIZE - 1
constexpr size_t kMostOutput = size_t{96} << 10;  // what is written, and echoes on top of it

class NoProcesses final : public anon::JobControl {
 public:
  void SignalGroup(const vfs::ProcessId&, int) override {}
  void SignalLeader(const vfs::ProcessId&, int) override {}
};

enum class Step : uint8_t {
  kFeed,
  kWrite,
  kRead,
  kTakeOutput,
  kModes,
  kLocalFlags,
  kUnread,
  kUntake,
  kFlush,
  kStop,
  kPacketMode,
  kWindow,
  kSendChar,
  kOpen,
  kClose,
  kHangUp,
  kEnd
};

std::string Seed(std::initializer_list<std::pair<Step, std::string_view>> steps) {
  std::string seed;
  for (const auto& [step, text] : steps) {
    seed += static_cast<char>(step);
    seed += static_cast<char>(text.size());
    seed += text;
  }
  return seed;
}

std::vector<std::string> Seeds() {
  TerminalModes raw;
  raw.iflag = raw.oflag = raw.lflag = 0;
  const std::string raw_bytes = Bytes(raw);
  return {
      Seed({{Step::kFeed, "hello\n"}, {Step::kRead, "x"}, {Step::kTakeOutput, "xxxx"}}),
      Seed({{Step::kFeed, "ab\x7f\x17\x15\x16\x03\x12\x03\x1a\x1c\x04"}, {Step::kRead, ""}}),
      Seed({{Step::kFeed, "\ta\t\x7f\x7f\x13"}, {Step::kWrite, "text\r\n\t"}, {Step::kStop, ""}}),
      Seed({{Step::kModes, raw_bytes}, {Step::kFeed, "raw\x03"}, {Step::kRead, "xx"}}),
      Seed({{Step::kFeed, "line\nnext"},
            {Step::kLocalFlags, "\2"},
            {Step::kRead, "xx"},
            {Step::kUnread, ""},
            {Step::kLocalFlags, "\0"}}),
      Seed({{Step::kPacketMode, "\1"},
            {Step::kFlush, "\3"},
            {Step::kTakeOutput, "x"},
            {Step::kUntake, ""}}),
      Seed({{Step::kOpen, ""}, {Step::kHangUp, ""}, {Step::kClose, ""}, {Step::kRead, ""}})};
}

class Session {
 public:
  explicit Session(Terminal& terminal) : terminal_(terminal) {}

  void Do(Step step, std::string_view text) {
    const std::span<const std::byte> bytes = std::as_bytes(std::span(text));
    Input in(reinterpret_cast<const uint8_t*>(text.data()), text.size());
    switch (step) {
      case Step::kFeed:
        if (terminal_.Feed(bytes) > bytes.size()) Fail("more was taken than was typed");
        break;
      case Step::kWrite:
        if (const auto done = terminal_.Write(bytes); done && *done > bytes.size()) {
          Fail("more was taken than was written");
        }
        break;
      case Step::kRead:
        read_ = terminal_.Read(text.size() + 1, text.size() % 2 == 0)
                    .value_or(std::vector<std::byte>());
        if (read_.size() > text.size() + 1) Fail("more was read than asked for");
        break;
      case Step::kTakeOutput:
        taken_ = terminal_.TakeOutput(text.size() + 1).value_or(std::vector<std::byte>());
        if (taken_.size() > text.size() + 1) Fail("more output than asked for");
        if (terminal_.packet_mode() && !taken_.empty()) taken_.erase(taken_.begin());
        break;
      case Step::kModes:
        terminal_.SetModes(in.Take<TerminalModes>(), text.size() % 2 != 0);
        break;
      case Step::kLocalFlags: {
        TerminalModes modes = terminal_.modes();
        modes.lflag ^= in.Take<uint16_t>();
        terminal_.SetModes(modes, false);
        break;
      }
      case Step::kUnread:
        terminal_.Unread(std::exchange(read_, {}));
        break;
      case Step::kUntake:
        terminal_.UntakeOutput(std::exchange(taken_, {}));
        break;
      case Step::kFlush:
        terminal_.Flush(text.size() % 2 != 0, text.size() % 4 >= 2);
        break;
      case Step::kStop:
        terminal_.Stop(text.empty());
        break;
      case Step::kPacketMode:
        terminal_.SetPacketMode(!text.empty());
        break;
      case Step::kWindow:
        terminal_.SetWindow(in.Take<winsize>());
        break;
      case Step::kSendChar:
        terminal_.SendChar(in.Take<uint8_t>());
        break;
      case Step::kOpen:
        ends_.push_back(terminal_.OpenEnd());
        break;
      case Step::kClose:
        if (ends_.empty()) break;
        terminal_.CloseEnd(ends_.back());
        ends_.pop_back();
        break;
      case Step::kHangUp:
        terminal_.HangUp();
        break;
      case Step::kEnd:
        break;
    }
    Check();
  }

  // In raw mode, what is typed comes out as it was.
  void CheckRaw() {
    TerminalModes raw;
    raw.iflag = raw.oflag = raw.lflag = 0;
    terminal_.SetModes(raw, true);
    terminal_.Stop(false);
    terminal_.Flush(true, true);
    std::array<std::byte, 256> typed;
    for (size_t i = 0; i < typed.size(); ++i) typed[i] = static_cast<std::byte>(i);
    if (terminal_.Feed(typed) != typed.size()) Fail("raw input that is not taken");
    const auto read = terminal_.Read(typed.size(), true);
    if (!read || !std::ranges::equal(*read, typed)) Fail("raw input that comes out otherwise");
    if (terminal_.InputSize() != 0) Fail("input that was read is there");
  }

 private:
  void Check() {
    if (terminal_.InputSize() > kMostInput + read_.size()) Fail("input without a bound");
    if (terminal_.OutputSize() > kMostOutput) Fail("output without a bound");
    (void)terminal_.Poll();
    (void)terminal_.PollOther();
    (void)terminal_.read_timing();
  }

  Terminal& terminal_;
  std::vector<std::byte> read_, taken_;
  std::vector<uint64_t> ends_;
};

int TestOneInput(const uint8_t* data, size_t size) {
  fuzz::NoProcesses processes;
  anon::Terminals terminals(processes);
  const Ref<anon::Terminal> terminal = MakeRef<anon::Terminal>(terminals);
  fuzz::Session session(*terminal);
  for (fuzz::Input in(data, size); !in.empty();) {
    const auto step =
        static_cast<fuzz::Step>(in.Take<uint8_t>() % static_cast<int>(fuzz::Step::kEnd));
    session.Do(step, in.Text(in.Take<uint8_t>()));
  }
  session.CheckRaw();
  return 0;
}

const Target kTarget("terminal", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
