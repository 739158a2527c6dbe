// The system as a whole: names, numbers, randomness.
#include <linux/capability.h>
#include <linux/random.h>
#include <sys/syscall.h>
#include <cstring>

#include "base/host_call.h"
#include "base/limits.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/system_info.h"
#include "sentry/syscalls/abi.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"

namespace skep::syscalls {
namespace {

Result<void> Uname(Task& task, UserPtr<utsname> address) {
  utsname out;
  memset(&out, 0, sizeof out);
  const auto put = [](char(&to)[65], std::string_view text) { text.copy(to, 64); };
  put(out.sysname, "Linux");
  put(out.release, kernel::kRelease);
  put(out.version, kernel::kVersion);
  put(out.machine, "x86_64");
  put(out.nodename, task.namespaces->uts->hostname());
  put(out.domainname, task.namespaces->uts->domainname());
  return task.mm->CopyOut(address, out);
}

Result<std::string> CopyInName(Task& task, UserPtr<const char> name, int32_t size) {
  if (!task.creds().HasIn(&task.namespaces->uts->owner(), CAP_SYS_ADMIN)) return Fail(EPERM);
  if (size < 0 || size > 64) return Fail(EINVAL);
  std::string text(static_cast<size_t>(size), '\0');
  TRY(task.mm->CopyInArray(name, std::span<char>(text)));
  return text;
}

Result<void> Sethostname(Task& task, UserPtr<const char> name, int32_t size) {
  std::string text = TRY(CopyInName(task, name, size));
  task.namespaces->uts->SetHostname(std::move(text));
  return {};
}

Result<void> Setdomainname(Task& task, UserPtr<const char> name, int32_t size) {
  std::string text = TRY(CopyInName(task, name, size));
  task.namespaces->uts->SetDomainname(std::move(text));
  return {};
}

Result<void> Sysinfo(Task& task, UserPtr<AbiSysinfo> out) {
  const kernel::MemoryTotals memory = kernel::TotalsOf(task.kernel);
  AbiSysinfo info{};
  info.uptime = static_cast<int64_t>(kernel::UptimeNs(task.kernel) / 1'000'000'000);
  info.totalram = memory.total;
  info.freeram = memory.free;
  info.sharedram = 0;
  info.mem_unit = 1;
  {
    TasksLock lock(task.kernel);
    info.procs = static_cast<uint16_t>(task.kernel.task_count());
  }
  return task.mm->CopyOut(out, info);
}

Result<int64_t> Getrandom(Task& task, UserPtr<uint8_t> out, uint64_t size, uint32_t flags) {
  if ((flags & ~(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE)) != 0) return Fail(EINVAL);
  if ((flags & (GRND_RANDOM | GRND_INSECURE)) == (GRND_RANDOM | GRND_INSECURE)) return Fail(EINVAL);
  size = std::min<uint64_t>(size, INT32_MAX);
  std::array<std::byte, 512> block;
  uint64_t done = 0;
  while (done < size) {
    const auto part = std::span(block).first(std::min<uint64_t>(block.size(), size - done));
    TRY(host::Call(SYS_getrandom, part.data(), part.size(), 0));
    const mm::CopyResult copied = task.mm->CopyOut(out.addr() + done, part);
    done += copied.bytes;
    if (copied.fault != 0) break;
    if (task.fiber->interrupted() && done >= 256) break;
  }
  if (done == 0 && size != 0) return Fail(EFAULT);
  return static_cast<int64_t>(done);
}

// Linux: do_syslog. The log is empty, and kernel.dmesg_restrict is 1.
Result<int32_t> Syslog(Task& task, int32_t type, UserPtr<char>, int32_t) {
  constexpr int32_t kSizeBuffer = 10;
  if (!task.creds().HasInFirst(CAP_SYSLOG)) return Fail(EPERM);
  if (type < 0 || type > kSizeBuffer) return Fail(EINVAL);
  if (type == kSizeBuffer) return 1 << 14;
  return 0;
}

Result<void> Reboot(Task& task, uint32_t magic, uint32_t magic2, uint32_t, uint64_t) {
  if (!task.creds().HasIn(&task.pid_namespace().owner(), CAP_SYS_BOOT)) return Fail(EPERM);
  if (magic != 0xfee1dead ||
      (magic2 != 672274793 && magic2 != 85072278 && magic2 != 369367448 && magic2 != 537993216)) {
    return Fail(EINVAL);
  }
  return Fail(EPERM);  // a container's reboot is its runtime's business
}

constexpr Row kRows[] = {
    Full<Uname>(SYSCALL(uname)),
    Full<Sysinfo>(SYSCALL(sysinfo)),
    Partial<Syslog>(SYSCALL(syslog), "the log is empty"),
    Refused(SYSCALL(vhangup), EPERM, "as without CAP_SYS_TTY_CONFIG"),
    Refused(SYSCALL(acct), EPERM, "as without CAP_SYS_PACCT"),
    Partial<Reboot>(SYSCALL(reboot), "always refused"),
    Full<Sethostname>(SYSCALL(sethostname)),
    Full<Setdomainname>(SYSCALL(setdomainname)),
    Full<Getrandom>(SYSCALL(getrandom)),
};

}  // namespace

constinit const std::span<const Row> kSystemRows = kRows;

}  // namespace skep::syscalls
