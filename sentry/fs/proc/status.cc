// /proc/<pid>/stat, statm and status (Linux: fs/proc/array.c, fs/proc/task_mmu.c).
#include <fmt/format.h>
#include <algorithm>
#include <atomic>
#include <bit>
#include <iterator>

#include "base/limits.h"
#include "sentry/fs/proc/process.h"
#include "sentry/kernel/cpu_time.h"
#include "sentry/sched/fiber_sleep.h"

namespace skep::fs {
namespace {

constexpr uint64_t kTickNs = 10'000'000;  // USER_HZ is 100
constexpr uint64_t kKiB = 1024;

template <class... Args>
void Append(std::string& text, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
}

void TakeSignals(TaskInfo& s, const kernel::Task& task) REQUIRES(tasks) {
  const kernel::ThreadGroup& group = *task.group;
  s.pending = task.pending.set().bits();
  s.group_pending = group.pending.set().bits();
  s.queued = task.pending.size() + group.pending.size();
  s.blocked = task.blocked.Get().bits();
  if (!group.handlers || task.exited) return;
  for (int signo = 1; signo <= kernel::kSignals; ++signo) {
    const kernel::SignalAction& action = group.handlers->Of(signo);
    const uint64_t bit = kernel::SignalSet::Of(signo).bits();
    if (action.IsIgnored()) s.ignored |= bit;
    if (action.IsCaught()) s.caught |= bit;
  }
}

void TakeUsage(TaskInfo& s, const Subject& subject, kernel::Task& task) REQUIRES(tasks) {
  const kernel::ThreadGroup& group = *task.group;
  s.threads = group.threads.size() + (group.leader && group.leader->exited ? 1 : 0);
  if (subject.thread) {
    s.usage = kernel::UsageOf(task);
    return;
  }
  s.usage = kernel::UsageOf(*task.group);
  s.children = group.children_usage;
}

// Linux's tables hold 64 descriptors, then powers of two from 256 on.
size_t FdSlots(const vfs::FdTable& table) {
  const std::vector<int> numbers = table.Numbers();
  const size_t used = numbers.empty() ? 0 : static_cast<size_t>(numbers.back()) + 1;
  return used <= 64 ? 64 : std::max<size_t>(256, std::bit_ceil(used));
}

std::string EscapedName(std::string_view comm) {
  std::string text;
  for (const char c : comm) {
    if (c == '\n') {
      text += "\\n";
    } else if (c == '\\') {
      text += "\\\\";
    } else {
      text += c;
    }
  }
  return text;
}

const char* StateName(char state) {
  switch (state) {
    case 'R':
      return "R (running)";
    case 'T':
      return "T (stopped)";
    case 'Z':
      return "Z (zombie)";
    default:
      return "S (sleeping)";
  }
}

void AppendIds(std::string& text, const TaskInfo& s, const auth::Credentials& reader) {
  Append(text, "Name:\t{}\nUmask:\t{:04o}\nState:\t{}\nTgid:\t{}\nNgid:\t0\n", EscapedName(s.comm),
         s.umask, StateName(s.state), s.tgid);
  Append(text, "Pid:\t{}\nPPid:\t{}\nTracerPid:\t0\n", s.tid, s.parent);
  const auth::Credentials& c = *s.creds;
  Append(text, "Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\n", reader.ShownUser(c.uid),
         reader.ShownUser(c.euid), reader.ShownUser(c.suid), reader.ShownUser(c.fsuid),
         reader.ShownGroup(c.gid), reader.ShownGroup(c.egid), reader.ShownGroup(c.sgid),
         reader.ShownGroup(c.fsgid));
  Append(text, "FDSize:\t{}\nGroups:\t", s.fd_slots);
  for (size_t i = 0; i < c.groups.size(); ++i) {
    Append(text, "{}{}", i == 0 ? "" : " ", reader.ShownGroup(c.groups[i]));
  }
  Append(text, " \nNStgid:\t{}\nNSpid:\t{}\nNSpgid:\t{}\nNSsid:\t{}\n", s.tgid, s.tid, s.pgid,
         s.sid);
}

void AppendMemory(std::string& text, const TaskInfo& s) {
  if (!s.mm) return;
  const mm::MemoryStats m = s.mm->Stats();
  const auto line = [&](std::string_view name, uint64_t bytes) {
    Append(text, "{}:\t{:>8} kB\n", name, bytes / kKiB);
  };
  line("VmPeak", m.peak_virtual);
  line("VmSize", m.virtual_size);
  line("VmLck", m.locked);
  line("VmPin", 0);
  line("VmHWM", std::max(m.resident, s.usage.max_rss));
  line("VmRSS", m.resident);
  line("RssAnon", m.resident - std::min(m.shared, m.resident));
  line("RssFile", m.shared);
  line("RssShmem", 0);
  line("VmData", m.data);
  line("VmStk", m.stack);
  line("VmExe", m.text);
  line("VmLib", 0);
  line("VmPTE", PageCeil(m.resident / 512) + 3 * kPageSize);
  line("VmSwap", 0);
  line("HugetlbPages", 0);
  text += "CoreDumping:\t0\nTHP_enabled:\t1\n";
}

void AppendSignals(std::string& text, const TaskInfo& s) {
  Append(text, "Threads:\t{}\nSigQ:\t{}/{}\n", s.threads, s.queued, s.pending_limit);
  Append(text, "SigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\n", s.pending, s.group_pending,
         s.blocked);
  Append(text, "SigIgn:\t{:016x}\nSigCgt:\t{:016x}\n", s.ignored, s.caught);
  const auth::Credentials& c = *s.creds;
  Append(text, "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\n", c.inheritable, c.permitted,
         c.effective);
  Append(text, "CapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t{}\n", c.bounding, c.ambient,
         c.no_new_privs ? 1 : 0);
  text += "Seccomp:\t0\nSeccomp_filters:\t0\n";
}

// Linux: "%*pb" and "%*pbl".
std::string MaskText(uint64_t mask) {
  if (mask <= 0xffff'ffff) return fmt::format("{:x}", mask);
  return fmt::format("{:x},{:08x}", mask >> 32, mask & 0xffff'ffff);
}

std::string ListText(uint64_t mask) {
  std::string text;
  for (int first = 0; first < 64; ++first) {
    if ((mask >> first & 1) == 0) continue;
    int last = first;
    while (last < 63 && (mask >> (last + 1) & 1) != 0) ++last;
    if (!text.empty()) text += ',';
    text += last == first ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
    first = last;
  }
  return text;
}

}  // namespace

char StateOf(const kernel::Task& task) {
  const char letter = task.state_letter.load(std::memory_order_relaxed);
  if (task.exited || letter == 'Z') return 'Z';
  if (letter == 'T' || task.stopped) return 'T';
  if (&task == RunningTask()) return 'R';
  if (!task.in_syscall.load(std::memory_order_relaxed) || !task.fiber) return 'R';
  return sched::SleepLetterOf(*task.fiber);
}

Result<TaskInfo> TakeTaskInfo(const TaskView& view, bool descriptors) {
  const Subject& subject = view.subject;
  kernel::Kernel& kernel = *subject.kernel;
  TaskInfo s;
  TasksLock lock(*subject.kernel);
  kernel::Task* task = subject.Find();
  if (task == nullptr) return Fail(ESRCH);
  const kernel::ThreadGroup& group = *task->group;
  s.state = StateOf(*task);
  s.comm = task->comm.data();
  const kernel::PidNamespace& pids = *subject.pids;
  s.tid = task->pid->NumberIn(pids), s.tgid = group.pid->NumberIn(pids);
  s.parent = group.parent == nullptr ? 0 : group.parent->pid->NumberIn(pids);
  if (group.process_group) {
    s.pgid = group.process_group->id()->NumberIn(pids);
    s.session = group.session().id();
    s.sid = s.session->NumberIn(pids);
  }
  s.creds = task->credentials.Get();
  TakeUsage(s, subject, *task);
  TakeSignals(s, *task);
  s.nice = task->scheduling.nice;
  s.exit_signal = subject.thread && !task->IsLeader() ? -1 : group.exit_signal;
  s.exit_code = task->exited ? group.exit_status : 0;
  s.cpu = task->fiber && !task->exited ? task->fiber->worker().index() : 0;
  s.has_exec = group.has_exec;
  s.may_inspect = MayInspectTask(*task, view.opener(), TaskOf(view.caller)).has_value();
  s.start_ns = group.start_ns - std::min(group.start_ns, kernel.boot_monotonic_ns());
  const int cpus = view.fs.cpu_count();
  s.cpu_mask = task->scheduling.cpu_mask & (cpus >= 64 ? ~uint64_t{0} : (uint64_t{1} << cpus) - 1);
  s.rss_limit = group.limits.Soft(RLIMIT_RSS);
  s.pending_limit = group.limits.Soft(RLIMIT_SIGPENDING);
  s.has_fs = static_cast<bool>(task->fs);
  if (s.has_fs) s.umask = task->fs->umask();
  if (descriptors && task->files) s.fd_slots = FdSlots(*task->files);
  s.mm = task->mm.Get();
  return s;
}

Result<std::string> StatusText(const TaskView& view) {
  const TaskInfo s = TRY(TakeTaskInfo(view, true));
  std::string text;
  AppendIds(text, s, view.opener());
  AppendMemory(text, s);
  AppendSignals(text, s);
  text += "Speculation_Store_Bypass:\tunknown\nSpeculationIndirectBranch:\tunknown\n";
  Append(text, "Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\n", MaskText(s.cpu_mask),
         ListText(s.cpu_mask));
  Append(text, "Mems_allowed:\t1\nMems_allowed_list:\t0\n");
  Append(text, "voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
         s.usage.voluntary_switches, s.usage.involuntary_switches);
  return text;
}

// Linux: do_task_stat.
Result<std::string> StatText(const TaskView& view) {
  const TaskInfo s = TRY(TakeTaskInfo(view, false));
  const mm::MemoryStats m = s.mm ? s.mm->Stats() : mm::MemoryStats{};
  mm::MemoryManager::Layout at;
  if (s.mm && s.may_inspect) at = s.mm->layout;
  kernel::ControllingTerminal terminal;
  if (s.session) terminal = kernel::ControllingTerminalOf(*view.subject.kernel, *s.session);
  const int foreground =
      terminal.foreground ? terminal.foreground->NumberIn(*view.subject.pids) : -1;
  constexpr uint32_t kRandomize = 0x400000, kForkNoExec = 0x40, kExiting = 0x4;
  const uint32_t flags = kRandomize | (s.has_exec || s.parent == 0 ? 0 : kForkNoExec) |
                         (s.state == 'Z' ? kExiting : 0);
  std::string text;
  Append(text, "{} ({}) {} {} {} {} {} {} {} ", s.tid, s.comm, s.state, s.parent, s.pgid, s.sid,
         terminal.device, foreground, flags);
  Append(text, "{} {} {} {} ", s.usage.minor_faults, s.children.minor_faults, s.usage.major_faults,
         s.children.major_faults);
  Append(text, "{} {} {} {} ", s.usage.user_ns / kTickNs, s.usage.system_ns / kTickNs,
         s.children.user_ns / kTickNs, s.children.system_ns / kTickNs);
  Append(text, "{} {} {} 0 {} ", 20 + s.nice, s.nice, s.threads, s.start_ns / kTickNs);
  Append(text, "{} {} {} ", m.virtual_size, m.resident / kPageSize, s.rss_limit);
  Append(text, "{} {} {} 0 0 ", at.start_code, at.end_code, at.start_stack);
  constexpr uint64_t kShown = 0x7fff'ffff;
  Append(text, "{} {} {} {} ", s.pending & kShown, s.blocked & kShown, s.ignored & kShown,
         s.caught & kShown);
  const int wchan = s.may_inspect && s.state != 'R' ? 1 : 0;
  Append(text, "{} 0 0 {} {} 0 0 0 0 {} ", wchan, s.exit_signal, s.cpu, 0);
  Append(text, "{} {} {} {} {} {} {} {}\n", at.start_data, at.end_data, at.start_brk, at.arg_start,
         at.arg_end, at.env_start, at.env_end, s.may_inspect ? s.exit_code : 0);
  return text;
}

Result<std::string> StatmText(const TaskView& view) {
  const Ref<mm::MemoryManager> mm = TRY(view.subject.Memory());
  if (!mm) return std::string("0 0 0 0 0 0 0\n");
  const mm::MemoryStats m = mm->Stats();
  return fmt::format("{} {} {} {} 0 {} 0\n", m.virtual_size / kPageSize, m.resident / kPageSize,
                     m.shared / kPageSize, m.text / kPageSize, (m.data + m.stack) / kPageSize);
}

}  // namespace skep::fs
