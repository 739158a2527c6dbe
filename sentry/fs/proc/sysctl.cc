// /proc/sys (Linux: fs/proc/proc_sysctl.c).
#include <fmt/format.h>
#include <sys/syscall.h>
#include <array>

#include "base/host_call.h"
#include "sentry/fs/proc/subject.h"
#include "sentry/kernel/system_info.h"

namespace skep::fs {
namespace {

// Modes hold for everybody, root included, and are judged by the effective ids (Linux: test_perm).
class Sysctl final : public PseudoFile {
 public:
  using Read = std::string (*)(ProcFs& fs, std::string_view constant, vfs::Caller& caller);
  using Write = Result<void> (*)(ProcFs& fs, std::string_view text, vfs::Caller& caller);
  Sysctl(ProcFs& fs, uint32_t mode, std::string_view constant, Read read, Write write)
      : PseudoFile(fs, fs.NextIno(), S_IFREG | mode),
        proc_(fs),
        constant_(constant),
        read_(read),
        write_(write) {}

  Result<void> CheckPermission(const auth::Credentials& creds, int mask) override {
    uint32_t bits = mode();
    if (creds.euid == 0) {
      bits >>= 6;
    } else if (creds.egid == 0 || creds.InGroup(0)) {
      bits >>= 3;
    }
    return (static_cast<uint32_t>(mask) & ~bits & 7) == 0 ? Result<void>() : Fail(EACCES);
  }
  Result<std::string> Text(vfs::Caller& caller, const vfs::File&) override {
    return read_(proc_, constant_, caller);
  }
  Result<void> Store(vfs::Caller& caller, std::string_view text) override {
    return write_ == nullptr ? Fail(EPERM) : write_(proc_, text, caller);
  }

 private:
  ProcFs& proc_;
  const std::string_view constant_;  // a literal
  const Read read_;
  const Write write_;
};

std::string Constant(ProcFs&, std::string_view text, vfs::Caller&) {
  return std::string(text) + "\n";
}

// What a name may be set to: up to a newline or NUL (Linux: proc_dostring of UTS names).
std::string NameIn(std::string_view text) {
  constexpr size_t kMaxName = 64;
  const size_t end = text.find_first_of(std::string_view("\n\0", 2));
  return std::string(text.substr(0, end).substr(0, kMaxName));
}

// The reading task's namespace (Linux: get_uts). ESRCH: the reader is no task.
Result<Ref<kernel::UtsNamespace>> UtsOf(vfs::Caller& caller) {
  const kernel::Task* task = TaskOf(caller);
  if (task == nullptr) return Fail(ESRCH);
  return task->namespaces->uts;
}

std::string Hostname(ProcFs&, std::string_view, vfs::Caller& caller) {
  const auto uts = UtsOf(caller);
  return (uts ? (*uts)->hostname() : std::string()) + "\n";
}
Result<void> SetHostname(ProcFs&, std::string_view text, vfs::Caller& caller) {
  const Ref<kernel::UtsNamespace> uts = TRY(UtsOf(caller));
  uts->SetHostname(NameIn(text));
  return {};
}
std::string Domainname(ProcFs&, std::string_view, vfs::Caller& caller) {
  const auto uts = UtsOf(caller);
  return (uts ? (*uts)->domainname() : std::string()) + "\n";
}
Result<void> SetDomainname(ProcFs&, std::string_view text, vfs::Caller& caller) {
  const Ref<kernel::UtsNamespace> uts = TRY(UtsOf(caller));
  uts->SetDomainname(NameIn(text));
  return {};
}
std::string BootId(ProcFs& fs, std::string_view, vfs::Caller&) { return fs.boot_id(); }
std::string Uuid(ProcFs&, std::string_view, vfs::Caller&) { return RandomUuid(); }
std::string Release(ProcFs&, std::string_view, vfs::Caller&) {
  return std::string(kernel::kRelease) + "\n";
}
std::string Version(ProcFs&, std::string_view, vfs::Caller&) {
  return std::string(kernel::kVersion) + "\n";
}

struct Row {
  std::string_view path, constant;
  uint32_t mode = 0444;
  Sysctl::Read read = Constant;
  Sysctl::Write write = nullptr;
};

constexpr Row kRows[] = {
    {"fs/aio-max-nr", "65536"},
    {"fs/aio-nr", "0"},
    {"fs/dentry-state", "0\t0\t45\t0\t0\t0"},
    {"fs/epoll/max_user_watches", "1000000"},
    {"fs/file-max", "9223372036854775807"},
    {"fs/file-nr", "0\t0\t9223372036854775807"},
    {"fs/inode-nr", "0\t0"},
    {"fs/inode-state", "0\t0\t0\t0\t0\t0\t0"},
    {"fs/inotify/max_queued_events", "16384"},
    {"fs/inotify/max_user_instances", "128"},
    {"fs/inotify/max_user_watches", "65536"},
    {"fs/lease-break-time", "45"},
    {"fs/leases-enable", "1"},
    {"fs/mount-max", "100000"},
    {"fs/nr_open", "1048576"},
    {"fs/overflowgid", "65534"},
    {"fs/overflowuid", "65534"},
    {"fs/pipe-max-size", "1048576"},
    {"fs/pipe-user-pages-hard", "0"},
    {"fs/pipe-user-pages-soft", "16384"},
    {"fs/protected_fifos", "0"},
    {"fs/protected_hardlinks", "1"},
    {"fs/protected_regular", "0"},
    {"fs/protected_symlinks", "0"},
    {"fs/suid_dumpable", "0"},
    {"kernel/cap_last_cap", "40"},
    {"kernel/core_pattern", "core"},
    {"kernel/core_uses_pid", "0"},
    {"kernel/dmesg_restrict", "1"},
    {"kernel/domainname", "", 0644, Domainname, SetDomainname},
    {"kernel/hostname", "", 0644, Hostname, SetHostname},
    {"kernel/kptr_restrict", "2"},
    {"kernel/msgmax", "8192"},
    {"kernel/msgmnb", "16384"},
    {"kernel/msgmni", "32000"},
    {"kernel/ngroups_max", "65536"},
    {"kernel/osrelease", "", 0444, Release},
    {"kernel/ostype", "Linux"},
    {"kernel/overflowgid", "65534"},
    {"kernel/overflowuid", "65534"},
    {"kernel/perf_event_paranoid", "4"},
    {"kernel/pid_max", "32768"},
    {"kernel/printk", "4\t4\t1\t7"},
    {"kernel/random/boot_id", "", 0444, BootId},
    {"kernel/random/entropy_avail", "256"},
    {"kernel/random/poolsize", "256"},
    {"kernel/random/urandom_min_reseed_secs", "60"},
    {"kernel/random/uuid", "", 0444, Uuid},
    {"kernel/random/write_wakeup_threshold", "256"},
    {"kernel/randomize_va_space", "2"},
    {"kernel/sem", "32000\t1024000000\t500\t32000"},
    {"kernel/shm_rmid_forced", "0"},
    {"kernel/shmall", "18446744073692774399"},
    {"kernel/shmmax", "18446744073692774399"},
    {"kernel/shmmni", "4096"},
    {"kernel/tainted", "0"},
    {"kernel/threads-max", "32768"},
    {"kernel/version", "", 0444, Version},
    {"net/core/optmem_max", "20480"},
    {"net/core/rmem_default", "212992"},
    {"net/core/rmem_max", "212992"},
    {"net/core/somaxconn", "4096"},
    {"net/core/wmem_default", "212992"},
    {"net/core/wmem_max", "212992"},
    {"net/ipv4/ip_forward", "0"},
    {"net/ipv4/ip_local_port_range", "32768\t60999"},
    {"net/ipv4/ip_unprivileged_port_start", "1024"},
    {"net/ipv4/tcp_fin_timeout", "60"},
    {"net/ipv4/tcp_keepalive_intvl", "75"},
    {"net/ipv4/tcp_keepalive_probes", "9"},
    {"net/ipv4/tcp_keepalive_time", "7200"},
    {"net/ipv4/tcp_rmem", "4096\t131072\t6291456"},
    {"net/ipv4/tcp_wmem", "4096\t16384\t4194304"},
    {"net/unix/max_dgram_qlen", "512"},
    {"vm/dirty_background_ratio", "10"},
    {"vm/dirty_ratio", "20"},
    {"vm/drop_caches", "0"},
    {"vm/max_map_count", "65530"},
    {"vm/min_free_kbytes", "67584"},
    {"vm/mmap_min_addr", "65536"},
    {"vm/nr_hugepages", "0"},
    {"vm/overcommit_kbytes", "0"},
    {"vm/overcommit_memory", "0"},
    {"vm/overcommit_ratio", "50"},
    {"vm/panic_on_oom", "0"},
    {"vm/swappiness", "60"},
    {"vm/vfs_cache_pressure", "100"},
};

}  // namespace

std::string RandomUuid() {
  std::array<uint8_t, 16> bytes{};
  (void)host::Call(SYS_getrandom, bytes.data(), bytes.size());
  bytes[6] = static_cast<uint8_t>((bytes[6] & 0x0f) | 0x40);  // random
  bytes[8] = static_cast<uint8_t>((bytes[8] & 0x3f) | 0x80);  // of RFC 4122
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", bytes[i]);
  }
  return text + "\n";
}

void AddSysctls(ProcFs& fs) {
  for (const Row& row : kRows) {
    fs.Add("sys/" + std::string(row.path),
           MakeRef<Sysctl>(fs, row.mode, row.constant, row.read, row.write));
  }
}

}  // namespace skep::fs
