// What /proc says of the machine: memory, processors, time, and what is not there.
#include <fmt/format.h>
#include <algorithm>
#include <iterator>

#include "sentry/fs/proc/process.h"
#include "sentry/kernel/cpu_time.h"
#include "sentry/kernel/file_systems.h"
#include "sentry/kernel/system_info.h"

namespace skep::fs {
namespace {

constexpr uint64_t kTickNs = 10'000'000;  // USER_HZ is 100
constexpr uint64_t kSecondNs = 1'000'000'000;

template <class... Args>
void Append(std::string& text, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
}

struct Processes {
  size_t running = 0, tasks = 0;
  int last_pid = 0;
  uint64_t user_ns = 0, system_ns = 0, switches = 0;
};

Processes Count(ProcFs& fs) {
  kernel::Kernel& kernel = fs.kernel();
  Processes count;
  TasksLock lock(kernel);
  count.last_pid = fs.pids().last_pid();
  const auto add = [&](const kernel::Usage& usage) {
    count.user_ns += usage.user_ns;
    count.system_ns += usage.system_ns;
    count.switches += usage.voluntary_switches + usage.involuntary_switches;
  };
  add(kernel.ended());
  kernel.pid_namespace->ForEachGroup([&](kernel::ThreadGroup& group) REQUIRES(tasks) {
    for (kernel::Task* task : group.threads) {
      add(kernel::UsageOf(*task));
      ++count.tasks;
      if (StateOf(*task) == 'R') ++count.running;
    }
  });
  count.running = std::max<size_t>(count.running, 1);
  count.tasks = std::max<size_t>(count.tasks, 1);
  return count;
}

uint64_t IdleNs(ProcFs& fs, const Processes& count) {
  const uint64_t all = kernel::UptimeNs(fs.kernel()) * static_cast<uint64_t>(fs.cpu_count());
  return all - std::min(all, count.user_ns + count.system_ns);
}

std::string StatText(ProcFs& fs) {
  kernel::Kernel& kernel = fs.kernel();
  const Processes count = Count(fs);
  const uint64_t idle = IdleNs(fs, count);
  const auto cpus = static_cast<uint64_t>(fs.cpu_count());
  std::string text;
  const auto line = [&](const std::string& name, uint64_t share) {
    Append(text, "{} {} 0 {} {} 0 0 0 0 0 0\n", name, count.user_ns / kTickNs / share,
           count.system_ns / kTickNs / share, idle / kTickNs / share);
  };
  line("cpu ", 1);
  for (uint64_t cpu = 0; cpu < cpus; ++cpu) line(fmt::format("cpu{}", cpu), cpus);
  Append(text, "intr 0\nctxt {}\nbtime {}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\n",
         count.switches, kernel.boot_realtime_ns() / kSecondNs, kernel.forks() + 1, count.running);
  text += "softirq 0 0 0 0 0 0 0 0 0 0 0\n";
  return text;
}

std::string UptimeText(ProcFs& fs) {
  const uint64_t up = kernel::UptimeNs(fs.kernel());
  const uint64_t idle = IdleNs(fs, Count(fs));
  return fmt::format("{}.{:02} {}.{:02}\n", up / kSecondNs, up % kSecondNs / kTickNs,
                     idle / kSecondNs, idle % kSecondNs / kTickNs);
}

std::string LoadavgText(ProcFs& fs) {
  const Processes count = Count(fs);
  const std::array<double, 3> load = fs.SampleLoad(count.running - 1);  // without the reader
  return fmt::format("{:.2f} {:.2f} {:.2f} {}/{} {}\n", load[0], load[1], load[2], count.running,
                     count.tasks, count.last_pid);
}

std::string MeminfoText(ProcFs& fs) {
  const kernel::MemoryTotals totals = kernel::TotalsOf(fs.kernel());
  const uint64_t used = fs.kernel().memory ? fs.kernel().memory->UsedBytes() : 0;
  std::string text;
  const auto line = [&](std::string_view name, uint64_t bytes) {
    Append(text, "{:<15} {:>8} kB\n", name, bytes >> 10);
  };
  line("MemTotal:", totals.total);
  line("MemFree:", totals.free);
  line("MemAvailable:", totals.available);
  for (const char* name : {"Buffers:", "Cached:", "SwapCached:"}) line(name, 0);
  line("Active:", used);
  line("Inactive:", 0);
  line("Active(anon):", used);
  for (const char* name : {"Inactive(anon):", "Active(file):", "Inactive(file):", "Unevictable:",
                           "Mlocked:", "SwapTotal:", "SwapFree:", "Dirty:", "Writeback:"}) {
    line(name, 0);
  }
  line("AnonPages:", used);
  for (const char* name :
       {"Mapped:", "Shmem:", "KReclaimable:", "Slab:", "SReclaimable:", "SUnreclaim:",
        "KernelStack:", "PageTables:", "NFS_Unstable:", "Bounce:", "WritebackTmp:"}) {
    line(name, 0);
  }
  line("CommitLimit:", totals.total);
  line("Committed_AS:", used);
  line("VmallocTotal:", uint64_t{34359738367} << 10);
  for (const char* name :
       {"VmallocUsed:", "VmallocChunk:", "Percpu:", "AnonHugePages:", "ShmemHugePages:",
        "ShmemPmdMapped:", "FileHugePages:", "FilePmdMapped:"}) {
    line(name, 0);
  }
  for (const char* name :
       {"HugePages_Total:", "HugePages_Free:", "HugePages_Rsvd:", "HugePages_Surp:"}) {
    Append(text, "{:<15} {:>8}\n", name, 0);
  }
  line("Hugepagesize:", 2 << 20);
  line("Hugetlb:", 0);
  return text;
}

std::string VmstatText(ProcFs& fs) {
  const kernel::MemoryTotals totals = kernel::TotalsOf(fs.kernel());
  return fmt::format(
      "nr_free_pages {}\nnr_zone_inactive_anon 0\nnr_dirty 0\nnr_writeback 0\nnr_mapped 0\n"
      "pgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgfault 0\npgmajfault 0\noom_kill 0\n",
      totals.free / 4096);
}

std::string InterruptsText(ProcFs& fs) {
  std::string text(11, ' ');
  for (int cpu = 0; cpu < fs.cpu_count(); ++cpu) Append(text, "{:<11}", fmt::format("CPU{}", cpu));
  return text + "\n";
}

std::string VersionText(ProcFs&) {
  return fmt::format("Linux version {} (skep) (g++ {}) {}\n", kernel::kRelease, __VERSION__,
                     kernel::kVersion);
}

// None of them is over a block device.
std::string FilesystemsText(ProcFs& fs) {
  std::string text;
  for (const kernel::FileSystemType& type : fs.kernel().hooks.file_systems) {
    text += fmt::format("nodev\t{}\n", type.name);
  }
  return text;
}

std::string CpuinfoText(ProcFs& fs) { return fs.CpuInfo(); }

struct MachineFile {
  std::string_view path;
  std::string (*text)(ProcFs& fs);
};

constexpr MachineFile kFiles[] = {
    {"cpuinfo", CpuinfoText}, {"filesystems", FilesystemsText}, {"interrupts", InterruptsText},
    {"loadavg", LoadavgText}, {"meminfo", MeminfoText},         {"stat", StatText},
    {"uptime", UptimeText},   {"version", VersionText},         {"vmstat", VmstatText},
};

struct ConstantFile {
  std::string_view path, text;
};

constexpr ConstantFile kConstants[] = {
    {"cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"},
    {"cmdline", "\n"},
    {"devices",
     "Character devices:\n  1 mem\n  4 /dev/vc/0\n  4 tty\n  5 /dev/tty\n  5 /dev/console\n"
     "  5 /dev/ptmx\n128 ptm\n136 pts\n\nBlock devices:\n"},
    {"diskstats", ""},
    {"locks", ""},
    {"partitions", "major minor  #blocks  name\n\n"},
    {"swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"},
    {"tty/drivers",
     "/dev/tty             /dev/tty        5       0 system:/dev/tty\n"
     "/dev/console         /dev/console    5       1 system:console\n"
     "/dev/ptmx            /dev/ptmx       5       2 system\n"
     "pty_slave            /dev/pts      136 0-1048575 pty:slave\n"
     "pty_master           /dev/ptm      128 0-1048575 pty:master\n"},
};

}  // namespace

void AddMachineFiles(ProcFs& fs) {
  for (const MachineFile& file : kFiles) {
    fs.AddText(file.path, 0444, [&fs, text = file.text] { return text(fs); });
  }
  for (const ConstantFile& file : kConstants) {
    fs.AddText(file.path, 0444, [text = file.text] { return std::string(text); });
  }
  fs.AddLink("mounts", "self/mounts");
  fs.AddLink("net", "self/net");
}

}  // namespace skep::fs
