// A small assembler of seccomp's BPF: instructions that jump forward to labels.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace skep::platform::notify {

class Bpf {
 public:
  enum class Label : uint32_t {};

  Label NewLabel() {
    labels_.push_back(kUnplaced);
    return Label{static_cast<uint32_t>(labels_.size() - 1)};
  }
  void Place(Label label) { labels_[static_cast<uint32_t>(label)] = code_.size(); }

  void LoadNumber() { Load(offsetof(seccomp_data, nr)); }
  void LoadArch() { Load(offsetof(seccomp_data, arch)); }
  void LoadIpLow() { Load(offsetof(seccomp_data, instruction_pointer)); }
  void LoadIpHigh() { Load(offsetof(seccomp_data, instruction_pointer) + 4); }
  void LoadArgLow(size_t arg) { Load(offsetof(seccomp_data, args) + 8 * arg); }
  void LoadArgHigh(size_t arg) { Load(offsetof(seccomp_data, args) + 8 * arg + 4); }

  // On the loaded word: jumps if it is so, else goes on.
  void IfEqual(uint64_t value, Label to) { Jump(BPF_JEQ, value, to, kNext); }
  void UnlessEqual(uint64_t value, Label to) { Jump(BPF_JEQ, value, kNext, to); }
  void IfAtLeast(uint64_t value, Label to) { Jump(BPF_JGE, value, to, kNext); }
  // Goes on if argument `arg` is `value`, as 64 bits.
  void UnlessArg(size_t arg, uint64_t value, Label to) {
    LoadArgHigh(arg);
    UnlessEqual(value >> 32, to);
    LoadArgLow(arg);
    UnlessEqual(value & 0xffff'ffff, to);
  }
  void Return(uint32_t action) { code_.push_back(BPF_STMT(BPF_RET | BPF_K, action)); }

  // All labels that are used have been placed, each within reach (255 instructions).
  std::vector<sock_filter> Take();

 private:
  static constexpr Label kNext{~0u};
  static constexpr size_t kUnplaced = ~size_t{0};
  struct Fix {
    size_t at;
    Label if_so, if_not;
  };

  void Load(size_t offset) {
    code_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)));
  }
  void Jump(int test, uint64_t value, Label if_so, Label if_not) {
    fixes_.push_back({code_.size(), if_so, if_not});
    code_.push_back(BPF_JUMP(static_cast<uint16_t>(BPF_JMP | test | BPF_K),
                             static_cast<uint32_t>(value), 0, 0));
  }
  uint8_t Distance(size_t from, Label to) const;

  std::vector<sock_filter> code_;
  std::vector<size_t> labels_;
  std::vector<Fix> fixes_;
};

// What the host would answer to a call: the program run on it. For tests.
uint32_t RunFilter(const std::vector<sock_filter>& program, const seccomp_data& call);

}  // namespace skep::platform::notify
