// How --strace writes any arguments of any call, with any result: addresses that lead nowhere, to
// the end of memory or to structures full of rubbish. A line is printable and of a bounded length.
#include <sys/syscall.h>

#include "base/host_call.h"
#include "sentry/syscalls/strace.h"
#include "tests/fuzz/kernel.h"

namespace skep::fuzz {
namespace {

using syscalls::TestKernel;

constexpr size_t kMemory = 2 * kPageSize;  // and nothing is mapped behind it
constexpr size_t kMaxLine = 8192;

// Guest memory for the arguments, and a --strace whose lines can be read.
struct Tracer {
  Tracer() {
    TestKernel& kernel = TheKernel();
    TestKernel::Guest init = kernel.init();
    memory = init.Allocate(kMemory + kPageSize);
    if (init.Run(SYS_munmap, {memory + kMemory, kPageSize, 0}) != 0) Fail("munmap");
    auto pair = host::MakeSocketPair(SOCK_SEQPACKET).value();
    lines = std::move(pair.b);
    const arena::ArenaHeapScope arena;
    strace = std::make_unique<syscalls::Strace>(arena::HostTable::Get().Add(std::move(pair.a)));
  }
  uint64_t memory = 0;
  OwnedFd lines;
  std::unique_ptr<syscalls::Strace> strace;
};

uint64_t Argument(Input& in, uint64_t memory) {
  const uint8_t kind = in.Take<uint8_t>();
  switch (kind % 6) {
    case 0:
      return in.Take<uint8_t>();
    case 1:
      return memory + in.Take<uint8_t>() * 8;
    case 2:
      return memory + kMemory - in.Take<uint8_t>();  // what is there ends soon
    case 3:
      return in.Take<uint64_t>();
    case 4:
      return uint64_t{1} << in.Take<uint8_t>() % 64;
    default:
      return kind < 128 ? 0 : ~uint64_t{0};
  }
}

void CheckLines(Tracer& tracer) {
  static std::string line(4 * kMaxLine, '\0');
  pollfd ready = {tracer.lines.get(), POLLIN, 0};
  while (host::Poll(std::span(&ready, 1), 0).value_or(0) > 0) {
    const size_t size = host::Read(ready.fd, std::as_writable_bytes(std::span(line))).value_or(0);
    if (size == 0 || size > kMaxLine || line[size - 1] != '\n') Fail("not a line");
    for (size_t i = 0; i + 1 < size; ++i) {
      if (line[i] < 0x20 || line[i] > 0x7e) Fail("a line with a byte that is not printable");
    }
  }
}

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  for (uint16_t number = 0; number < syscalls::kSyscallCount; ++number) {
    if (syscalls::kSyscalls[number].handler == nullptr) continue;
    // A good result, six addresses (see Argument), and what is there.
    std::string seed(2 + 1 + 6 * 2 + 8 + 200, static_cast<char>('A' + number % 26));
    memcpy(seed.data(), &number, sizeof number);
    for (size_t i = 2; i < 2 + 1 + 6 * 2; ++i) seed[i] = 1;
    seeds.push_back(std::move(seed));
  }
  return seeds;
}

int TestOneInput(const uint8_t* data, size_t size) {
  TestKernel& kernel = fuzz::TheKernel();
  static auto* const tracer = new fuzz::Tracer;
  fuzz::Input in(data, size);
  const uint64_t number = in.Take<uint16_t>() % syscalls::kSyscallCount;
  const uint8_t outcome = in.Take<uint8_t>();
  syscalls::RawArgs args{};
  for (uint64_t& arg : args) arg = fuzz::Argument(in, tracer->memory);
  const uint64_t value = in.Take<uint64_t>();
  const std::string_view filling = in.Text(fuzz::kMemory);
  TestKernel::Guest init = kernel.init();
  init.PutBytes(tracer->memory, std::as_bytes(std::span(filling)));
  init.PutBytes(tracer->memory + fuzz::kMemory - std::min(filling.size(), kPageSize),
                std::as_bytes(std::span(filling.substr(0, kPageSize))));
  kernel.OnFiber([&] {
    kernel::Task& task = kernel.init().task();
    const Result<uint64_t> result =
        outcome % 4 == 0 ? Result<uint64_t>(skep::Fail(outcome + 1)) : Result<uint64_t>(value);
    tracer->strace->Enter(task, number, args);
    tracer->strace->Leave(task, number, args, result);
    siginfo_t info = {};
    info.si_signo = static_cast<int>(args[0]);
    info.si_code = static_cast<int>(args[1]);
    tracer->strace->Signal(task, info);
  });
  fuzz::CheckLines(*tracer);
  return 0;
}

const Target kTarget("strace", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
