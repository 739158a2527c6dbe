// For tests of all engines: guests made of machine code in a memory file.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <atomic>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/host_call.h"
#include "base/limits.h"
#include "platform/engines.h"
#include "platform/platform.h"

namespace skep::platform {

inline constexpr uint64_t kCodeAt = 0x40'0000;
inline constexpr uint64_t kDataAt = 0x60'0000;  // also the stack: it ends at kDataEnd
inline constexpr uint64_t kDataSize = 16 * kPageSize;
inline constexpr uint64_t kDataEnd = kDataAt + kDataSize;

inline constexpr uint64_t kMs = 1'000'000;

inline MapOp Map(uint64_t at, uint64_t size, HostFileId file, uint64_t offset = 0) {
  return {MapOp::Kind::kMap, PROT_READ | PROT_WRITE, false, at, size, file, offset};
}

class TestFiles final : public HostFiles {
 public:
  Result<int> DescriptorOf(HostFileId file) override {
    const auto found = fds_.find(static_cast<uint32_t>(file));
    if (found == fds_.end()) return Fail(EBADF);
    ++asked;
    return found->second.get();
  }
  HostFileId Add(OwnedFd fd) {
    fds_[next_] = std::move(fd);
    return HostFileId{next_++};
  }
  HostFileId NewMemory(size_t size) {
    OwnedFd fd = *host::MemfdCreate("test", MFD_CLOEXEC);
    EXPECT_TRUE(host::Truncate(fd.get(), size));
    return Add(std::move(fd));
  }
  int fd(HostFileId file) { return fds_.at(static_cast<uint32_t>(file)).get(); }
  std::atomic<int> asked = 0;

 private:
  std::map<uint32_t, OwnedFd> fds_;
  uint32_t next_ = 1;
};

class TestPoller final : public HostPoller {
 public:
  int epoll_fd() const override { return fd; }
  bool watching() const override { return fd >= 0; }
  int fd = -1;
};

// A suite whose tests run with each engine, as GetParam().
inline const auto kTestedEngines = ::testing::Values(EngineKind::kPtrace, EngineKind::kNotify);
inline std::string NameOfEngine(const ::testing::TestParamInfo<EngineKind>& info) {
  return InfoOf(info.param).name;
}
#define ENGINE_TEST(suite)                                      \
  class suite : public ::testing::TestWithParam<EngineKind> {}; \
  INSTANTIATE_TEST_SUITE_P(, suite, kTestedEngines, NameOfEngine)

using Code = std::vector<uint8_t>;
// A guest's instructions, in assembly: position independent, at most a page.
#define GUEST_CODE(name, text)                                               \
  extern "C" const uint8_t guest_##name[], guest_end_##name[];               \
  asm(".pushsection .rodata\n guest_" #name ":\n" text "\n guest_end_" #name \
      ":\n"                                                                  \
      ".popsection");                                                        \
  [[maybe_unused]] const ::skep::platform::Code name = {guest_##name, guest_end_##name}

inline const Code kSyscallLoop = {0x0f, 0x05, 0xeb, 0xfc};  // 1: syscall; jmp 1b
inline const Code kSpin = {0xeb, 0xfe};                     // 1: jmp 1b

// One engine and what its guests are made of.
class World {
 public:
  explicit World(EngineKind kind, EngineOptions options = {}) {
    options.files = &files;
    auto made = MakeEngine(kind, options);
    EXPECT_TRUE(made) << (made ? "" : made.error().message);
    engine = std::move(*made);
  }

  std::unique_ptr<AddressSpace> NewSpace() {
    auto made = engine->NewAddressSpace();
    EXPECT_TRUE(made) << (made ? 0 : made.error().code());
    return std::move(*made);
  }
  // A space with `code` at kCodeAt and zeroed data at kDataAt.
  std::unique_ptr<AddressSpace> NewSpace(const Code& code) {
    auto space = NewSpace();
    text = files.NewMemory(kPageSize);
    data = files.NewMemory(kDataSize);
    EXPECT_TRUE(host::PWrite(files.fd(text), std::as_bytes(std::span(code)), 0));
    const MapOp ops[] = {
        {MapOp::Kind::kMap, PROT_READ | PROT_EXEC, false, kCodeAt, kPageSize, text, 0},
        {MapOp::Kind::kMap, PROT_READ | PROT_WRITE, false, kDataAt, kDataSize, data, 0}};
    const auto applied = space->Apply(ops);
    EXPECT_EQ(applied.error, 0);
    EXPECT_EQ(applied.done, 2u);
    return space;
  }
  std::unique_ptr<Context> NewGuest(AddressSpace& space, Registers registers = {},
                                    std::span<const std::byte> xsave = {}) {
    if (registers.rip == 0) registers.rip = kCodeAt;
    if (registers.rsp == 0) registers.rsp = kDataEnd;
    auto made = engine->NewContext(space, registers, xsave);
    EXPECT_TRUE(made) << (made ? 0 : made.error().code());
    return std::move(*made);
  }
  Event Wait(Deadline deadline = std::nullopt) { return engine->Wait(deadline, poller); }
  // Resumes it and waits for its next stop.
  Stop Next(Context& guest) {
    guest.Resume();
    return NextStop(guest);
  }
  Stop NextStop(Context& guest) {
    for (;;) {
      Event event = Wait();
      if (std::holds_alternative<Woken>(event)) continue;
      const auto* stopped = std::get_if<Stopped>(&event);
      EXPECT_NE(stopped, nullptr) << "it died: " << std::get<Died>(event).why;
      if (stopped == nullptr) return Interrupted{};
      EXPECT_EQ(stopped->context, &guest);
      return stopped->context->stop();
    }
  }

  TestFiles files;
  TestPoller poller;
  std::unique_ptr<Engine> engine;
  HostFileId text = {}, data = {};
};

inline std::string Describe(const Stop& stop) {
  const auto* fault = std::get_if<FaultStop>(&stop);
  if (fault == nullptr) return "";
  return ": signal " + std::to_string(fault->signo) + " code " + std::to_string(fault->code) +
         " address " + std::to_string(fault->address) + " vector " + std::to_string(fault->vector) +
         " error " + std::to_string(fault->error_code);
}
inline SyscallStop SyscallOf(const Stop& stop) {
  const auto* call = std::get_if<SyscallStop>(&stop);
  EXPECT_NE(call, nullptr) << "not a system call, but " << stop.index() << Describe(stop);
  return call != nullptr ? *call : SyscallStop{};
}
inline FaultStop FaultOf(const Stop& stop) {
  const auto* fault = std::get_if<FaultStop>(&stop);
  EXPECT_NE(fault, nullptr) << "not a fault, but " << stop.index();
  return fault != nullptr ? *fault : FaultStop{};
}

}  // namespace skep::platform
