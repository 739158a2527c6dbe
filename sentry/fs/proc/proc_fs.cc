#include "sentry/fs/proc/proc_fs.h"

#include <linux/magic.h>
#include <algorithm>
#include <cmath>

#include "sentry/fs/proc/process.h"

namespace skep::fs {
namespace {

// /proc/self and /proc/thread-self: relative links that depend on who reads them.
class SelfLink final : public PseudoInode {
 public:
  SelfLink(ProcFs& fs, bool thread)
      : PseudoInode(fs, fs.NextIno(), S_IFLNK | 0777), proc_(fs), thread_(thread) {}
  Result<std::string> ReadLink(vfs::Caller& caller) override {
    const kernel::Task* task = TaskOf(caller);
    if (task == nullptr) return Fail(ENOENT);
    TasksLock lock(task->kernel);
    const int tgid = task->group->pid->NumberIn(proc_.pids());
    if (tgid == 0) return Fail(ENOENT);  // it cannot be seen from here
    if (!thread_) return std::to_string(tgid);
    return std::to_string(tgid) + "/task/" + std::to_string(task->pid->NumberIn(proc_.pids()));
  }

 private:
  ProcFs& proc_;
  const bool thread_;
};

// The fixed files, then the processes.
class RootDirectory final : public FixedDirectory {
 public:
  explicit RootDirectory(ProcFs& fs)
      : FixedDirectory(fs, fs.NextIno(), uint32_t{S_IFDIR | 0555}), proc_(fs) {}

  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override {
    if (PseudoInode* fixed = Find(name)) return Ref<vfs::Inode>(fixed);
    const int pid = NumberOf(name);
    if (pid <= 0) return Fail(ENOENT);
    const Subject subject = TRY(Subject::OfPid(proc_, pid));
    return Ref<vfs::Inode>(MakeTaskDirectory(proc_, subject));
  }
  // Making a name that does not exist is ENOENT (Linux: proc_root_lookup).
  Result<Ref<vfs::Inode>> Create(std::string_view, const NewNode&) override { return Fail(ENOENT); }
  Result<Ref<vfs::Inode>> Symlink(std::string_view, std::string_view, const NewNode&) override {
    return Fail(ENOENT);
  }

  void List(uint64_t after, size_t max, std::vector<Entry>& to) override {
    if (after < kFirstProcess) FixedDirectory::List(after, max, to);
    if (to.size() < max) ListProcesses(after, max, to);
  }

 protected:
  void Adjust(vfs::Attributes& attributes) override {
    FixedDirectory::Adjust(attributes);
    TasksLock lock(proc_.kernel());
    attributes.nlink += static_cast<uint32_t>(proc_.kernel().task_count());
  }

 private:
  static constexpr uint64_t kFirstProcess = 1024;  // cookie of process 0

  void ListProcesses(uint64_t after, size_t max, std::vector<Entry>& to) {
    const int next = after < kFirstProcess ? 1 : static_cast<int>(after - kFirstProcess) + 1;
    TasksLock lock(proc_.kernel());
    proc_.pids().ForEach(
        [&](kernel::Pid& pid) REQUIRES(tasks) {
          if (to.size() == max) return false;
          if (pid.group() == nullptr) return true;
          const int number = pid.NumberIn(proc_.pids());
          const Subject subject{
              .kernel = &proc_.kernel(), .pids = &proc_.pids(), .tgid = number, .tid = number};
          to.push_back({.cookie = kFirstProcess + static_cast<uint64_t>(number),
                        .name = std::to_string(number),
                        .ino = TaskIno(subject, 0),
                        .type = S_IFDIR});
          return true;
        },
        next);
  }

  ProcFs& proc_;
};

}  // namespace

ProcFs::ProcFs(kernel::Kernel& kernel, Ref<kernel::PidNamespace> pids, uint32_t dev_minor)
    : PseudoFs(dev_minor, 0555, 0),
      kernel_(kernel),
      pids_(std::move(pids)),
      boot_id_(RandomUuid()) {
  source = "proc";
  SetRoot(MakeRef<RootDirectory>(*this));
  Add("self", MakeRef<SelfLink>(*this, false));
  Add("thread-self", MakeRef<SelfLink>(*this, true));
  AddMachineFiles(*this);
  AddSysctls(*this);
}

ProcFs::~ProcFs() = default;

Result<vfs::StatFs> ProcFs::GetStatFs() { return vfs::StatFs{.type = PROC_SUPER_MAGIC}; }

int ProcFs::cpu_count() const { return kernel_.scheduler.worker_count(); }

std::string ProcFs::CpuInfo() {
  MutexLock lock(mutex_);
  if (cpu_info_.empty()) cpu_info_ = CpuInfoText(cpu_count());
  return cpu_info_;
}

std::array<double, 3> ProcFs::SampleLoad(size_t running) {
  constexpr std::array<double, 3> kSeconds = {60, 300, 900};
  const uint64_t now = kernel_.scheduler.clock().MonotonicNs();
  MutexLock lock(mutex_);
  const double elapsed =
      static_cast<double>(
          now -
          std::min(load_sampled_ns_ == 0 ? kernel_.boot_monotonic_ns() : load_sampled_ns_, now)) /
      1e9;
  load_sampled_ns_ = now;
  for (size_t i = 0; i < load_.size(); ++i) {
    const double old_share = std::exp(-elapsed / kSeconds[i]);
    load_[i] = load_[i] * old_share + static_cast<double>(running) * (1 - old_share);
  }
  return load_;
}

}  // namespace skep::fs
