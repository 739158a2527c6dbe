// The small files of /proc/<pid> (Linux: fs/proc/base.c).
#include <fmt/format.h>
#include <linux/capability.h>
#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "sentry/fs/proc/process.h"
#include "sentry/kernel/system_info.h"

namespace skep::fs {
namespace {

constexpr int kMinAdj = -1000, kMaxAdj = 1000;  // OOM_SCORE_ADJ_MIN, OOM_SCORE_ADJ_MAX

template <class... Args>
void Append(std::string& text, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
}

// Linux: kstrtoint of a stripped string, base 10.
std::optional<int64_t> ParseNumber(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.empty() || text.size() > 18) return std::nullopt;
  int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  return negative ? -value : value;
}

Result<int> OomScoreAdjOf(const Subject& subject) {
  TasksLock lock(*subject.kernel);
  const kernel::Task* task = subject.Find();
  if (task == nullptr) return Fail(ESRCH);
  return task->group->oom_score_adj;
}

// Below what it was, and below the default, needs CAP_SYS_RESOURCE.
Result<void> SetOomScoreAdj(const TaskView& view, int value) {
  TasksLock lock(*view.subject.kernel);
  kernel::Task* task = view.subject.Find();
  if (task == nullptr) return Fail(ESRCH);
  int& adj = task->group->oom_score_adj;
  if (value < std::min(adj, 0) && !view.caller.creds().HasInFirst(CAP_SYS_RESOURCE))
    return Fail(EACCES);
  adj = value;
  return {};
}

struct LimitName {
  std::string_view name, unit;
};
constexpr LimitName kLimits[] = {
    {"Max cpu time", "seconds"},     {"Max file size", "bytes"},
    {"Max data size", "bytes"},      {"Max stack size", "bytes"},
    {"Max core file size", "bytes"}, {"Max resident set", "bytes"},
    {"Max processes", "processes"},  {"Max open files", "files"},
    {"Max locked memory", "bytes"},  {"Max address space", "bytes"},
    {"Max file locks", "locks"},     {"Max pending signals", "signals"},
    {"Max msgqueue size", "bytes"},  {"Max nice priority", ""},
    {"Max realtime priority", ""},   {"Max realtime timeout", "us"},
};
static_assert(std::size(kLimits) == RLIM_NLIMITS);

std::string LimitValue(rlim_t value) {
  return value == RLIM_INFINITY ? "unlimited" : fmt::format("{}", value);
}

}  // namespace

Result<std::string> CommText(const TaskView& view) {
  TasksLock lock(*view.subject.kernel);
  const kernel::Task* task = view.subject.Find();
  if (task == nullptr) return Fail(ESRCH);
  return std::string(task->comm.data()) + "\n";
}

Result<void> StoreComm(const TaskView& view, std::string_view text) {
  const kernel::Task* self = TaskOf(view.caller);
  TasksLock lock(*view.subject.kernel);
  kernel::Task* task = view.subject.Find();
  if (task == nullptr) return Fail(ESRCH);
  if (self == nullptr || self->group.get() != task->group.get()) return Fail(EINVAL);
  task->comm.fill(0);
  text.copy(task->comm.data(), task->comm.size() - 1);
  return {};
}

Result<std::string> LimitsText(const TaskView& view) {
  kernel::Limits limits;
  {
    TasksLock lock(*view.subject.kernel);
    const kernel::Task* task = view.subject.Find();
    if (task == nullptr) return Fail(ESRCH);
    limits = task->group->limits.All();
  }
  std::string text =
      "Limit                     Soft Limit           Hard Limit           Units     \n";
  for (size_t i = 0; i < std::size(kLimits); ++i) {
    Append(text, "{:<25} {:<20} {:<20} ", kLimits[i].name, LimitValue(limits.values[i].rlim_cur),
           LimitValue(limits.values[i].rlim_max));
    if (!kLimits[i].unit.empty()) Append(text, "{:<10}", kLimits[i].unit);
    text += '\n';
  }
  return text;
}

Result<std::string> CgroupText(const TaskView&) { return std::string("0::/\n"); }
Result<std::string> CpusetText(const TaskView&) { return std::string("/\n"); }

// Linux: oom_badness, in thousandths of all memory, shifted so that it is never negative.
Result<std::string> OomScoreText(const TaskView& view) {
  const int adj = TRY(OomScoreAdjOf(view.subject));
  const Ref<mm::MemoryManager> mm = TRY(view.subject.Memory());
  if (!mm || adj == kMinAdj) return std::string("0\n");
  const uint64_t total = std::max<uint64_t>(kernel::TotalsOf(view.fs.kernel()).total, 1);
  const auto used = static_cast<int64_t>(mm->Stats().resident * 1000 / total);
  return fmt::format("{}\n", std::max<int64_t>(0, (1000 + used + adj) * 2 / 3));
}

Result<std::string> OomScoreAdjText(const TaskView& view) {
  const int adj = TRY(OomScoreAdjOf(view.subject));
  return fmt::format("{}\n", adj);
}

Result<void> StoreOomScoreAdj(const TaskView& view, std::string_view text) {
  const std::optional<int64_t> value = ParseNumber(text);
  if (!value || *value < kMinAdj || *value > kMaxAdj) return Fail(EINVAL);
  return SetOomScoreAdj(view, static_cast<int>(*value));
}

// The older scale: -17 (never) to 15.
Result<std::string> OomAdjText(const TaskView& view) {
  const int adj = TRY(OomScoreAdjOf(view.subject));
  return fmt::format("{}\n", adj == kMaxAdj ? 15 : adj * 17 / kMaxAdj);
}

Result<void> StoreOomAdj(const TaskView& view, std::string_view text) {
  const std::optional<int64_t> value = ParseNumber(text);
  if (!value || *value < -17 || *value > 15) return Fail(EINVAL);
  return SetOomScoreAdj(view, *value == 15 ? kMaxAdj : static_cast<int>(*value * kMaxAdj / 17));
}

// loginuid and sessionid are not set.
Result<std::string> NoIdText(const TaskView&) { return std::string("4294967295"); }
Result<std::string> WchanText(const TaskView&) { return std::string("0"); }

Result<std::string> IoText(const TaskView& view) {
  if (!view.subject.MayInspect(view.opener(), TaskOf(view.caller))) return Fail(EACCES);
  return std::string(
      "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\n"
      "read_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n");
}

namespace {

constexpr const char* kWholeMap = "         0          0 4294967295\n";

// Linux: uid_m_show. The right side is as the reader's namespace has it; in the task's own
// namespace it is as the parent has it.
Result<std::string> IdMapText(const TaskView& view,
                              const auth::IdMap& (auth::UserNamespace::*map)() const) {
  Ref<auth::UserNamespace> space;
  {
    TasksLock lock(*view.subject.kernel);
    const kernel::Task* task = view.subject.Find();
    if (task == nullptr) return Fail(ESRCH);
    space = task->credentials.Get()->user_namespace;
  }
  if (space->parent() == nullptr) return std::string(kWholeMap);
  const auth::UserNamespace* lower = view.opener().user_namespace.get();
  if (lower == space.get()) lower = space->parent();
  std::string text;
  for (const auth::IdMap::Extent& extent : ((*space).*map)().extents()) {
    const bool whole = lower == nullptr || lower->parent() == nullptr;
    const uint32_t on_the_right =
        whole ? extent.kernel_first : ((*lower).*map)().FromKernel(extent.kernel_first);
    Append(text, "{:>10} {:>10} {:>10}\n", extent.first, on_the_right, extent.count);
  }
  return text;
}

}  // namespace

Result<std::string> UserMapText(const TaskView& view) {
  return IdMapText(view, &auth::UserNamespace::users);
}
Result<std::string> GroupMapText(const TaskView& view) {
  return IdMapText(view, &auth::UserNamespace::groups);
}
Result<std::string> ProjectMapText(const TaskView&) { return std::string(kWholeMap); }
Result<void> StoreIdMap(const TaskView&, std::string_view) { return Fail(EPERM); }
Result<std::string> SetgroupsText(const TaskView&) { return std::string("allow\n"); }

Result<std::string> PersonalityText(const TaskView& view) {
  TRY(view.subject.MayInspect(view.opener(), TaskOf(view.caller)));
  TasksLock lock(*view.subject.kernel);
  const kernel::Task* task = view.subject.Find();
  if (task == nullptr) return Fail(ESRCH);
  return fmt::format("{:08x}\n", task->personality);
}

namespace {

// The task, for itself and for who may schedule it (Linux: timerslack_ns_write).
Result<kernel::Task*> TaskToTime(const TaskView& view) REQUIRES(tasks) {
  kernel::Task* task = view.subject.Find();
  if (task == nullptr) return Fail(ESRCH);
  const auth::Credentials& theirs = *task->credentials.Get();
  if (task != RunningTask() &&
      !view.caller.creds().HasIn(theirs.user_namespace.get(), CAP_SYS_NICE)) {
    return Fail(EPERM);
  }
  return task;
}

}  // namespace

Result<std::string> TimerSlackText(const TaskView& view) {
  TasksLock lock(*view.subject.kernel);
  const kernel::Task* task = TRY(TaskToTime(view));
  return fmt::format("{}\n", task->timer_slack_ns);
}

Result<void> StoreTimerSlack(const TaskView& view, std::string_view text) {
  constexpr uint64_t kDefaultSlack = 50'000;
  const std::optional<int64_t> value = ParseNumber(text);
  if (!value || *value < 0) return Fail(EINVAL);
  TasksLock lock(*view.subject.kernel);
  kernel::Task* task = TRY(TaskToTime(view));
  task->timer_slack_ns = *value == 0 ? kDefaultSlack : static_cast<uint64_t>(*value);
  return {};
}

Result<std::string> SchedText(const TaskView& view) {
  const TaskInfo s = TRY(TakeTaskInfo(view, false));
  const uint64_t ran = s.usage.user_ns + s.usage.system_ns;
  const uint64_t switches = s.usage.voluntary_switches + s.usage.involuntary_switches;
  std::string text = fmt::format("{} ({}, #threads: {})\n", s.comm, s.tid, s.threads);
  text += std::string(67, '-') + "\n";
  const auto line = [&](std::string_view name, const std::string& value) {
    Append(text, "{:<45}:{:>21}\n", name, value);
  };
  line("se.sum_exec_runtime", fmt::format("{}.{:06}", ran / 1'000'000, ran % 1'000'000));
  line("nr_switches", fmt::format("{}", switches));
  line("nr_voluntary_switches", fmt::format("{}", s.usage.voluntary_switches));
  line("nr_involuntary_switches", fmt::format("{}", s.usage.involuntary_switches));
  line("policy", "0");
  line("prio", fmt::format("{}", 120 + s.nice));
  return text;
}

Result<std::string> SchedstatText(const TaskView& view) {
  const TaskInfo s = TRY(TakeTaskInfo(view, false));
  return fmt::format("{} 0 {}\n", s.usage.user_ns + s.usage.system_ns,
                     s.usage.voluntary_switches + s.usage.involuntary_switches);
}

Result<std::string> CoredumpFilterText(const TaskView&) { return std::string("00000033\n"); }

Result<std::string> ChildrenText(const TaskView& view) {
  std::string text;
  TasksLock lock(*view.subject.kernel);
  const kernel::Task* task = view.subject.Find();
  if (task == nullptr) return Fail(ESRCH);
  for (const Ref<kernel::ThreadGroup>& child : task->group->children) {
    if (child->parent_thread == task) Append(text, "{} ", child->pid->NumberIn(*view.subject.pids));
  }
  return text;
}

}  // namespace skep::fs
