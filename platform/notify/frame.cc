#include "platform/notify/frame.h"

#include <cpuid.h>
#include <linux/audit.h>
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "platform/xsave.h"

namespace skep::platform::notify {
namespace {

using xsave::kDefaultMxcsrMask;
using xsave::kHeaderAt;
using xsave::kHeaderSize;
using xsave::kInitialFcw;
using xsave::kInitialMxcsr;
using xsave::kMagic1;
using xsave::kMagic2;
using xsave::kMinSize;
using xsave::kMxcsrAt;
using xsave::kMxcsrMaskAt;
using xsave::kSoftwareAt;
using xsave::kSoftwareSize;
using xsave::kSse;
using xsave::kX87;
using xsave::ReadAt;
using xsave::SoftwareBytes;
using xsave::WriteAt;

constexpr size_t kSseAt = 160, kSseSize = 256;  // xmm0-15
constexpr size_t kMaxSize = 16 << 10;           // larger than any CPU's today
constexpr uint32_t kX32Bit = 0x4000'0000;

}  // namespace

Registers RegistersOf(const Frame& f, uint64_t fs_base, uint64_t gs_base) {
  return {.r15 = f.r15,
          .r14 = f.r14,
          .r13 = f.r13,
          .r12 = f.r12,
          .rbp = f.rbp,
          .rbx = f.rbx,
          .r11 = f.r11,
          .r10 = f.r10,
          .r9 = f.r9,
          .r8 = f.r8,
          .rax = f.rax,
          .rcx = f.rcx,
          .rdx = f.rdx,
          .rsi = f.rsi,
          .rdi = f.rdi,
          .rip = f.rip,
          .rflags = f.rflags,
          .rsp = f.rsp,
          .fs_base = fs_base,
          .gs_base = gs_base};
}

void SetRegisters(Frame& f, const Registers& r) {
  f.r8 = r.r8, f.r9 = r.r9, f.r10 = r.r10, f.r11 = r.r11, f.r12 = r.r12, f.r13 = r.r13;
  f.r14 = r.r14, f.r15 = r.r15, f.rdi = r.rdi, f.rsi = r.rsi, f.rbp = r.rbp, f.rbx = r.rbx;
  f.rdx = r.rdx, f.rax = r.rax, f.rcx = r.rcx, f.rsp = r.rsp, f.rip = r.rip, f.rflags = r.rflags;
}

FaultStop FaultOf(const Frame& f) {
  return {.signo = f.info.si_signo,
          .code = f.info.si_code,
          .address = f.info.si_code == SI_KERNEL ? 0 : reinterpret_cast<uint64_t>(f.info.si_addr),
          .vector = static_cast<uint32_t>(f.vector),
          .error_code = static_cast<uint32_t>(f.error_code)};
}

SyscallStop SyscallOf(const Frame& f) {
  const auto number = static_cast<uint32_t>(f.info.si_syscall);
  return {.number = static_cast<uint64_t>(int64_t{f.info.si_syscall}),
          .args = {f.rdi, f.rsi, f.rdx, f.r10, f.r8, f.r9},
          .ip = f.rip,
          .compat = f.info.si_arch != AUDIT_ARCH_X86_64 ||
                    (f.info.si_syscall >= 0 && (number & kX32Bit) != 0)};
}

HostResult<XsaveLayout> XsaveLayout::FromFrame(std::span<const std::byte> fpstate) {
  if (fpstate.size() < kMinSize) return HostFail("signal frames have no room");
  const auto software = ReadAt<SoftwareBytes>(fpstate, kSoftwareAt);
  if (software.magic1 != kMagic1 || software.xstate_size < kMinSize ||
      software.xstate_size > kMaxSize || software.xstate_size + sizeof(kMagic2) > fpstate.size()) {
    return HostFail("the host's signal frames have no extended state");
  }
  XsaveLayout layout;
  layout.size_ = software.xstate_size;
  layout.features_ = software.features;
  layout.mxcsr_mask_ = ReadAt<uint32_t>(fpstate, kMxcsrMaskAt);
  if (layout.mxcsr_mask_ == 0) layout.mxcsr_mask_ = kDefaultMxcsrMask;
  const auto bytes = fpstate.subspan(kSoftwareAt, kSoftwareSize);
  layout.software_.assign(bytes.begin(), bytes.end());
  for (uint32_t i = 2; i < 63; ++i) {
    if ((layout.features_ >> i & 1) == 0) continue;
    uint32_t size = 0, offset = 0, flags = 0, unused = 0;
    __cpuid_count(0xd, i, size, offset, flags, unused);
    if (offset >= layout.size_ || size > layout.size_ - offset) continue;
    layout.components_[i] = {offset, size};
  }
  layout.initial_.resize(layout.size_);
  WriteAt(layout.initial_, 0, kInitialFcw);
  WriteAt(layout.initial_, kMxcsrAt, kInitialMxcsr);
  WriteAt(layout.initial_, kMxcsrMaskAt, layout.mxcsr_mask_);
  WriteAt(layout.initial_, kSoftwareAt, layout.features_);
  WriteAt(layout.initial_, kHeaderAt, kX87 | kSse);
  return layout;
}

void XsaveLayout::Normalise(std::span<std::byte> area) const {
  CHECK(area.size() == size_);
  const uint64_t saved = ReadAt<uint64_t>(area, kHeaderAt) & features_;
  if ((saved & kX87) == 0) {
    std::fill_n(area.begin(), kMxcsrAt, std::byte{0});
    std::fill(area.begin() + 32, area.begin() + kSseAt, std::byte{0});
    WriteAt(area, 0, kInitialFcw);
  }
  if ((saved & kSse) == 0) std::fill_n(area.begin() + kSseAt, kSseSize, std::byte{0});
  for (uint32_t i = 2; i < 63; ++i) {
    if ((features_ >> i & 1) != 0 && (saved >> i & 1) == 0) {
      std::fill_n(area.begin() + components_[i].offset, components_[i].size, std::byte{0});
    }
  }
  std::fill_n(area.begin() + kSoftwareAt, kSoftwareSize, std::byte{0});
  WriteAt(area, kSoftwareAt, features_);
  WriteAt(area, kMxcsrAt, ReadAt<uint32_t>(area, kMxcsrAt) & mxcsr_mask_);
  WriteAt(area, kMxcsrMaskAt, mxcsr_mask_);
  std::fill_n(area.begin() + kHeaderAt, kHeaderSize, std::byte{0});
  WriteAt(area, kHeaderAt, saved);
}

// Linux: arch/x86/kernel/fpu/xstate.c, validate_user_xstate_header; Intel SDM 1, 13.8.1.
bool XsaveLayout::IsValid(std::span<const std::byte> area) const {
  if (area.size() != size_) return false;
  if ((ReadAt<uint64_t>(area, kHeaderAt) & ~features_) != 0) return false;
  const auto reserved = area.subspan(kHeaderAt + 8, kHeaderSize - 8);
  if (std::any_of(reserved.begin(), reserved.end(), [](std::byte b) { return b != std::byte{0}; }))
    return false;
  return (ReadAt<uint32_t>(area, kMxcsrAt) & ~mxcsr_mask_) == 0;
}

void XsaveLayout::WriteTo(std::span<std::byte> fpstate, std::span<const std::byte> area) const {
  CHECK(fpstate.size() == size_in_frame() && area.size() == size_);
  std::copy(area.begin(), area.end(), fpstate.begin());
  std::copy(software_.begin(), software_.end(), fpstate.begin() + kSoftwareAt);
  WriteAt(fpstate, size_, kMagic2);
}

}  // namespace skep::platform::notify
