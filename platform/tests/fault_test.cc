// Exceptions and vector state of guests.
#include <csignal>

#include "platform/ptrace/registers.h"
#include "platform/tests/test_guest.h"

namespace skep::platform {
namespace {

ENGINE_TEST(EngineXsave);

GUEST_CODE(kReadRbx, "mov (%rbx), %rax; syscall; jmp .");
GUEST_CODE(kWriteRbx, "mov %rax, (%rbx); syscall; jmp .");
GUEST_CODE(kJumpRbx, "jmp *%rbx");
GUEST_CODE(kDivide, "xor %edx, %edx; xor %ecx, %ecx; div %ecx");
GUEST_CODE(kSseDivide,
           "movl $0x1d80, -8(%rsp); ldmxcsr -8(%rsp); xorps %xmm0, %xmm0; mov $1, %eax\n"
           "cvtsi2ss %eax, %xmm1; divss %xmm0, %xmm1; jmp .");
GUEST_CODE(kUndefined, "ud2");
GUEST_CODE(kPrivileged, "hlt");
GUEST_CODE(kBreak, "int3; jmp .");
GUEST_CODE(kIcebp, ".byte 0xf1; jmp .");
GUEST_CODE(kStep, "nop; nop; mov $39, %eax; syscall; jmp .");
GUEST_CODE(kMisaligned, "pushf; orl $0x40000, (%rsp); popf; mov 1(%rbx), %rax; jmp .");
GUEST_CODE(kVector,
           "mov $0x600000, %rbx; vmovdqu (%rbx), %ymm0; mov $1, %eax; syscall\n"
           "vmovdqu %ymm0, 64(%rbx); stmxcsr 128(%rbx); mov $2, %eax; syscall; jmp .");
GUEST_CODE(kVector512,
           "mov $0x600000, %rbx; vmovdqu64 (%rbx), %zmm17; mov $0x5a5a, %eax; kmovw %eax, %k3\n"
           "mov $1, %eax; syscall; vmovdqu64 %zmm17, 64(%rbx); kmovw %k3, %edi; mov $2, %eax\n"
           "syscall; jmp .");
GUEST_CODE(kShowVector,
           "mov $0x600000, %rbx; vmovdqu %ymm7, (%rbx); stmxcsr 32(%rbx); fnstcw 36(%rbx)\n"
           "syscall; jmp .");

class EngineFault : public ::testing::TestWithParam<EngineKind> {
 protected:
  // The first stop of a guest that runs `code` with this rbx.
  FaultStop Run(const Code& code, uint64_t rbx = kDataAt, uint64_t rflags = 0x202) {
    guest_.reset();
    space_ = world_.NewSpace(code);
    Registers start = {};
    start.rbx = rbx;
    start.rflags = rflags;
    guest_ = world_.NewGuest(*space_, start);
    return FaultOf(world_.Next(*guest_));
  }
  uint64_t Ip() {
    EXPECT_TRUE(guest_->Load(LoadXsave::kNo));
    return guest_->registers().rip;
  }

  World world_{GetParam()};
  std::unique_ptr<AddressSpace> space_;
  std::unique_ptr<Context> guest_;
};

INSTANTIATE_TEST_SUITE_P(, EngineFault, kTestedEngines, NameOfEngine);

TEST_P(EngineFault, ReadOfNothing) {
  FaultStop fault = Run(kReadRbx, 0x123'4567);
  EXPECT_EQ(fault.signo, SIGSEGV);
  EXPECT_EQ(fault.code, SEGV_MAPERR);
  EXPECT_EQ(fault.address, 0x123'4567u);
  EXPECT_EQ(fault.vector, 14u);
  EXPECT_EQ(fault.error_code & 1, 0u);
  EXPECT_EQ(Ip(), kCodeAt);
  // Mapped, it goes on.
  const HostFileId file = world_.files.NewMemory(2 * kPageSize);
  const uint64_t value = 77;
  ASSERT_TRUE(host::PWrite(world_.files.fd(file), std::as_bytes(std::span(&value, 1)), 0x567));
  const MapOp op = {MapOp::Kind::kMap, PROT_READ, true, 0x123'4000, kPageSize, file, 0};
  EXPECT_EQ(space_->Apply({&op, 1}).error, 0);
  EXPECT_EQ(SyscallOf(world_.Next(*guest_)).number, 77u);
}

TEST_P(EngineFault, WriteToWhatMayOnlyBeRead) {
  const FaultStop fault = Run(kWriteRbx, kCodeAt + 8);
  EXPECT_EQ(fault.signo, SIGSEGV);
  EXPECT_EQ(fault.code, SEGV_ACCERR);
  EXPECT_EQ(fault.address, kCodeAt + 8);
  EXPECT_EQ(fault.vector, 14u);
  EXPECT_EQ(fault.error_code & 1, 1u);
}

TEST_P(EngineFault, ExecutionOfData) {
  const FaultStop fault = Run(kJumpRbx);
  EXPECT_EQ(fault.signo, SIGSEGV);
  EXPECT_EQ(fault.code, SEGV_ACCERR);
  EXPECT_EQ(fault.address, kDataAt);
}

TEST_P(EngineFault, AddressThatIsNone) {
  const FaultStop fault = Run(kReadRbx, 0x8000'0000'0000'0000);
  EXPECT_EQ(fault.signo, SIGSEGV);
  EXPECT_EQ(fault.code, SI_KERNEL);
  EXPECT_EQ(fault.address, 0u);
  EXPECT_EQ(fault.vector, 13u);
}

TEST_P(EngineFault, BehindTheEndOfTheFile) {
  (void)Run(kReadRbx, 0x123'4567);
  const HostFileId file = world_.files.NewMemory(0);
  const MapOp op = {MapOp::Kind::kMap, PROT_READ, false, 0x123'4000, kPageSize, file, 0};
  EXPECT_EQ(space_->Apply({&op, 1}).error, 0);
  const FaultStop fault = FaultOf(world_.Next(*guest_));
  EXPECT_EQ(fault.signo, SIGBUS);
  EXPECT_EQ(fault.code, BUS_ADRERR);
  EXPECT_EQ(fault.address, 0x123'4567u);
  EXPECT_EQ(fault.vector, 14u);
}

TEST_P(EngineFault, Arithmetic) {
  FaultStop fault = Run(kDivide);
  EXPECT_EQ(fault.signo, SIGFPE);
  EXPECT_EQ(fault.code, FPE_INTDIV);
  EXPECT_EQ(fault.address, kCodeAt + 4);
  EXPECT_EQ(fault.vector, 0u);
  fault = Run(kSseDivide);
  EXPECT_EQ(fault.signo, SIGFPE);
  EXPECT_EQ(fault.code, FPE_FLTDIV);
  EXPECT_EQ(fault.vector, 19u);
}

TEST_P(EngineFault, Instructions) {
  FaultStop fault = Run(kUndefined);
  EXPECT_EQ(fault.signo, SIGILL);
  EXPECT_EQ(fault.code, ILL_ILLOPN);
  EXPECT_EQ(fault.address, kCodeAt);
  EXPECT_EQ(fault.vector, 6u);
  fault = Run(kPrivileged);
  EXPECT_EQ(fault.signo, SIGSEGV);
  EXPECT_EQ(fault.code, SI_KERNEL);
  EXPECT_EQ(fault.vector, 13u);
}

TEST_P(EngineFault, Alignment) {
  const FaultStop fault = Run(kMisaligned);
  EXPECT_EQ(fault.signo, SIGBUS);
  EXPECT_EQ(fault.code, BUS_ADRALN);
  EXPECT_EQ(fault.vector, 17u);
}

TEST_P(EngineFault, Breakpoints) {
  FaultStop fault = Run(kBreak);
  EXPECT_EQ(fault.signo, SIGTRAP);
  EXPECT_EQ(fault.code, SI_KERNEL);
  EXPECT_EQ(fault.vector, 3u);
  EXPECT_EQ(Ip(), kCodeAt + 1);
  fault = Run(kIcebp);
  EXPECT_EQ(fault.signo, SIGTRAP);
  EXPECT_EQ(fault.code, TRAP_BRKPT);
  EXPECT_EQ(fault.vector, 1u);
}

TEST_P(EngineFault, SingleSteps) {
  FaultStop fault = Run(kStep, 0, 0x302);
  EXPECT_EQ(fault.signo, SIGTRAP);
  EXPECT_EQ(fault.code, TRAP_TRACE);
  EXPECT_EQ(fault.vector, 1u);
  EXPECT_EQ(fault.address, kCodeAt + 1);
  EXPECT_EQ(Ip(), kCodeAt + 1);
  EXPECT_NE(guest_->registers().rflags & 0x100, 0u);
  fault = FaultOf(world_.Next(*guest_));
  EXPECT_EQ(fault.address, kCodeAt + 2);
  ASSERT_TRUE(guest_->Load(LoadXsave::kNo));
  guest_->registers().rflags &= ~uint64_t{0x100};
  EXPECT_EQ(SyscallOf(world_.Next(*guest_)).number, 39u);
}

std::array<uint8_t, 256> ReadData(World& world) {
  std::array<uint8_t, 256> bytes = {};
  EXPECT_TRUE(host::PRead(world.files.fd(world.data), std::as_writable_bytes(std::span(bytes)), 0));
  return bytes;
}

constexpr size_t kXmmAt = 160, kYmmHighAt = 576;  // in the standard format

TEST_P(EngineXsave, IsShownAndWrittenBack) {
  if (!__builtin_cpu_supports("avx")) GTEST_SKIP() << "this CPU has no AVX";
  World world(GetParam());
  ASSERT_GE(world.engine->xsave_size(), ptrace::kXsaveMin);
  auto space = world.NewSpace(kVector);
  std::array<uint8_t, 32> in;
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint8_t>(i + 1);
  ASSERT_TRUE(host::PWrite(world.files.fd(world.data), std::as_bytes(std::span(in)), 0));
  auto guest = world.NewGuest(*space);
  ASSERT_FALSE(std::holds_alternative<FaultStop>(world.Next(*guest)));
  ASSERT_TRUE(guest->Load(LoadXsave::kYes));
  std::span<std::byte> area = guest->xsave();
  EXPECT_EQ(memcmp(&area[kXmmAt], in.data(), 16), 0);
  EXPECT_EQ(memcmp(&area[kYmmHighAt], in.data() + 16, 16), 0);
  area[kXmmAt] = std::byte{0xaa};
  area[kYmmHighAt + 15] = std::byte{0xbb};
  EXPECT_EQ(SyscallOf(world.Next(*guest)).number, 2u);
  in[0] = 0xaa;
  in[31] = 0xbb;
  const auto out = ReadData(world);
  EXPECT_EQ(memcmp(&out[64], in.data(), in.size()), 0);
}

TEST_P(EngineXsave, HoldsAvx512) {
  if (!__builtin_cpu_supports("avx512f")) GTEST_SKIP() << "this CPU has no AVX-512";
  World world(GetParam());
  auto space = world.NewSpace(kVector512);
  std::array<uint8_t, 64> in;
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint8_t>(i + 1);
  ASSERT_TRUE(host::PWrite(world.files.fd(world.data), std::as_bytes(std::span(in)), 0));
  auto guest = world.NewGuest(*space);
  ASSERT_FALSE(std::holds_alternative<FaultStop>(world.Next(*guest)));
  // Through another thread: all of it is in the area.
  ASSERT_TRUE(guest->Load(LoadXsave::kYes));
  auto other = world.NewGuest(*space, guest->registers(), guest->xsave());
  const SyscallStop call = SyscallOf(world.Next(*other));
  EXPECT_EQ(call.number, 2u);
  EXPECT_EQ(call.args[0], 0x5a5au);
  EXPECT_EQ(memcmp(&ReadData(world)[64], in.data(), in.size()), 0);
}

TEST_P(EngineXsave, StartsEmptyOrAsGiven) {
  if (!__builtin_cpu_supports("avx")) GTEST_SKIP() << "this CPU has no AVX";
  World world(GetParam());
  auto space = world.NewSpace(kShowVector);
  auto guest = world.NewGuest(*space);
  ASSERT_FALSE(std::holds_alternative<FaultStop>(world.Next(*guest)));
  auto out = ReadData(world);
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], 0);
  uint32_t mxcsr = 0;
  uint16_t fcw = 0;
  memcpy(&mxcsr, &out[32], sizeof(mxcsr));
  memcpy(&fcw, &out[36], sizeof(fcw));
  EXPECT_EQ(mxcsr, 0x1f80u);
  EXPECT_EQ(fcw, 0x37fu);

  ASSERT_TRUE(guest->Load(LoadXsave::kYes));
  std::vector<std::byte> area(guest->xsave().begin(), guest->xsave().end());
  area[kXmmAt + 7 * 16] = std::byte{0x5a};
  area[512] |= std::byte{7};  // XSTATE_BV: x87, SSE, AVX
  area[kYmmHighAt + 7 * 16] = std::byte{0x6b};
  auto other = world.NewGuest(*space, {}, area);
  (void)world.Next(*other);
  out = ReadData(world);
  EXPECT_EQ(out[0], 0x5a);
  EXPECT_EQ(out[16], 0x6b);
}

TEST_P(EngineXsave, RejectedOnes) {
  World world(GetParam());
  auto space = world.NewSpace(kShowVector);
  auto guest = world.NewGuest(*space);
  ASSERT_FALSE(std::holds_alternative<Interrupted>(world.Next(*guest)));
  ASSERT_TRUE(guest->Load(LoadXsave::kYes));
  std::vector<std::byte> area(guest->xsave().begin(), guest->xsave().end());
  area[512 + 16] = std::byte{1};  // a reserved byte of the header
  const auto made = world.engine->NewContext(*space, Registers{}, area);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error(), Errno(EINVAL));
  EXPECT_EQ(world.engine->NewContext(*space, Registers{}, std::span(area).first(100)).error(),
            Errno(EINVAL));
  std::copy(area.begin(), area.end(), guest->xsave().begin());
  const FaultStop fault = FaultOf(world.Next(*guest));
  EXPECT_EQ(fault.signo, SIGSEGV);
  EXPECT_EQ(fault.code, SI_KERNEL);
}

}  // namespace
}  // namespace skep::platform
