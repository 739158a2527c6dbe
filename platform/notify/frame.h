// The signal frame through which a guest's registers come and go. It lies on an alternate stack in
// memory that the guest can write: it is copied once, and the copy is judged.
#pragma once

#include <sys/types.h>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "platform/platform.h"

namespace skep::platform::notify {

// struct rt_sigframe of x86-64 without its first word, the return address.
struct Frame {
  uint64_t uc_flags, uc_link;
  uint64_t stack_base;
  uint32_t stack_flags, stack_pad;
  uint64_t stack_size;
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip,
      rflags;
  uint16_t cs, gs, fs, ss;
  uint64_t error_code, vector, old_mask, fault_address, fpstate;
  uint64_t reserved[8];
  uint64_t mask;
  siginfo_t info;
};
static_assert(sizeof(Frame) == 432 && offsetof(Frame, info) == 304);

Registers RegistersOf(const Frame& frame, uint64_t fs_base, uint64_t gs_base);
void SetRegisters(Frame& frame, const Registers& registers);
FaultStop FaultOf(const Frame& frame);
SyscallStop SyscallOf(const Frame& frame);

// What the host writes into frames besides: the XSAVE area in the standard format.
class XsaveLayout {
 public:
  // From a frame that no guest has touched.
  static HostResult<XsaveLayout> FromFrame(std::span<const std::byte> fpstate);

  size_t size() const { return size_; }
  // With what follows the area in a frame.
  size_t size_in_frame() const { return size_ + sizeof(uint32_t); }
  // The state of a new thread, in the form of NT_X86_XSTATE.
  std::span<const std::byte> initial() const { return initial_; }
  // From a frame to that form: what the CPU did not save is initial. `area` is a copy of the
  // frame's.
  void Normalise(std::span<std::byte> area) const;
  // Whether rt_sigreturn will take it.
  bool IsValid(std::span<const std::byte> area) const;
  // Writes `area` as rt_sigreturn wants it.
  void WriteTo(std::span<std::byte> fpstate, std::span<const std::byte> area) const;

 private:
  struct Component {
    uint32_t offset = 0, size = 0;
  };
  size_t size_ = 0;
  uint64_t features_ = 0;
  uint32_t mxcsr_mask_ = 0;
  std::vector<std::byte> software_;  // what the host keeps in the legacy area's free bytes
  std::vector<std::byte> initial_;
  Component components_[64];
};

}  // namespace skep::platform::notify
