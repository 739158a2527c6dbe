// Every call number at every address of the stub's code, through all filters of each kind of
// thread.
#include "platform/notify/filters.h"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <algorithm>
#include <csignal>
#include <map>

#include "platform/notify/bpf.h"
#include "platform/stub/notify_stub.h"

namespace skep::platform::notify {
namespace {

const NotifyAddresses kStub = AddressesOfNotifyStub();

class Thread {
 public:
  explicit Thread(std::vector<std::vector<sock_filter>> filters) : filters_(std::move(filters)) {}
  // The strictest of all, as Linux: kernel/seccomp.c, seccomp_run_filters.
  uint32_t Ask(const seccomp_data& call) const {
    uint32_t strictest = SECCOMP_RET_ALLOW;
    for (const auto& filter : filters_) {
      const uint32_t action = RunFilter(filter, call);
      if (static_cast<int32_t>(action & SECCOMP_RET_ACTION_FULL) <
          static_cast<int32_t>(strictest & SECCOMP_RET_ACTION_FULL)) {
        strictest = action;
      }
    }
    return strictest;
  }

 private:
  std::vector<std::vector<sock_filter>> filters_;
};

const Thread& Root() {
  static const Thread thread({BaseFilter()});
  return thread;
}
const Thread& Manager() {
  static const Thread thread({BaseFilter(), ManagerFilter()});
  return thread;
}
const Thread& Guest() {
  static const Thread thread({BaseFilter(), GuestFilter()});
  return thread;
}

seccomp_data Call(int number, uint64_t ip, std::initializer_list<uint64_t> args = {},
                  uint32_t arch = AUDIT_ARCH_X86_64) {
  seccomp_data call = {.nr = number, .arch = arch, .instruction_pointer = ip, .args = {}};
  std::copy(args.begin(), args.end(), call.args);
  return call;
}

const uint64_t kSequence = kStubCommands + offsetof(NotifyCommands, sequence);
const uint64_t kStack = kStubCommands + offsetof(NotifyCommands, stack);
const uint64_t kMillisecond = kNotifyShared + offsetof(NotifyShared, millisecond);
const uint64_t kMessage = kNotifyShared + offsetof(NotifyShared, message);

// What stub code does, in full.
struct Row {
  seccomp_data call;
  bool by_root, by_manager, by_guest = false;
};
std::vector<Row> Rows() {
  return {
      {Call(SYS_mmap, kStub.after_call, {1, 2, 3, MAP_SHARED | MAP_FIXED}), true, true},
      {Call(SYS_mmap, kStub.after_call, {1, 2, 3, MAP_SHARED | MAP_FIXED | MAP_POPULATE}), true,
       true},
      {Call(SYS_munmap, kStub.after_call), true, true},
      {Call(SYS_mprotect, kStub.after_call), true, true},
      {Call(SYS_close, kStub.after_call), true, true},
      {Call(SYS_clone, kStub.after_call, {kCloneStub}), true, false},
      {Call(SYS_clone, kStub.after_call, {kCloneThread}), true, false},
      {Call(SYS_prctl, kStub.after_call, {PR_SET_PDEATHSIG, SIGKILL}), true, false},
      {Call(SYS_futex, kStub.after_futex, {kSequence, FUTEX_WAIT}), true, false},
      {Call(SYS_sendto, kStub.after_send, {kStubSocket, 5, 1, MSG_NOSIGNAL}), true, false},
      {Call(SYS_sendmsg, kStub.after_send_listener, {kStubSocket, kMessage, MSG_NOSIGNAL}), true,
       false},
      {Call(SYS_futex, kStub.after_wait_listener, {kSequence, FUTEX_WAIT, 3, kMillisecond}), true,
       false},
      {Call(SYS_restart_syscall, kStub.after_wait_listener), true, false},
      {Call(SYS_futex, kStub.after_wake, {kSequence, FUTEX_WAKE, 1}), true, true, true},
      {Call(SYS_close, kStub.after_close_listener, {kListenerSlot}), true, false},
      {Call(SYS_sigaltstack, kStub.after_sigaltstack, {kStack}), true, false},
      {Call(SYS_seccomp, kStub.after_seccomp, {1, 40, kNotifyShared}), true, false},
      {Call(SYS_seccomp, kStub.after_seccomp, {1, 40, kNotifyShared + 16}), true, false},
      {Call(SYS_exit_group, kStub.after_exit_group), true, true},
  };
}

TEST(NotifyFilters, StubCodeMayMakeItsCalls) {
  for (const Row& row : Rows()) {
    EXPECT_EQ(Root().Ask(row.call) == SECCOMP_RET_ALLOW, row.by_root) << row.call.nr;
    EXPECT_EQ(Manager().Ask(row.call) == SECCOMP_RET_ALLOW, row.by_manager) << row.call.nr;
    EXPECT_EQ(Guest().Ask(row.call), row.by_guest ? SECCOMP_RET_ALLOW : SECCOMP_RET_KILL_PROCESS)
        << row.call.nr;
  }
  EXPECT_EQ(Manager().Ask(Call(kManagerCall, kStub.after_manager)), SECCOMP_RET_USER_NOTIF);
  EXPECT_EQ(Guest().Ask(Call(kEventCall, kStub.after_event)), SECCOMP_RET_USER_NOTIF);
  EXPECT_EQ(Guest().Ask(Call(SYS_rt_sigreturn, kStub.after_sigreturn)), SECCOMP_RET_ALLOW);
}

// Every argument that a row looks at, changed in each half.
TEST(NotifyFilters, ArgumentsAreLookedAtInFull) {
  const std::map<long, std::vector<int>> looked_at = {
      {SYS_mmap, {3}},           {SYS_clone, {0, 1}},        {SYS_prctl, {0, 1}},
      {SYS_futex, {0, 1}},       {SYS_sendto, {0, 2, 3, 4}}, {SYS_sendmsg, {0, 1, 2}},
      {SYS_sigaltstack, {0, 1}}, {SYS_seccomp, {0, 1, 2}}};
  for (const Row& row : Rows()) {
    const auto found = looked_at.find(row.call.nr);
    if (found == looked_at.end()) continue;
    for (const int arg : found->second) {
      for (const uint64_t bit :
           {uint64_t{1} << 6, uint64_t{1} << 12, uint64_t{1} << 33, uint64_t{1} << 63}) {
        seccomp_data call = row.call;
        call.args[arg] ^= bit;
        EXPECT_EQ(Root().Ask(call), SECCOMP_RET_KILL_PROCESS) << call.nr << " " << arg;
      }
    }
  }
}

TEST(NotifyFilters, AnAddressAloneAllowsNothing) {
  const std::vector<Row> rows = Rows();
  for (uint64_t ip = kStubCode; ip < kStubCode + kPageSize + 64; ++ip) {
    for (int number = -1; number <= 600; ++number) {
      const bool is_event = ip == kStub.after_event && number == static_cast<int>(kEventCall);
      const bool is_return = ip == kStub.after_sigreturn && number == SYS_rt_sigreturn;
      const uint32_t action = Guest().Ask(Call(number, ip));
      ASSERT_EQ(action, is_event    ? SECCOMP_RET_USER_NOTIF
                        : is_return ? SECCOMP_RET_ALLOW
                                    : SECCOMP_RET_KILL_PROCESS)
          << number << " at " << ip - kStubCode;
      // Roots and managers may make only calls that a row of this address has.
      const bool known = std::any_of(rows.begin(), rows.end(), [&](const Row& row) {
        return row.call.nr == number && row.call.instruction_pointer == ip;
      });
      if (!known && !is_return) {
        ASSERT_EQ(Root().Ask(Call(number, ip)), SECCOMP_RET_KILL_PROCESS) << number;
        ASSERT_EQ(Manager().Ask(Call(number, ip)), SECCOMP_RET_KILL_PROCESS) << number;
      }
    }
  }
}

TEST(NotifyFilters, OtherAbisInTheStubsCodeAreKilled) {
  for (uint64_t ip = kStubCode; ip < kStubCode + kPageSize; ++ip) {
    for (int number = -1; number <= 600; ++number) {
      ASSERT_EQ(Guest().Ask(Call(number, ip, {}, AUDIT_ARCH_I386)), SECCOMP_RET_KILL_PROCESS);
      ASSERT_EQ(Guest().Ask(Call(number | 0x4000'0000, ip)), SECCOMP_RET_KILL_PROCESS);
      ASSERT_EQ(Manager().Ask(Call(number, ip, {}, AUDIT_ARCH_I386)), SECCOMP_RET_KILL_PROCESS);
    }
  }
}

TEST(NotifyFilters, NothingOfAGuestIsAllowed) {
  for (const uint64_t ip :
       {uint64_t{0x1000}, uint64_t{0x40'0002}, uint64_t{0x5555'5555'5555}, kGuestAddressEnd - 2,
        kStubCode - 2, kStub.after_sigreturn & 0xffff'ffff, kStub.after_event - (uint64_t{1} << 32),
        uint64_t{0xffff'ffff'ff60'0400}, uint64_t{0xffff'ffff'ff60'0800}}) {
    for (int number = -1; number <= 600; ++number) {
      uint32_t action = Guest().Ask(Call(number, ip));
      ASSERT_TRUE(action == SECCOMP_RET_USER_NOTIF || action == SECCOMP_RET_TRAP) << number;
      if (ip >> 32 == 0xffff'ffff) {
        ASSERT_EQ(action, SECCOMP_RET_TRAP);
      }
      ASSERT_EQ(Guest().Ask(Call(number, ip, {}, AUDIT_ARCH_I386)), SECCOMP_RET_TRAP);
      if (number >= 0) {
        ASSERT_EQ(Guest().Ask(Call(number | 0x4000'0000, ip)), SECCOMP_RET_TRAP);
      }
    }
    ASSERT_EQ(Guest().Ask(Call(SYS_clone, ip)), SECCOMP_RET_TRAP);
  }
  EXPECT_EQ(Guest().Ask(Call(SYS_getpid, 0x40'0002)), SECCOMP_RET_USER_NOTIF);
  EXPECT_EQ(Guest().Ask(Call(-1, 0x40'0002)), SECCOMP_RET_USER_NOTIF);
}

}  // namespace
}  // namespace skep::platform::notify
