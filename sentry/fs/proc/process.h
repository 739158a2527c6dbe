// /proc/<pid> and /proc/<pid>/task/<tid>: the files of a task.
#pragma once

#include <memory>

#include "sentry/fs/proc/subject.h"
#include "sentry/kernel/job_control.h"

namespace skep::fs {

// What a text is generated from: the task, who reads, and through which open file.
struct TaskView {
  ProcFs& fs;
  const Subject& subject;
  vfs::Caller& caller;
  const vfs::File* file = nullptr;  // null: it is being written

  // The opener's credentials decide what the file shows.
  const auth::Credentials& opener() const {
    return file != nullptr && file->opener ? *file->opener : caller.creds();
  }
};

// One file of the table in process.cc.
struct TaskFile {
  enum class In : uint8_t { kBoth, kProcess, kThread };
  enum class Open : uint8_t { kAnybody, kInspectors };  // who may open it: EACCES
  std::string_view name;
  uint32_t mode;  // permissions
  Result<std::string> (*text)(const TaskView& view);
  Result<void> (*store)(const TaskView& view, std::string_view text) = nullptr;  // null: EINVAL
  Open open = Open::kAnybody;
  In in = In::kBoth;
};

// The inode of /proc/<pid> or of /proc/<pid>/task/<tid>.
Ref<PseudoInode> MakeTaskDirectory(ProcFs& fs, const Subject& subject);

// Inode numbers: of a task's file `index`, and of a descriptor's.
uint64_t TaskIno(const Subject& subject, uint32_t index);
uint64_t DescriptorIno(const Subject& subject, int fd, bool info);

// Everything that stat, statm and status say, taken at one moment.
struct TaskInfo {
  char state = 'R';
  std::string comm;
  int tid = 0, tgid = 0, parent = 0, pgid = 0, sid = 0;
  Ref<kernel::Pid> session;
  auth::CredentialsRef creds;
  size_t threads = 0;
  kernel::Usage usage, children;  // of the thread, or of the process
  int nice = 0, exit_signal = 0, exit_code = 0, cpu = 0;
  bool has_exec = false, may_inspect = false;
  uint64_t start_ns = 0, cpu_mask = 0;
  uint64_t rss_limit = 0, pending_limit = 0;
  size_t queued = 0;
  uint64_t pending = 0, group_pending = 0, blocked = 0, ignored = 0, caught = 0;
  uint32_t umask = 0;
  bool has_fs = false;
  size_t fd_slots = 0;
  Ref<mm::MemoryManager> mm;  // null: a zombie
};
// ESRCH. `descriptors`: fd_slots is wanted.
Result<TaskInfo> TakeTaskInfo(const TaskView& view, bool descriptors);

// 'R', 'S', 'T' or 'Z', as ps shows it.
char StateOf(const kernel::Task& task) REQUIRES(tasks);

// status.cc
Result<std::string> StatusText(const TaskView& view);
Result<std::string> StatText(const TaskView& view);
Result<std::string> StatmText(const TaskView& view);

// task_text.cc
Result<std::string> CommText(const TaskView& view);
Result<void> StoreComm(const TaskView& view, std::string_view text);
Result<std::string> LimitsText(const TaskView& view);
Result<std::string> CgroupText(const TaskView& view);
Result<std::string> CpusetText(const TaskView& view);
Result<std::string> OomScoreText(const TaskView& view);
Result<std::string> OomScoreAdjText(const TaskView& view);
Result<void> StoreOomScoreAdj(const TaskView& view, std::string_view text);
Result<std::string> OomAdjText(const TaskView& view);
Result<void> StoreOomAdj(const TaskView& view, std::string_view text);
Result<std::string> NoIdText(const TaskView& view);
Result<std::string> WchanText(const TaskView& view);
Result<std::string> IoText(const TaskView& view);
Result<std::string> UserMapText(const TaskView& view);
Result<std::string> GroupMapText(const TaskView& view);
Result<std::string> ProjectMapText(const TaskView& view);
Result<void> StoreIdMap(const TaskView& view, std::string_view text);
Result<std::string> SetgroupsText(const TaskView& view);
Result<std::string> PersonalityText(const TaskView& view);
Result<std::string> TimerSlackText(const TaskView& view);
Result<void> StoreTimerSlack(const TaskView& view, std::string_view text);
Result<std::string> SchedText(const TaskView& view);
Result<std::string> SchedstatText(const TaskView& view);
Result<std::string> CoredumpFilterText(const TaskView& view);
Result<std::string> ChildrenText(const TaskView& view);

// mounts_text.cc
Result<std::string> MountsText(const TaskView& view);
Result<std::string> MountinfoText(const TaskView& view);

// memory_files.cc
Result<std::string> AuxvText(const TaskView& view);
Result<std::string> MapsText(const TaskView& view);
Result<std::string> SmapsText(const TaskView& view);
Result<std::string> SmapsRollupText(const TaskView& view);
Ref<PseudoInode> MakeCmdline(ProcFs& fs, const Subject& subject, uint64_t ino);
Ref<PseudoInode> MakeEnviron(ProcFs& fs, const Subject& subject, uint64_t ino);
Ref<PseudoInode> MakeMem(ProcFs& fs, const Subject& subject, uint64_t ino);

// links.cc
enum class TaskLink : uint8_t { kExe, kCwd, kRoot };
Ref<PseudoInode> MakeTaskLink(ProcFs& fs, const Subject& subject, uint64_t ino, TaskLink link);
Ref<PseudoInode> MakeNsDirectory(ProcFs& fs, const Subject& subject, uint64_t ino);

// fd_directory.cc
Ref<PseudoInode> MakeFdDirectory(ProcFs& fs, const Subject& subject, uint64_t ino);
Ref<PseudoInode> MakeFdinfoDirectory(ProcFs& fs, const Subject& subject, uint64_t ino);

// net_text.cc
Ref<PseudoInode> MakeNetDirectory(ProcFs& fs, const Subject& subject, uint64_t ino);

}  // namespace skep::fs
