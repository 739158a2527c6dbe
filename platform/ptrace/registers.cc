#include "platform/ptrace/registers.h"

#include <cstring>

#include "base/check.h"
#include "platform/stub/stub.h"

namespace skep::platform::ptrace {

Registers FromHost(const user_regs_struct& from) {
  return {.r15 = from.r15,
          .r14 = from.r14,
          .r13 = from.r13,
          .r12 = from.r12,
          .rbp = from.rbp,
          .rbx = from.rbx,
          .r11 = from.r11,
          .r10 = from.r10,
          .r9 = from.r9,
          .r8 = from.r8,
          .rax = from.rax,
          .rcx = from.rcx,
          .rdx = from.rdx,
          .rsi = from.rsi,
          .rdi = from.rdi,
          .rip = from.rip,
          .rflags = from.eflags,
          .rsp = from.rsp,
          .fs_base = from.fs_base,
          .gs_base = from.gs_base};
}

user_regs_struct ToHost(const Registers& from, uint64_t code_segment) {
  return {.r15 = from.r15,
          .r14 = from.r14,
          .r13 = from.r13,
          .r12 = from.r12,
          .rbp = from.rbp,
          .rbx = from.rbx,
          .r11 = from.r11,
          .r10 = from.r10,
          .r9 = from.r9,
          .r8 = from.r8,
          .rax = from.rax,
          .rcx = from.rcx,
          .rdx = from.rdx,
          .rsi = from.rsi,
          .rdi = from.rdi,
          .orig_rax = ~0ull,
          .rip = from.rip,
          .cs = code_segment,
          .eflags = from.rflags,
          .rsp = from.rsp,
          .ss = kStackSegment64,
          .fs_base = from.fs_base,
          .gs_base = from.gs_base,
          .ds = 0,
          .es = 0,
          .fs = 0,
          .gs = 0};
}

bool IsSegmentBase(uint64_t value) { return value < kUserEnd; }

void InitXsave(std::span<std::byte> area) {
  CHECK(area.size() >= kXsaveMin);
  memset(area.data(), 0, area.size());
  xsave::Clear(area);
  xsave::WriteAt(area, xsave::kHeaderAt, xsave::kX87 | xsave::kSse);  // the rest is initial
}

}  // namespace skep::platform::ptrace
