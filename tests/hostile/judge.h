// Judges of what an attacker got: each tells an answer of the guest's kernel from one of the
// host's. They run in the attacker's process and end it with Escaped() if they find something.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "tests/hostile/hostile.h"

namespace skep::test {

// Where engines may keep code of their own: from what the guest is given (base/limits.h) to the end
// of user space.
constexpr uint64_t kGuestEnd = 0x7fff'f000'0000;
constexpr uint64_t kHighEnd = 0x7fff'ffff'f000;

// True if a range of `maps` (the text of /proc/self/maps) holds the address.
inline bool InMaps(const std::string& maps, uint64_t address) {
  for (size_t at = 0; at < maps.size(); ++at) {
    uint64_t low = 0;
    uint64_t high = 0;
    sscanf(maps.c_str() + at, "%lx-%lx", &low, &high);
    if (address >= low && address < high) return true;
    at = maps.find('\n', at);
    if (at == std::string::npos) break;
  }
  return false;
}

inline sigjmp_buf g_back;
struct Registers {
  uint64_t rax, rcx;
};
inline Registers g_fault;
inline void ComeBack(int, siginfo_t*, void* context) {
  const auto* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  g_fault = {static_cast<uint64_t>(registers[REG_RAX]), static_cast<uint64_t>(registers[REG_RCX])};
  siglongjmp(g_back, 1);
}

// While it lives, faults jump to g_back and leave their registers in g_fault.
class CatchFaults {
 public:
  CatchFaults() {
    struct sigaction action = {};
    action.sa_sigaction = ComeBack;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &action, &old_[i]);
  }
  ~CatchFaults() {
    for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &old_[i], nullptr);
  }
  CatchFaults(const CatchFaults&) = delete;
  CatchFaults& operator=(const CatchFaults&) = delete;

 private:
  static constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGSYS};
  struct sigaction old_[std::size(kSignals)];
};

// A page can be read. The caller holds a CatchFaults.
inline bool CanRead(uint64_t address) {
  if (sigsetjmp(g_back, 0) != 0) return false;
  (void)*reinterpret_cast<volatile const uint8_t*>(address);
  return true;
}

// Readable pages of [start, end) that `maps` does not have: every 64 KiB, then all pages around
// what was found there and at both ends.
inline std::vector<uint64_t> PagesOutside(const std::string& maps, uint64_t start, uint64_t end) {
  constexpr uint64_t kStep = 64 << 10;
  const CatchFaults faults;
  std::vector<bool> near((end - start - 1) / kStep + 2);  // one more, so that each has a next
  near.front() = near[near.size() - 2] = true;
  for (uint64_t at = start; at < end; at += kStep) {
    if (!CanRead(at)) continue;
    const size_t index = (at - start) / kStep;
    near[index] = near[index + 1] = true;
    if (index > 0) near[index - 1] = true;
  }
  std::vector<uint64_t> pages;
  for (uint64_t at = start; at < end; at += kPageSize) {
    if (near[(at - start) / kStep] && CanRead(at) && !InMaps(maps, at)) pages.push_back(at);
  }
  return pages;
}

// Where the instruction's two bytes stand in these pages.
inline std::vector<uint64_t> SyscallInstructions(const std::vector<uint64_t>& pages) {
  std::vector<uint64_t> found;
  for (const uint64_t page : pages) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(page);
    for (size_t i = 0; i + 1 < kPageSize && found.size() < 64; ++i) {
      if (bytes[i] == 0x0f && bytes[i + 1] == 0x05) found.push_back(page + i);
    }
  }
  return found;
}

// A system call made by odd means, and all that is needed to tell whose kernel answered.
struct CallJudge {
  explicit CallJudge(long number) : number_(number) {
    switch (number) {
      case SYS_openat:
        args = {static_cast<uint64_t>(AT_FDCWD), Address("/proc/self/status"), O_RDONLY, 0};
        break;
      case SYS_memfd_create:
        args = {Address("gate"), 0, 0, 0};
        break;
      case SYS_socket:
        args = {AF_UNIX, SOCK_STREAM, 0, 0};
        break;
      case SYS_mmap:
        args = {0, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS};
        break;
      case SYS_kill:
        args = {static_cast<uint64_t>(getpid()), SIGUSR1, 0, 0};
        signal(SIGUSR1, [](int) { g_signals = 1; });
        break;
      default:
        break;
    }
    // The number a new descriptor of the guest has.
    next_fd_ = dup(STDOUT_FILENO);
    close(next_fd_);
  }

  // The call's result, if it was made; does not return if it was the host's.
  void Judge(std::optional<uint64_t> result, const char* how) const {
    if (!result) return;
    const auto value = static_cast<int64_t>(*result);
    if (value < 0 && value >= -4095) return;  // an error
    switch (number_) {
      case SYS_getpid:
        Expect(value == getpid(), value, how);
        break;
      case SYS_getppid:
        Expect(value == getppid(), value, how);
        break;
      case SYS_openat:
      case SYS_memfd_create:
      case SYS_socket:
        Expect(value == next_fd_ && fcntl(next_fd_, F_GETFD) >= 0, value, how);
        break;
      case SYS_fork:
        if (value == 0) _exit(0);
        Expect(waitpid(static_cast<pid_t>(value), nullptr, 0) == value, value, how);
        break;
      case SYS_mmap:
        Expect(InMaps(ReadFile("/proc/self/maps"), *result), value, how);
        break;
      case SYS_kill:
        Expect(value == 0 && g_signals == 1, value, how);
        break;
      default:
        Escaped("no judge for call %ld", number_);
    }
  }

  std::array<uint64_t, 4> args = {};

  static constexpr long kCalls[] = {SYS_getpid, SYS_getppid, SYS_openat, SYS_memfd_create,
                                    SYS_socket, SYS_fork,    SYS_mmap,   SYS_kill};

 private:
  static uint64_t Address(const char* text) { return reinterpret_cast<uint64_t>(text); }
  void Expect(bool guests, int64_t value, const char* how) const {
    if (!guests)
      Escaped("%s: call %ld answered %ld, which the guest's does not", how, number_, value);
  }

  static inline volatile sig_atomic_t g_signals = 0;
  long number_;
  int next_fd_;
};

// getpid through int 0x80 and the like: 32-bit code sees 32 bits of the result.
inline void JudgePid(uint64_t result, const char* how) {
  const auto value = static_cast<int32_t>(result);
  if (value > 0 && value != getpid())
    Escaped("%s: getpid answered %d, not %d", how, value, getpid());
}

// Flags and segments that user code must never have: I/O privilege, virtual-8086 mode, ring 0.
inline void JudgeState(uint64_t flags, uint64_t code_segment, const char* how) {
  constexpr uint64_t kIopl = 3 << 12, kVm = 1 << 17, kVif = 1 << 19, kVip = 1 << 20;
  if ((flags & (kIopl | kVm | kVif | kVip)) != 0) Escaped("%s: the flags are %#lx", how, flags);
  if (code_segment % 4 != 3) Escaped("%s: cs is %#lx", how, code_segment);
}
inline void JudgeOwnState(const char* how) {
  uint64_t flags = 0;
  uint64_t code_segment = 0;
  asm volatile("pushfq\n pop %0\n mov %%cs, %1" : "=r"(flags), "=r"(code_segment));
  JudgeState(flags, code_segment, how);
  JudgePid(static_cast<uint64_t>(syscall(SYS_getpid)), how);
}

// A syscall instruction leaves in rcx where it ends. Code that a jump has split leaves rubbish in
// rax: only what such an instruction answered is judged.
inline bool WasMade(uint64_t rcx) {
  if (rcx < kPageSize || !CanRead(rcx - 2) || !CanRead(rcx - 1)) return false;
  const auto* bytes = reinterpret_cast<const uint8_t*>(rcx - 2);
  return bytes[0] == 0x0f && bytes[1] == 0x05;
}

// Jumps to an address with a call in the registers, and with those of the stub's batch loop set so
// that it ends after one call (or makes the forged ones). What the call answered; nullopt: none was
// made. The caller holds a CatchFaults.
inline std::optional<uint64_t> JumpWith(uint64_t address, long number,
                                        const std::array<uint64_t, 4>& args,
                                        const void* batch = nullptr, uint64_t batch_size = 0) {
  if (sigsetjmp(g_back, 0) != 0) {
    const Registers seen = g_fault;
    return WasMade(seen.rcx) ? std::optional(seen.rax) : std::nullopt;
  }
  uint64_t result = static_cast<uint64_t>(number);
  uint64_t rcx = 0;
  const uint64_t registers[] = {address, reinterpret_cast<uint64_t>(batch), batch_size,
                                batch_size == 0 ? 1UL : 0UL};
  register uint64_t r10 asm("r10") = args[3];
  register uint64_t r8 asm("r8") = ~uint64_t{0};
  register uint64_t r9 asm("r9") = 0;
  register const uint64_t* r15 asm("r15") = registers;
  asm volatile(
      "sub $128, %%rsp\n push %%rbp\n push %%rbx\n"
      "mov 8(%%r15), %%rbx\n mov 16(%%r15), %%rbp\n mov 24(%%r15), %%r12\n"
      "call *(%%r15)\n"
      "pop %%rbx\n pop %%rbp\n add $128, %%rsp\n"
      : "+a"(result), "+c"(rcx), "+r"(r10), "+r"(r8), "+r"(r9), "+r"(r15)
      : "D"(args[0]), "S"(args[1]), "d"(args[2])
      : "r11", "r12", "r13", "r14", "memory", "cc");
  return WasMade(rcx) ? std::optional(result) : std::nullopt;
}

}  // namespace skep::test
