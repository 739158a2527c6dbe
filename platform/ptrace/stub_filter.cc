#include "platform/ptrace/stub_filter.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <cstddef>

#include "platform/common/map_call.h"
#include "platform/stub/stub.h"

namespace skep::platform::ptrace {

const uint64_t kCloneStub = CLONE_FILES | CLONE_PARENT | CLONE_PTRACE | SIGCHLD;
const uint64_t kCloneThread =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PTRACE;

namespace {

constexpr uint32_t kLow = 0, kHigh = 4;  // of a 64-bit word of seccomp_data

class Filter {
 public:
  void Load(size_t offset) {
    code_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)));
  }
  void LoadArg(size_t arg, uint32_t half) { Load(offsetof(seccomp_data, args) + 8 * arg + half); }
  // Goes on if the loaded word is `value`, else skips `count` instructions.
  void UnlessSkip(uint64_t value, uint8_t count) {
    code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(value), 0, count));
  }
  void IfSkip(uint64_t value, uint8_t count) {
    code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(value), count, 0));
  }
  void Return(uint32_t action) { code_.push_back(BPF_STMT(BPF_RET | BPF_K, action)); }
  void Allow() { Return(SECCOMP_RET_ALLOW); }
  void Trap() { Return(SECCOMP_RET_TRAP); }

  // The loaded word is the call's number: `number` is allowed if arg is one of two values.
  void Row(long number, size_t arg, uint64_t one, uint64_t other) {
    UnlessSkip(static_cast<uint64_t>(number), 7);
    LoadArg(arg, kHigh);
    UnlessSkip(0, 4);
    LoadArg(arg, kLow);
    IfSkip(one, 1);
    UnlessSkip(other, 1);
    Allow();
    Trap();
  }
  void Row(long number) {
    UnlessSkip(static_cast<uint64_t>(number), 1);
    Allow();
  }
  // Only calls of the instruction before `address` go on.
  void At(uint64_t address, uint8_t skip) {
    Load(offsetof(seccomp_data, instruction_pointer) + kHigh);
    UnlessSkip(address >> 32, static_cast<uint8_t>(skip + 2));
    Load(offsetof(seccomp_data, instruction_pointer) + kLow);
    UnlessSkip(address & 0xffff'ffff, skip);
  }

  size_t size() const { return code_.size(); }
  void Append(const Filter& other) {
    code_.insert(code_.end(), other.code_.begin(), other.code_.end());
  }
  std::vector<sock_filter> Take() { return std::move(code_); }

 private:
  std::vector<sock_filter> code_;
};

}  // namespace

std::vector<sock_filter> StubFilter() {
  const StubAddresses stub = AddressesOfStub();
  Filter rows;
  rows.Load(offsetof(seccomp_data, nr));
  rows.Row(SYS_mmap, 3, kMapFlags, kMapPopulateFlags);
  rows.Row(SYS_munmap);
  rows.Row(SYS_mprotect);
  rows.Row(SYS_clone, 0, kCloneStub, kCloneThread);
  rows.Row(SYS_recvmsg);
  rows.Row(SYS_close);

  Filter f;
  f.Load(offsetof(seccomp_data, arch));
  f.IfSkip(AUDIT_ARCH_X86_64, 1);
  f.Trap();
  f.At(stub.after_exit, 4);
  f.Load(offsetof(seccomp_data, nr));
  f.UnlessSkip(SYS_exit, 1);
  f.Allow();
  f.Trap();
  f.At(stub.after_syscall, static_cast<uint8_t>(rows.size()));
  f.Append(rows);
  f.Trap();
  return f.Take();
}

}  // namespace skep::platform::ptrace
