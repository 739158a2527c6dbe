// What one guest thread does, stop by stop.
#include <csignal>

#include "platform/ptrace/registers.h"
#include "platform/stub/stub.h"
#include "platform/tests/test_guest.h"

namespace skep::platform {
namespace {

ENGINE_TEST(EngineGuest);

GUEST_CODE(kShowRbx, "1: mov %rbx, %rax; syscall; jmp 1b");
GUEST_CODE(kShowRsp, "1: mov %rsp, %rax; syscall; jmp 1b");
GUEST_CODE(kReadFs, "1: mov %fs:8, %rax; syscall; jmp 1b");
GUEST_CODE(kWildBases,
           "mov $0xffff800000000000, %rax; wrfsbase %rax; wrgsbase %rax\n"
           "1: mov %rbx, %rax; syscall; jmp 1b");
GUEST_CODE(kInt80, "mov $20, %eax; int $0x80; jmp .");
GUEST_CODE(kX32, "mov $0x40000027, %eax; syscall; jmp .");
GUEST_CODE(kMinusOne, "mov $-1, %eax; syscall; jmp .");
// Far return to a 32-bit code segment, and a call from there.
GUEST_CODE(k32Bit,
           "pushq $0x23; lea 1f(%rip), %rax; push %rax; lretq\n"
           ".code32; 1: mov $20, %eax; int $0x80; jmp 1b; .code64");
GUEST_CODE(kVsyscall,
           "mov $0x600100, %edi; mov $0xffffffffff600400, %rax; call *%rax; syscall; jmp .");

TEST_P(EngineGuest, SystemCallsStopAndAreAnswered) {
  World world(GetParam());
  auto space = world.NewSpace(kSyscallLoop);
  Registers start = {};
  start.rax = SYS_getpid;
  start.rdi = 1, start.rsi = 2, start.rdx = 3, start.r10 = 4, start.r8 = 5, start.r9 = ~0ull;
  auto guest = world.NewGuest(*space, start);
  EXPECT_TRUE(std::holds_alternative<Interrupted>(guest->stop()));
  SyscallStop call = SyscallOf(world.Next(*guest));
  EXPECT_EQ(call.number, uint64_t{SYS_getpid});
  EXPECT_EQ(call.args, (std::array<uint64_t, 6>{1, 2, 3, 4, 5, ~0ull}));
  EXPECT_EQ(call.ip, kCodeAt + 2);
  EXPECT_FALSE(call.compat);
  // The result of one is the number of the next.
  for (uint64_t i = 1; i < 100; ++i) {
    guest->SetReturn(1000 + i);
    call = SyscallOf(world.Next(*guest));
    EXPECT_EQ(call.number, 1000 + i);
  }
}

TEST_P(EngineGuest, LoadShowsAndResumeWritesBack) {
  World world(GetParam());
  auto space = world.NewSpace(kShowRbx);
  Registers start = {};
  start.rbx = 7, start.r15 = 15, start.rflags = 0x202;
  auto guest = world.NewGuest(*space, start);
  EXPECT_EQ(SyscallOf(world.Next(*guest)).number, 7u);
  ASSERT_TRUE(guest->Load(LoadXsave::kNo));
  Registers& registers = guest->registers();
  EXPECT_EQ(registers.rax, 7u);
  EXPECT_EQ(registers.rip, kCodeAt + 5);
  EXPECT_EQ(registers.rcx, registers.rip);
  EXPECT_EQ(registers.rsp, kDataEnd);
  EXPECT_EQ(registers.r15, 15u);
  registers.rbx = 8;
  EXPECT_EQ(SyscallOf(world.Next(*guest)).number, 8u);
  // A restart: the same call with the same number.
  ASSERT_TRUE(guest->Load(LoadXsave::kNo));
  guest->registers().rip -= 2;
  const SyscallStop again = SyscallOf(world.Next(*guest));
  EXPECT_EQ(again.number, 8u);
  EXPECT_EQ(again.ip, kCodeAt + 5);
  // SetReturn before Load, and after.
  guest->SetReturn(99);
  ASSERT_TRUE(guest->Load(LoadXsave::kNo));
  EXPECT_EQ(guest->registers().rax, 99u);
  guest->SetReturn(100);
  EXPECT_EQ(guest->registers().rax, 100u);
}

TEST_P(EngineGuest, HostDoesNotRestartByItself) {
  World world(GetParam());
  auto space = world.NewSpace(kSyscallLoop);
  auto guest = world.NewGuest(*space);
  (void)world.Next(*guest);
  for (const int64_t result : {-512, -513, -514, -516, -4}) {
    guest->SetReturn(static_cast<uint64_t>(result));
    guest->Interrupt();
    EXPECT_TRUE(std::holds_alternative<Interrupted>(world.Next(*guest)));
    const SyscallStop call = SyscallOf(world.Next(*guest));
    EXPECT_EQ(static_cast<int32_t>(call.number), result);
    EXPECT_EQ(call.ip, kCodeAt + 2);
  }
}

TEST_P(EngineGuest, SegmentBases) {
  World world(GetParam());
  auto space = world.NewSpace(kReadFs);
  const uint64_t words[] = {0, 111, 0, 222};
  ASSERT_TRUE(host::PWrite(world.files.fd(world.data), std::as_bytes(std::span(words)), 0));
  Registers start = {};
  start.fs_base = kDataAt;
  auto guest = world.NewGuest(*space, start);
  EXPECT_EQ(SyscallOf(world.Next(*guest)).number, 111u);
  ASSERT_TRUE(guest->Load(LoadXsave::kNo));
  EXPECT_EQ(guest->registers().fs_base, kDataAt);
  guest->registers().fs_base = kDataAt + 16;
  EXPECT_EQ(SyscallOf(world.Next(*guest)).number, 222u);
  // What the host would reject changes nothing and harms nobody.
  ASSERT_TRUE(guest->Load(LoadXsave::kNo));
  guest->registers().fs_base = ~0ull << 47;
  guest->registers().gs_base = kUserEnd;
  guest->registers().rbx = 5;
  EXPECT_EQ(SyscallOf(world.Next(*guest)).number, 222u);
  ASSERT_TRUE(guest->Load(LoadXsave::kNo));
  EXPECT_EQ(guest->registers().rbx, 5u);
}

TEST_P(EngineGuest, BasesThatAGuestMadeItself) {
  World world(GetParam());
  auto space = world.NewSpace(kWildBases);
  auto guest = world.NewGuest(*space);
  const Stop stop = world.Next(*guest);
  if (std::holds_alternative<FaultStop>(stop)) GTEST_SKIP() << "no FSGSBASE here";
  for (uint64_t i = 1; i < 5; ++i) {
    ASSERT_TRUE(guest->Load(LoadXsave::kNo));
    EXPECT_EQ(guest->registers().fs_base, 0xffff'8000'0000'0000);
    guest->registers().rbx = i;
    EXPECT_EQ(SyscallOf(world.Next(*guest)).number, i);
  }
}

TEST_P(EngineGuest, WildRegistersAreAFault) {
  World world(GetParam());
  auto space = world.NewSpace(kShowRsp);
  auto guest = world.NewGuest(*space);
  (void)world.Next(*guest);
  ASSERT_TRUE(guest->Load(LoadXsave::kNo));
  guest->registers().rflags = ~0ull & ~uint64_t{0x100};  // all but the trap flag
  guest->registers().rsp = 0x8000'0000'0000'0000;
  EXPECT_EQ(SyscallOf(world.Next(*guest)).number, 0x8000'0000'0000'0000 & 0);
  ASSERT_TRUE(guest->Load(LoadXsave::kNo));
  EXPECT_EQ(guest->registers().rax & 0xffff'ffff, 0u);
  guest->registers().rip = 0x8000'0000'0000'0000;
  const FaultStop fault = FaultOf(world.Next(*guest));
  EXPECT_EQ(fault.signo, SIGSEGV);
}

TEST_P(EngineGuest, OtherSystemCallAbis) {
  World world(GetParam());
  {
    auto space = world.NewSpace(kInt80);
    auto guest = world.NewGuest(*space);
    const SyscallStop call = SyscallOf(world.Next(*guest));
    EXPECT_TRUE(call.compat);
    EXPECT_EQ(call.number, 20u);
  }
  {
    auto space = world.NewSpace(kX32);
    auto guest = world.NewGuest(*space);
    EXPECT_TRUE(SyscallOf(world.Next(*guest)).compat);
  }
  {
    auto space = world.NewSpace(kMinusOne);
    auto guest = world.NewGuest(*space);
    const SyscallStop call = SyscallOf(world.Next(*guest));
    EXPECT_FALSE(call.compat);
    EXPECT_EQ(call.number, ~uint64_t{0});
  }
  {
    auto space = world.NewSpace(k32Bit);
    auto guest = world.NewGuest(*space);
    const SyscallStop call = SyscallOf(world.Next(*guest));
    EXPECT_TRUE(call.compat);
    EXPECT_EQ(call.number, 20u);
    // It stays 32-bit code unless it is sent elsewhere.
    ASSERT_TRUE(guest->Load(LoadXsave::kNo));
    guest->registers().rbx = 1;
    EXPECT_TRUE(SyscallOf(world.Next(*guest)).compat);
  }
}

TEST_P(EngineGuest, VsyscallIsASystemCall) {
  World world(GetParam());
  auto space = world.NewSpace(kVsyscall);
  auto guest = world.NewGuest(*space);
  const Stop stop = world.Next(*guest);
  if (std::holds_alternative<FaultStop>(stop)) GTEST_SKIP() << "vsyscall=none here";
  const SyscallStop call = SyscallOf(stop);
  EXPECT_EQ(call.number, uint64_t{SYS_time});
  EXPECT_EQ(call.args[0], 0x60'0100u);
  guest->SetReturn(4711);
  EXPECT_EQ(SyscallOf(world.Next(*guest)).number, 4711u);
}

TEST(PtraceGuest, TheStubsOwnCallsAreNoWayOut) {
  World world(EngineKind::kPtrace);
  auto space = world.NewSpace(kSyscallLoop);
  const StubAddresses stub = AddressesOfStub();
  for (const uint64_t at : {stub.after_syscall - 2, stub.exit}) {
    Registers start = {};
    start.rip = at;
    start.rax = SYS_munmap;
    start.rdi = kCodeAt, start.rsi = kPageSize;
    auto guest = world.NewGuest(*space, start);
    const SyscallStop call = SyscallOf(world.Next(*guest));
    EXPECT_EQ(call.number, uint64_t{SYS_munmap});
    EXPECT_EQ(call.ip, at + 2);
  }
  // The breakpoint of a batch is a fault as any, and the command page cannot be written.
  Registers start = {};
  start.rip = stub.run_batch;
  auto guest = world.NewGuest(*space, start);
  EXPECT_EQ(FaultOf(world.Next(*guest)).signo, SIGTRAP);
}

TEST(PtraceGuest, PoisonsWhatWasNotLoaded) {
  World world(EngineKind::kPtrace, {.ptrace = {.poison_unloaded = true}});
  auto space = world.NewSpace(kShowRbx);
  Registers start = {};
  start.rbx = 3;
  auto guest = world.NewGuest(*space, start);
  (void)world.Next(*guest);
  EXPECT_EQ(guest->xsave()[0], std::byte{0xb5});
  ASSERT_TRUE(guest->Load(LoadXsave::kYes));
  EXPECT_EQ(guest->registers().rbx, 3u);
}

TEST(PtraceGuest, PoisonsClobberedRegisters) {
  World world(EngineKind::kPtrace, {.ptrace = {.poison_unloaded = true}});
  auto space = world.NewSpace(kShowRbx);
  Registers start = {};
  start.rbx = 3;
  auto guest = world.NewGuest(*space, start);
  (void)world.Next(*guest);
  guest->SetReturn(0);
  guest->Interrupt();
  EXPECT_TRUE(std::holds_alternative<Interrupted>(world.Next(*guest)));
  ASSERT_TRUE(guest->Load(LoadXsave::kNo));
  EXPECT_EQ(guest->registers().rcx, ptrace::kPoison);
  EXPECT_EQ(guest->registers().r11, ptrace::kPoison);
  EXPECT_EQ(guest->registers().rbx, 3u);
  EXPECT_EQ(guest->registers().rax, 0u);
}

}  // namespace
}  // namespace skep::platform
