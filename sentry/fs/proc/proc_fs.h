// ProcFs: /proc, the kernel's tasks and the machine as files (Linux: fs/proc).
//
// proc_fs.cc       the root, with a directory for each process
// machine.cc       meminfo, stat, uptime ...; cpu_info.cc; sysctl.cc: /proc/sys
// process.h        /proc/<pid> and /proc/<pid>/task/<tid>: which files there are
// subject.h        which task an inode is about, and who may look at it
//
// Everything is read from the kernel when it is asked for. The lock `tasks` is held for picking
// words and references up only; no reference to a task's descriptor table is ever kept, since exit
// and execve look at how many there are.
#pragma once

#include <array>

#include "sentry/fs/pseudo/pseudo_inode.h"
#include "sentry/kernel/kernel.h"

namespace skep::fs {

using kernel::tasks;
using kernel::TasksLock;

class ProcFs final : public PseudoFs {
 public:
  // Shows the processes that have a number in `pids` (Linux: proc_fs_info::pid_ns).
  ProcFs(kernel::Kernel& kernel, Ref<kernel::PidNamespace> pids, uint32_t dev_minor);
  ~ProcFs() override;

  const char* type_name() const override { return "proc"; }
  Result<vfs::StatFs> GetStatFs() override;

  kernel::Kernel& kernel() const { return kernel_; }
  kernel::PidNamespace& pids() const { return *pids_; }
  int cpu_count() const;

  // 1, 5 and 15 minutes, as far as the reads of /proc/loadavg have sampled them.
  std::array<double, 3> SampleLoad(size_t running);

  std::string CpuInfo();  // generated once

  const std::string& boot_id() const { return boot_id_; }

 private:
  kernel::Kernel& kernel_;
  const Ref<kernel::PidNamespace> pids_;
  const std::string boot_id_;
  Mutex mutex_{LockRank::kFile};
  std::string cpu_info_ GUARDED_BY(mutex_);
  std::array<double, 3> load_ GUARDED_BY(mutex_) = {};
  uint64_t load_sampled_ns_ GUARDED_BY(mutex_) = 0;
};

// What fills the tree (machine.cc, sysctl.cc).
void AddMachineFiles(ProcFs& fs);
void AddSysctls(ProcFs& fs);
std::string CpuInfoText(int cpu_count);  // cpu_info.cc
std::string RandomUuid();                // sysctl.cc, with its newline

}  // namespace skep::fs
