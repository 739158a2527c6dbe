// Which files /proc/<pid> and /proc/<pid>/task/<tid> have (Linux: tgid_base_stuff, tid_base_stuff).
#include "sentry/fs/proc/process.h"

#include <algorithm>
#include <iterator>

namespace skep::fs {
namespace {

using In = TaskFile::In;
constexpr TaskFile::Open kAnybody = TaskFile::Open::kAnybody;
constexpr TaskFile::Open kInspectors = TaskFile::Open::kInspectors;

constexpr TaskFile kTexts[] = {
    {"auxv", 0400, AuxvText, nullptr, kInspectors},
    {"cgroup", 0444, CgroupText},
    {"children", 0444, ChildrenText, nullptr, kAnybody, In::kThread},
    {"comm", 0644, CommText, StoreComm},
    {"coredump_filter", 0444, CoredumpFilterText, nullptr, kAnybody, In::kProcess},
    {"cpuset", 0444, CpusetText},
    {"gid_map", 0644, GroupMapText, StoreIdMap},
    {"io", 0400, IoText},
    {"limits", 0444, LimitsText},
    {"loginuid", 0444, NoIdText},
    {"maps", 0444, MapsText, nullptr, kInspectors},
    {"mountinfo", 0444, MountinfoText},
    {"mounts", 0444, MountsText},
    {"oom_adj", 0644, OomAdjText, StoreOomAdj},
    {"oom_score", 0444, OomScoreText},
    {"oom_score_adj", 0644, OomScoreAdjText, StoreOomScoreAdj},
    {"personality", 0400, PersonalityText},
    {"projid_map", 0644, ProjectMapText, StoreIdMap},
    {"sched", 0444, SchedText},
    {"schedstat", 0444, SchedstatText},
    {"sessionid", 0444, NoIdText},
    {"setgroups", 0644, SetgroupsText, StoreIdMap},
    {"smaps", 0444, SmapsText, nullptr, kInspectors},
    {"smaps_rollup", 0444, SmapsRollupText, nullptr, kInspectors},
    {"stat", 0444, StatText},
    {"statm", 0444, StatmText},
    {"status", 0444, StatusText},
    {"timerslack_ns", 0666, TimerSlackText, StoreTimerSlack, kAnybody, In::kProcess},
    {"uid_map", 0644, UserMapText, StoreIdMap},
    {"wchan", 0444, WchanText},
};

// Files that are not texts.
struct OtherFile {
  std::string_view name;
  uint32_t type;
  Ref<PseudoInode> (*make)(ProcFs& fs, const Subject& subject, uint64_t ino);
  In in = In::kBoth;
};

Ref<PseudoInode> MakeCwd(ProcFs& fs, const Subject& subject, uint64_t ino) {
  return MakeTaskLink(fs, subject, ino, TaskLink::kCwd);
}
Ref<PseudoInode> MakeExe(ProcFs& fs, const Subject& subject, uint64_t ino) {
  return MakeTaskLink(fs, subject, ino, TaskLink::kExe);
}
Ref<PseudoInode> MakeRoot(ProcFs& fs, const Subject& subject, uint64_t ino) {
  return MakeTaskLink(fs, subject, ino, TaskLink::kRoot);
}
Ref<PseudoInode> MakeThreads(ProcFs& fs, const Subject& subject, uint64_t ino);

constexpr OtherFile kOthers[] = {
    {"cmdline", S_IFREG, MakeCmdline},
    {"cwd", S_IFLNK, MakeCwd},
    {"environ", S_IFREG, MakeEnviron},
    {"exe", S_IFLNK, MakeExe},
    {"fd", S_IFDIR, MakeFdDirectory},
    {"fdinfo", S_IFDIR, MakeFdinfoDirectory},
    {"mem", S_IFREG, MakeMem},
    {"net", S_IFDIR, MakeNetDirectory},
    {"ns", S_IFDIR, MakeNsDirectory},
    {"root", S_IFLNK, MakeRoot},
    {"task", S_IFDIR, MakeThreads, In::kProcess},
};

constexpr uint32_t kFirstOther = 100;  // index of the first of kOthers
static_assert(std::size(kTexts) < kFirstOther);

bool IsIn(In in, const Subject& subject) {
  return in == In::kBoth || (in == In::kThread) == subject.thread;
}

class TaskText final : public OfSubject<PseudoFile> {
 public:
  TaskText(const Subject& subject, ProcFs& fs, uint64_t ino, const TaskFile& what)
      : OfSubject(subject, fs, ino, S_IFREG | what.mode), proc_(fs), what_(what) {}

  Result<void> MayOpen(vfs::Caller& caller, uint32_t) override {
    if (what_.open == kAnybody) return {};
    const Result<void> may = subject().MayInspect(caller);
    if (!may) return Fail(may.error() == Errno(EPERM) ? EACCES : ESRCH);
    return {};
  }
  Result<std::string> Text(vfs::Caller& caller, const vfs::File& file) override {
    return what_.text({proc_, subject(), caller, &file});
  }
  Result<void> Store(vfs::Caller& caller, std::string_view text) override {
    if (what_.store == nullptr) return Fail(EINVAL);
    return what_.store({proc_, subject(), caller}, text);
  }

 private:
  ProcFs& proc_;
  const TaskFile& what_;
};

class TaskDirectory final : public OfSubject<PseudoDirectory> {
 public:
  TaskDirectory(const Subject& subject, ProcFs& fs)
      : OfSubject(subject, fs, TaskIno(subject, 0), uint32_t{S_IFDIR | 0555}), proc_(fs) {}

  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override {
    for (uint32_t i = 0; i < std::size(kTexts); ++i) {
      if (kTexts[i].name != name || !IsIn(kTexts[i].in, subject())) continue;
      return Ref<vfs::Inode>(MakeRef<TaskText>(subject(), proc_, TextIno(i), kTexts[i]));
    }
    for (uint32_t i = 0; i < std::size(kOthers); ++i) {
      if (kOthers[i].name != name || !IsIn(kOthers[i].in, subject())) continue;
      return Ref<vfs::Inode>(kOthers[i].make(proc_, subject(), OtherIno(i)));
    }
    return Fail(ENOENT);
  }

  void List(uint64_t after, size_t max, std::vector<Entry>& to) override {
    const auto add = [&](uint64_t index, std::string_view name, uint64_t ino, uint32_t type,
                         In in) {
      const uint64_t cookie = vfs::kFirstEntryCookie + index;
      if (cookie <= after || to.size() == max || !IsIn(in, subject())) return;
      to.push_back({.cookie = cookie, .name = std::string(name), .ino = ino, .type = type});
    };
    for (uint32_t i = 0; i < std::size(kTexts); ++i) {
      add(i, kTexts[i].name, TextIno(i), S_IFREG, kTexts[i].in);
    }
    for (uint32_t i = 0; i < std::size(kOthers); ++i) {
      add(kFirstOther + i, kOthers[i].name, OtherIno(i), kOthers[i].type, kOthers[i].in);
    }
  }

 protected:
  void Adjust(vfs::Attributes& attributes) override {
    OfSubject::Adjust(attributes);
    attributes.nlink = subject().thread ? 6 : 7;
  }

 private:
  uint64_t TextIno(uint32_t i) const { return TaskIno(subject(), 1 + i); }
  uint64_t OtherIno(uint32_t i) const { return TaskIno(subject(), kFirstOther + i); }
  ProcFs& proc_;
};

// /proc/<pid>/task.
class ThreadsDirectory final : public OfSubject<PseudoDirectory> {
 public:
  ThreadsDirectory(const Subject& subject, ProcFs& fs, uint64_t ino)
      : OfSubject(subject, fs, ino, uint32_t{S_IFDIR | 0555}), proc_(fs) {}

  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override {
    const int tid = NumberOf(name);
    if (tid <= 0) return Fail(ENOENT);
    const Subject thread = TRY(subject().Thread(tid));
    return Ref<vfs::Inode>(MakeTaskDirectory(proc_, thread));
  }

  void List(uint64_t after, size_t max, std::vector<Entry>& to) override {
    Subject thread = subject();
    thread.thread = true;
    for (const int tid : Threads()) {
      const uint64_t cookie = vfs::kFirstEntryCookie + static_cast<uint64_t>(tid);
      if (cookie <= after) continue;
      if (to.size() == max) return;
      thread.tid = tid;
      to.push_back({.cookie = cookie,
                    .name = std::to_string(tid),
                    .ino = TaskIno(thread, 0),
                    .type = S_IFDIR});
    }
  }

 protected:
  void Adjust(vfs::Attributes& attributes) override {
    OfSubject::Adjust(attributes);
    attributes.nlink = 2 + static_cast<uint32_t>(Threads().size());
  }

 private:
  std::vector<int> Threads() const;
  ProcFs& proc_;
};

std::vector<int> ThreadsDirectory::Threads() const {
  std::vector<int> tids;
  {
    TasksLock lock(*subject().kernel);
    const kernel::Task* task = subject().Find();
    if (task == nullptr) return tids;
    const kernel::ThreadGroup& group = *task->group;
    for (const kernel::Task* thread : group.threads)
      tids.push_back(thread->pid->NumberIn(*subject().pids));
    if (group.leader && group.leader->exited)
      tids.push_back(group.leader->pid->NumberIn(*subject().pids));
  }
  std::sort(tids.begin(), tids.end());
  return tids;
}

Ref<PseudoInode> MakeThreads(ProcFs& fs, const Subject& subject, uint64_t ino) {
  return MakeRef<ThreadsDirectory>(subject, fs, ino);
}

}  // namespace

// Above what PseudoFs::NextIno gives; a task's files have fewer than 256 numbers.
uint64_t TaskIno(const Subject& subject, uint32_t index) {
  const uint64_t kind = subject.thread ? 2 : 1;
  return kind << 48 | static_cast<uint64_t>(subject.tid) << 8 | index;
}

uint64_t DescriptorIno(const Subject& subject, int fd, bool info) {
  const uint64_t kind = (subject.thread ? 6 : 4) + (info ? 1 : 0);
  return kind << 60 | static_cast<uint64_t>(subject.tid) << 28 | static_cast<uint64_t>(fd);
}

Ref<PseudoInode> MakeTaskDirectory(ProcFs& fs, const Subject& subject) {
  return MakeRef<TaskDirectory>(subject, fs);
}

}  // namespace skep::fs
