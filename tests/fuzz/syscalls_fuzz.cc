// Sequences of system calls by a process and its children, traced: decoding, strace, every array
// and structure that a handler reads from the guest. In the end all of it must be gone.
#include <sys/un.h>

#include "base/host_call.h"
#include "sentry/syscalls/strace.h"
#include "tests/fuzz/kernel.h"

namespace skep::fuzz {
namespace {

using syscalls::TestKernel;
constexpr size_t kMemory = 64 << 10;

// Not: what ends or replaces the guest whose memory is filled, and what only waits.
bool IsLeftOut(uint64_t number) {
  switch (number) {
    case SYS_rt_sigreturn:
    case SYS_exit:
    case SYS_exit_group:
    case SYS_execve:
    case SYS_execveat:
    case SYS_vfork:
    case SYS_pause:
      return true;
    default:
      return number >= syscalls::kSyscallCount || syscalls::kSyscalls[number].handler == nullptr;
  }
}

uint64_t Argument(Input& in, uint64_t memory) {
  const uint8_t kind = in.Take<uint8_t>();
  switch (kind % 6) {
    case 0:
      return in.Take<uint8_t>() % 8;  // a descriptor, a flag, a command
    case 1:
      return memory + in.Take<uint16_t>() % kMemory;
    case 2:
      return memory + in.Take<uint8_t>() * 64;
    case 3:
      return in.Take<uint32_t>();
    case 4:
      return uint64_t{1} << in.Take<uint8_t>() % 64;
    default:
      return kind < 128 ? 0 : ~uint64_t{0};
  }
}

void TraceToNowhere(kernel::Kernel& kernel) {
  const arena::ArenaHeapScope arena;
  const arena::HostFd null = arena::HostTable::Get().Add(host::Open("/dev/null", O_WRONLY).value());
  kernel.strace = std::make_unique<syscalls::Strace>(null);
}

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds = RandomSeeds(50, 700);
  for (const int number : {SYS_pipe2, SYS_poll, SYS_epoll_wait, SYS_sendmsg, SYS_recvmsg, SYS_readv,
                           SYS_select, SYS_mmap, SYS_futex, SYS_clone3, SYS_openat2, SYS_setsockopt,
                           SYS_bind, SYS_ioctl, SYS_fcntl, SYS_prlimit64}) {
    seeds.push_back(std::string(32, '\1') + Bytes(static_cast<uint16_t>(number)) +
                    std::string("\1\0\0\1\40\0\2\1\0\0\0", 11));
  }
  return seeds;
}

int TestOneInput(const uint8_t* data, size_t size) {
  syscalls::TestKernel& kernel = fuzz::TheKernel();
  static const bool traced = (fuzz::TraceToNowhere(kernel.kernel()), true);
  (void)traced;
  fuzz::Input in(data, std::min<size_t>(size, 4096));
  syscalls::TestKernel::Guest init = kernel.init();
  syscalls::TestKernel::Guest child = init.Fork();
  const uint64_t memory = child.Allocate(fuzz::kMemory);
  const std::string_view filling = in.Text(in.Take<uint8_t>() * size_t{8});
  child.PutBytes(memory, std::as_bytes(std::span(filling)));
  for (int calls = 0; calls < 32 && !in.empty(); ++calls) {
    const uint64_t number = in.Take<uint16_t>() % syscalls::kSyscallCount;
    if (fuzz::IsLeftOut(number)) continue;
    std::array<uint64_t, 6> args;
    for (uint64_t& arg : args) arg = fuzz::Argument(in, memory);
    if (!child.alive() || !child.IsDone()) break;
    child.Begin(number, args);
    for (int i = 0; i < 3 && !child.IsDone(); ++i) (void)init.Run(SYS_getpid);
  }
  EndAll();
  return 0;
}

const Target kTarget("syscalls", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
