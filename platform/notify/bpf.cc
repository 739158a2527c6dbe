#include "platform/notify/bpf.h"

#include <cstring>

#include "base/check.h"

namespace skep::platform::notify {

uint8_t Bpf::Distance(size_t from, Label to) const {
  if (to == kNext) return 0;
  const size_t target = labels_[static_cast<uint32_t>(to)];
  CHECK(target != kUnplaced && target > from && target - from - 1 <= 255);
  return static_cast<uint8_t>(target - from - 1);
}

std::vector<sock_filter> Bpf::Take() {
  for (const Fix& fix : fixes_) {
    code_[fix.at].jt = Distance(fix.at, fix.if_so);
    code_[fix.at].jf = Distance(fix.at, fix.if_not);
  }
  return std::move(code_);
}

uint32_t RunFilter(const std::vector<sock_filter>& program, const seccomp_data& call) {
  uint32_t word = 0;
  for (size_t at = 0;; ++at) {
    CHECK(at < program.size());
    const sock_filter& i = program[at];
    switch (i.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        CHECK(i.k % 4 == 0 && i.k + sizeof(word) <= sizeof(call));
        memcpy(&word, reinterpret_cast<const char*>(&call) + i.k, sizeof(word));
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        at += word == i.k ? i.jt : i.jf;
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        at += word >= i.k ? i.jt : i.jf;
        break;
      case BPF_RET | BPF_K:
        return i.k;
      default:
        CHECK(false && "an instruction that Bpf does not make");
    }
  }
}

}  // namespace skep::platform::notify
