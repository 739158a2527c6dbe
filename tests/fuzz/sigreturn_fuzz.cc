// rt_sigreturn with a frame that the guest wrote: what its registers and its xsave area may become.
#include <ucontext.h>

#include "tests/fuzz/kernel.h"

namespace skep::fuzz {
namespace {

constexpr size_t kFrame = 4096;

std::vector<std::string> Seeds() {
  std::string frame(1024, '\0');
  ucontext_t context = {};
  context.uc_mcontext.gregs[REG_EFL] = 0x202;
  context.uc_mcontext.gregs[REG_CSGSFS] = 0x33 | int64_t{0x2b} << 48;
  memcpy(frame.data(), &context, sizeof context);
  return {frame, std::string(968, '\xff'), std::string(8, '\0') + frame};
}

int TestOneInput(const uint8_t* data, size_t size) {
  syscalls::TestKernel& kernel = fuzz::TheKernel();
  syscalls::TestKernel::Guest child = kernel.init().Fork();
  const uint64_t memory = child.Allocate(2 * fuzz::kFrame);
  std::string frame(fuzz::kFrame, '\0');
  memcpy(frame.data(), data, std::min(size, frame.size()));
  // The first byte decides whether fpstate points behind the context, as in a frame of Linux's.
  if (size > 0 && data[0] % 2 == 0) {
    const uint64_t state = memory + sizeof(ucontext_t);
    memcpy(frame.data() + offsetof(ucontext_t, uc_mcontext.fpregs), &state, sizeof state);
  }
  child.PutBytes(memory, std::as_bytes(std::span(frame)));
  child.registers().rsp = memory;
  child.Begin(SYS_rt_sigreturn);
  if (!kernel.WaitFor([&] { return !child.alive() || child.IsDone(); })) fuzz::Fail("it hangs");
  if (child.alive() && child.IsDone()) {
    const platform::Registers& registers = child.registers();
    constexpr uint64_t kUserFlags = 0x0025'0fff & ~uint64_t{0x3000};  // no IOPL, VM, VIF, VIP
    if ((registers.rflags & ~kUserFlags) != 0) fuzz::Fail("a flag that user code cannot set");
  }
  EndAll();
  return 0;
}

const Target kTarget("sigreturn", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
