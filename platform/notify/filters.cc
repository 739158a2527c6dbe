#include "platform/notify/filters.h"

#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <csignal>
#include <functional>

#include "base/missing_defs.h"
#include "platform/common/map_call.h"
#include "platform/notify/bpf.h"
#include "platform/stub/notify_stub.h"

namespace skep::platform::notify {

const uint64_t kCloneStub = CLONE_FILES | CLONE_PARENT | SIGCHLD;
const uint64_t kCloneThread =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

namespace {

constexpr uint32_t kX32Bit = 0x4000'0000;
constexpr uint32_t kNegative = 0x8000'0000;
constexpr uint64_t kVsyscallHigh = 0xffff'ffff;
constexpr uint64_t kStubHigh = kStubCode >> 32;
static_assert(kNotifyStacksEnd >> 32 == kStubHigh);

constexpr uint64_t kSequence = kStubCommands + offsetof(NotifyCommands, sequence);

uint64_t Low(uint64_t address) { return address & 0xffff'ffff; }

// The low half of the address is loaded: if it is `after`, the call is judged by `rows`, each of
// which may allow it, and killed if none did; else goes on, with the half still loaded.
void At(Bpf& f, uint64_t after, const std::function<void()>& rows) {
  const Bpf::Label other = f.NewLabel();
  f.UnlessEqual(Low(after), other);
  rows();
  f.Return(SECCOMP_RET_KILL_PROCESS);
  f.Place(other);
}

// Allows one number; `judge` jumps to its label to refuse.
void Row(Bpf& f, long number, const std::function<void(Bpf::Label)>& judge = {}) {
  const Bpf::Label other = f.NewLabel();
  f.LoadNumber();
  f.UnlessEqual(static_cast<uint64_t>(number), other);
  if (judge) judge(other);
  f.Return(SECCOMP_RET_ALLOW);
  f.Place(other);
}

// Refuses unless the argument is one of two small values.
void OneOf(Bpf& f, size_t arg, uint64_t one, uint64_t two, Bpf::Label no) {
  const Bpf::Label yes = f.NewLabel();
  f.LoadArgHigh(arg);
  f.UnlessEqual(0, no);
  f.LoadArgLow(arg);
  f.IfEqual(one, yes);
  f.UnlessEqual(two, no);
  f.Place(yes);
}

void BatchRows(Bpf& f) {
  Row(f, SYS_mmap, [&](Bpf::Label no) { OneOf(f, 3, kMapFlags, kMapPopulateFlags, no); });
  Row(f, SYS_munmap);
  Row(f, SYS_mprotect);
  Row(f, SYS_close);
  Row(f, SYS_clone, [&](Bpf::Label no) {
    OneOf(f, 0, kCloneStub, kCloneThread, no);
    f.UnlessArg(1, 0, no);
  });
  Row(f, SYS_prctl, [&](Bpf::Label no) {
    f.UnlessArg(0, PR_SET_PDEATHSIG, no);
    f.UnlessArg(1, SIGKILL, no);
  });
}

void BaseRows(Bpf& f) {
  const NotifyAddresses stub = AddressesOfNotifyStub();
  const auto only = [&](uint64_t after, long number,
                        const std::function<void(Bpf::Label)>& judge = {}) {
    At(f, after, [&] { Row(f, number, judge); });
  };
  // In the order of how often they are made.
  only(stub.after_event, kEventCall);
  only(stub.after_sigreturn, SYS_rt_sigreturn);
  only(stub.after_manager, kManagerCall);
  At(f, stub.after_call, [&] { BatchRows(f); });
  only(stub.after_futex, SYS_futex, [&](Bpf::Label no) {
    f.UnlessArg(0, kSequence, no);
    f.UnlessArg(1, FUTEX_WAIT, no);
  });
  only(stub.after_send, SYS_sendto, [&](Bpf::Label no) {
    f.UnlessArg(0, kStubSocket, no);
    f.UnlessArg(2, 1, no);
    f.UnlessArg(3, MSG_NOSIGNAL, no);
    f.UnlessArg(4, 0, no);
  });
  only(stub.after_send_listener, SYS_sendmsg, [&](Bpf::Label no) {
    f.UnlessArg(0, kStubSocket, no);
    f.UnlessArg(1, kNotifyShared + offsetof(NotifyShared, message), no);
    f.UnlessArg(2, MSG_NOSIGNAL, no);
  });
  At(f, stub.after_wait_listener, [&] {
    Row(f, SYS_futex, [&](Bpf::Label no) {
      f.UnlessArg(0, kSequence, no);
      f.UnlessArg(1, FUTEX_WAIT, no);
      f.UnlessArg(3, kNotifyShared + offsetof(NotifyShared, millisecond), no);
    });
    Row(f, SYS_restart_syscall);  // after a freeze
  });
  only(stub.after_wake, SYS_futex, [&](Bpf::Label no) {
    f.UnlessArg(0, kSequence, no);
    f.UnlessArg(1, FUTEX_WAKE, no);
  });
  only(stub.after_close_listener, SYS_close,
       [&](Bpf::Label no) { f.UnlessArg(0, kListenerSlot, no); });
  only(stub.after_sigaltstack, SYS_sigaltstack, [&](Bpf::Label no) {
    f.UnlessArg(0, kStubCommands + offsetof(NotifyCommands, stack), no);
    f.UnlessArg(1, 0, no);
  });
  only(stub.after_seccomp, SYS_seccomp, [&](Bpf::Label no) {
    f.UnlessArg(0, SECCOMP_SET_MODE_FILTER, no);
    f.UnlessArg(1, SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, no);
    f.LoadArgHigh(2);
    f.UnlessEqual(kStubHigh, no);
    const Bpf::Label yes = f.NewLabel();
    f.LoadArgLow(2);
    f.IfEqual(Low(kNotifyShared), yes);
    f.UnlessEqual(Low(kNotifyShared + offsetof(NotifyShared, manager)), no);
    f.Place(yes);
  });
  only(stub.after_exit_group, SYS_exit_group);
}

}  // namespace

// Elsewhere than in the stub's code it allows: that is where guests are, whose own filter judges.
// (A thread without such a filter never leaves the stub's code.)
std::vector<sock_filter> BaseFilter() {
  const NotifyAddresses stub = AddressesOfNotifyStub();
  Bpf f;
  const Bpf::Label in_high = f.NewLabel(), in_page = f.NewLabel(), native = f.NewLabel();
  f.LoadIpHigh();
  f.IfEqual(kStubHigh, in_high);
  f.Return(SECCOMP_RET_ALLOW);
  f.Place(in_high);
  f.LoadIpLow();
  f.IfAtLeast(Low(stub.begin), in_page);
  f.Return(SECCOMP_RET_ALLOW);
  f.Place(in_page);
  f.LoadArch();
  f.IfEqual(AUDIT_ARCH_X86_64, native);
  f.Return(SECCOMP_RET_KILL_PROCESS);
  f.Place(native);
  f.LoadIpLow();
  BaseRows(f);
  f.Return(SECCOMP_RET_KILL_PROCESS);
  return f.Take();
}

std::vector<sock_filter> ManagerFilter() {
  const NotifyAddresses stub = AddressesOfNotifyStub();
  Bpf f;
  const Bpf::Label ask = f.NewLabel(), kill = f.NewLabel();
  f.LoadArch();
  f.UnlessEqual(AUDIT_ARCH_X86_64, kill);
  f.LoadIpHigh();
  f.UnlessEqual(kStubHigh, kill);
  f.LoadIpLow();
  At(f, stub.after_manager, [&] {
    f.LoadNumber();
    f.IfEqual(kManagerCall, ask);
  });
  At(f, stub.after_call, [&] {
    for (const long number : {SYS_mmap, SYS_munmap, SYS_mprotect, SYS_close}) Row(f, number);
  });
  At(f, stub.after_wake, [&] { Row(f, SYS_futex); });
  At(f, stub.after_exit_group, [&] { Row(f, SYS_exit_group); });
  f.Place(kill);
  f.Return(SECCOMP_RET_KILL_PROCESS);
  f.Place(ask);
  f.Return(SECCOMP_RET_USER_NOTIF);
  return f.Take();
}

namespace {

// What a guest's own call is answered with, by its number.
void GuestNumbers(Bpf& f) {
  // Each ends with its registers changed, or with a signal's frame, or with the end of its thread.
  constexpr long kWithRegisters[] = {
      SYS_rt_sigreturn,  SYS_clone,       SYS_fork,       SYS_vfork,      SYS_execve,   SYS_exit,
      SYS_rt_sigsuspend, SYS_sigaltstack, SYS_arch_prctl, SYS_exit_group, SYS_execveat, SYS_clone3};
  const Bpf::Label trap = f.NewLabel(), ask = f.NewLabel(), no_number = f.NewLabel();
  f.LoadNumber();
  f.IfAtLeast(kX32Bit, no_number);
  for (const long number : kWithRegisters) f.IfEqual(static_cast<uint64_t>(number), trap);
  f.Place(ask);
  f.Return(SECCOMP_RET_USER_NOTIF);
  // A negative number is none of any ABI; others of this size are x32's.
  f.Place(no_number);
  const Bpf::Label negative = f.NewLabel();
  f.IfAtLeast(kNegative, negative);
  f.Place(trap);
  f.Return(SECCOMP_RET_TRAP);
  f.Place(negative);
  f.Return(SECCOMP_RET_USER_NOTIF);
}

}  // namespace

std::vector<sock_filter> GuestFilter() {
  const NotifyAddresses stub = AddressesOfNotifyStub();
  Bpf f;
  const Bpf::Label trap = f.NewLabel(), in_high = f.NewLabel(), in_stub = f.NewLabel();
  f.LoadArch();
  f.UnlessEqual(AUDIT_ARCH_X86_64, trap);
  f.LoadIpHigh();
  f.IfEqual(kStubHigh, in_high);
  f.IfEqual(kVsyscallHigh, trap);
  GuestNumbers(f);
  f.Place(in_high);
  f.LoadIpLow();
  f.IfAtLeast(Low(stub.begin), in_stub);
  GuestNumbers(f);
  f.Place(in_stub);
  At(f, stub.after_event, [&] {
    const Bpf::Label no = f.NewLabel();
    f.LoadNumber();
    f.UnlessEqual(kEventCall, no);
    f.Return(SECCOMP_RET_USER_NOTIF);
    f.Place(no);
  });
  At(f, stub.after_sigreturn, [&] { Row(f, SYS_rt_sigreturn); });
  // How a new thread tells its root that it is ready; the base filter looks at the arguments.
  At(f, stub.after_wake, [&] { Row(f, SYS_futex); });
  f.Return(SECCOMP_RET_KILL_PROCESS);
  f.Place(trap);
  f.Return(SECCOMP_RET_TRAP);
  return f.Take();
}

}  // namespace skep::platform::notify
