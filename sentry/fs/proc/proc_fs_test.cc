// /proc over a kernel whose tasks never run.
#include "sentry/fs/proc/proc_fs.h"

#include <linux/capability.h>

#include "sentry/arena/arena.h"
#include "sentry/fs/proc/subject.h"
#include "sentry/kernel/container.h"
#include "sentry/mm/mm_test_util.h"
#include "sentry/vfs/name_ops.h"
#include "sentry/vfs/test_caller.h"

namespace skep::fs {
namespace {

using vfs::CodeOf;

struct ProcTest : ::testing::Test {
  platform::fake::FakeEngine engine;
  std::unique_ptr<kernel::Kernel> kernel;
  Ref<kernel::Container> container;
  Ref<vfs::FsContext> fs;
  Ref<kernel::Task> init, other;
  ProcFs* proc = nullptr;

  void SetUp() override {
    const arena::ArenaHeapScope arena;
    kernel = std::make_unique<kernel::Kernel>(kernel::KernelConfig{.workers = 2});
    HostResult<std::unique_ptr<mm::MemoryFile>> memory = mm::MemoryFile::Make();
    ASSERT_TRUE(memory) << memory.error().message;
    kernel->memory = std::move(*memory);
    kernel->anon_fs = MakeRef<vfs::AnonFs>(9u);
    container =
        kernel::Container::Make(*kernel, {.id = "test", .pids = kernel->pid_namespace}).value();
    Ref<ProcFs> made = MakeRef<ProcFs>(*kernel, kernel->pid_namespace, 5u);
    proc = made.get();
    const auto mounts = MakeRef<vfs::MountNamespace>(std::move(made));
    const vfs::Path root = mounts->root();
    fs = MakeRef<vfs::FsContext>(mounts, root, root, 022u);
    init = NewProcess(1, 0);
    other = NewProcess(7, 1000);
  }

  void TearDown() override {
    Remove(*other);
    Remove(*init);
    init = other = {};
    fs = {};
    EXPECT_TRUE(container->Remove());
    container = {};
    kernel->anon_fs = {};
    kernel.reset();
  }

  Ref<kernel::Task> NewProcess(int pid, uint32_t uid) {
    Ref<kernel::Task> task = MakeRef<kernel::Task>(*kernel);
    task->group = MakeRef<kernel::ThreadGroup>(*kernel, container);
    kernel::ThreadGroup& group = *task->group;
    group.start_ns = kernel->boot_monotonic_ns() + static_cast<uint64_t>(pid) * 1'000'000'000;
    auth::Credentials creds;
    creds.user_namespace = kernel->user_namespace;
    creds.uid = creds.euid = creds.suid = creds.fsuid = uid;
    creds.gid = creds.egid = creds.sgid = creds.fsgid = uid;
    if (uid == 0) creds.permitted = creds.effective = auth::kAllCapabilities;
    const std::string_view name = "a (name)";
    TasksLock lock(*kernel);
    group.handlers = MakeRef<kernel::SignalHandlers>();
    group.limits.SetAll(kernel::Limits::Default());
    task->fs.Set(fs);
    task->files.Set(vfs::FdTableHold(MakeRef<vfs::FdTable>()));
    name.copy(task->comm.data(), name.size());
    task->credentials.Set(std::make_shared<const auth::Credentials>(creds));
    task->namespaces.Set(container->namespaces());
    const Ref<kernel::Pid> number = Allocate(pid);
    kernel::PublishLeader(*task, number);
    group.JoinProcessGroup(kernel::ProcessGroup::Make(number, kernel::Session::Make(number)));
    EXPECT_TRUE(container->AddTask());
    return task;
  }

  // Numbers are handed out in ascending order.
  Ref<kernel::Pid> Allocate(int number) REQUIRES(tasks) {
    for (;;) {
      Ref<kernel::Pid> pid = kernel::Pid::Allocate(*kernel->pid_namespace).value();
      if (pid->number() == number) return pid;
      pid->SetTask(nullptr);
    }
  }

  void Remove(kernel::Task& task) {
    const Ref<kernel::ThreadGroup> group = task.group;
    Ref<kernel::Task> leader;
    TasksLock lock(*kernel);
    if (group->reaped) return;
    group->reaped = true;
    group->LeaveProcessGroup();
    group->pid->SetTask(nullptr);
    group->pid->SetGroup(nullptr);
    container->RemoveTask();
    std::swap(leader, group->leader);
  }

  Ref<mm::MemoryManager> GiveMemory(kernel::Task& task) {
    Ref<mm::MemoryManager> memory = mm::MemoryManager::Make(*kernel->memory);
    EXPECT_TRUE(memory->Activate(engine));
    memory->users = 1;
    TasksLock lock(*kernel);
    task.mm.Set(memory);
    return memory;
  }

  Result<Ref<vfs::File>> Open(std::string_view path, kernel::Task& by, uint32_t flags = O_RDONLY) {
    vfs::NameOps walker(by, *fs);
    return walker.Open(path, {.flags = flags});
  }
  Result<std::string> TryRead(std::string_view path, kernel::Task& by) {
    Result<Ref<vfs::File>> file = Open(path, by);
    if (!file) return std::unexpected(file.error());
    return vfs::TryRead(by, **file, 1 << 20);
  }
  std::string Read(std::string_view path) {
    Result<std::string> text = TryRead(path, *init);
    return text ? *text : "error " + std::to_string(text.error().code());
  }
  int Write(std::string_view path, std::string_view text, kernel::Task& by) {
    Result<Ref<vfs::File>> file = Open(path, by, O_WRONLY | O_TRUNC);
    return file ? CodeOf(vfs::TryWrite(by, **file, text)) : file.error().code();
  }
  Result<std::string> Link(std::string_view path, kernel::Task& by) {
    vfs::NameOps walker(by, *fs);
    Result<vfs::Path> found = walker.Resolve(path, {.follow = vfs::FollowFinal::kNo});
    if (!found) return std::unexpected(found.error());
    return walker.ReadLink(*found);
  }
  std::vector<std::string> Names(std::string_view path) {
    std::vector<std::string> names;
    const Ref<vfs::File> file = Open(path, *init, O_RDONLY | O_DIRECTORY).value();
    const vfs::DirSink sink = [&](const vfs::DirEntry& entry) {
      names.emplace_back(entry.name);
      return true;
    };
    const uint64_t end = file->ReadDir(*init, 0, sink).value();
    const size_t count = names.size();
    EXPECT_EQ(file->ReadDir(*init, end, sink).value(), end);
    EXPECT_EQ(names.size(), count);
    return names;
  }
  vfs::Attributes Stat(std::string_view path) {
    vfs::NameOps walker(*init, *fs);
    const vfs::Path found = walker.Resolve(path, {.follow = vfs::FollowFinal::kNo}).value();
    return found.inode()->GetAttributes().value();
  }
};

bool Contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST_F(ProcTest, RootHasFixedFilesAndProcesses) {
  const std::vector<std::string> names = Names("/");
  for (const char* name : {".", "..", "self", "stat", "meminfo", "sys", "1", "7"}) {
    EXPECT_EQ(std::count(names.begin(), names.end(), name), 1) << name;
  }
  EXPECT_EQ(Link("/self", *other).value(), "7");
  EXPECT_EQ(Link("/thread-self", *other).value(), "7/task/7");
  EXPECT_EQ(Link("/mounts", *init).value(), "self/mounts");
  EXPECT_EQ(CodeOf(TryRead("/modules", *init)), ENOENT);
  EXPECT_EQ(CodeOf(TryRead("/07/stat", *init)), ENOENT);
}

TEST_F(ProcTest, ADirectoryGoesWithItsProcess) {
  Remove(*other);
  other = NewProcess(400, 1000);  // numbers below 300 are not handed out again
  const Ref<vfs::File> open = Open("/400/comm", *init).value();
  EXPECT_EQ(Read("/400/comm"), "a (name)\n");
  const Ref<kernel::Task> gone = other;
  Remove(*other);
  EXPECT_EQ(CodeOf(TryRead("/400/comm", *init)), ENOENT);
  EXPECT_EQ(CodeOf(vfs::TryRead(*init, *open, 99)), ESRCH);
  other = NewProcess(400, 1000);
  other->group->start_ns += 1;  // a later process with its number
  EXPECT_EQ(Read("/400/comm"), "a (name)\n");
  EXPECT_EQ(CodeOf(vfs::TryRead(*init, *open, 99)), ESRCH);
}

TEST_F(ProcTest, FixedDentriesStayWhatTheyAre) {
  vfs::NameOps walker(*init, *fs);
  const vfs::Path first = walker.Resolve("/sys/kernel", {}).value();
  EXPECT_EQ(walker.Resolve("/sys/kernel", {}).value(), first);
  EXPECT_EQ(CodeOf(walker.Mkdir("/new", 0700)), ENOENT);
  EXPECT_EQ(CodeOf(walker.Unlink("/1/status")), EPERM);
}

TEST_F(ProcTest, StatHasAllFields) {
  const std::string text = Read("/7/stat");
  EXPECT_EQ(text.rfind("7 (a (name)) R 0 7 7 0 -1 ", 0), 0U) << text;
  std::vector<std::string> fields = {"", ""};
  std::string rest = text.substr(text.rfind(')') + 2);
  for (size_t at; (at = rest.find_first_of(" \n")) != std::string::npos; rest.erase(0, at + 1)) {
    fields.push_back(rest.substr(0, at));
  }
  ASSERT_EQ(fields.size(), 52U);
  EXPECT_EQ(fields[19], "1") << "threads";
  EXPECT_EQ(fields[21], "700") << "start, in ticks since boot";
}

TEST_F(ProcTest, StatusTellsIdsAndSignals) {
  {
    TasksLock lock(*kernel);
    other->blocked.Set(kernel::SignalSet::Of(SIGHUP));
    other->group->handlers->Of(SIGINT).handler = 1;
    other->group->handlers->Of(SIGTERM).handler = 0x1000;
  }
  const std::string text = Read("/7/status");
  EXPECT_TRUE(Contains(text, "Name:\ta (name)\nUmask:\t0022\nState:\tR (running)\nTgid:\t7\n"));
  EXPECT_TRUE(Contains(text, "\nUid:\t1000\t1000\t1000\t1000\n"));
  EXPECT_TRUE(Contains(text, "\nFDSize:\t64\n"));
  EXPECT_TRUE(Contains(text, "\nThreads:\t1\n"));
  EXPECT_TRUE(Contains(text,
                       "\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000000002\n"
                       "SigCgt:\t0000000000004000\n"));
  EXPECT_TRUE(Contains(text, "\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n"));
}

TEST_F(ProcTest, ZombiesAreStillThere) {
  (void)GiveMemory(*other);
  EXPECT_TRUE(Contains(Read("/7/status"), "\nVmRSS:"));
  {
    Ref<mm::MemoryManager> memory;
    vfs::FdTableHold files;
    TasksLock lock(*kernel);
    memory = other->mm.Exchange({});
    files = other->files.Exchange({});
    other->exited = other->group->zombie = true;
    other->group->threads.clear();
  }
  EXPECT_TRUE(Contains(Read("/7/status"), "State:\tZ (zombie)\n"));
  EXPECT_FALSE(Contains(Read("/7/status"), "VmRSS"));
  EXPECT_TRUE(Contains(Read("/7/stat"), "(a (name)) Z "));
  EXPECT_EQ(Read("/7/statm"), "0 0 0 0 0 0 0\n");
  EXPECT_EQ(Read("/7/cmdline"), "");
  EXPECT_EQ(Read("/7/maps"), "");
  EXPECT_EQ(CodeOf(Link("/7/exe", *init)), ENOENT);
  EXPECT_EQ(Names("/7/fd").size(), 2U);
  EXPECT_EQ(Names("/7/task").size(), 3U);
}

TEST_F(ProcTest, OthersMayNotLookInside) {
  (void)GiveMemory(*init);
  (void)GiveMemory(*other);
  EXPECT_EQ(CodeOf(TryRead("/1/environ", *other)), EACCES);
  EXPECT_EQ(CodeOf(TryRead("/1/maps", *other)), EACCES);
  EXPECT_EQ(CodeOf(TryRead("/1/fd", *other)), EACCES);
  EXPECT_EQ(CodeOf(Link("/1/cwd", *other)), EACCES);
  EXPECT_EQ(CodeOf(TryRead("/1/stat", *other)), 0);
  EXPECT_EQ(Link("/7/cwd", *other).value(), "/");
  EXPECT_EQ(CodeOf(TryRead("/7/environ", *other)), 0);
  EXPECT_EQ(CodeOf(TryRead("/7/environ", *init)), 0);
  EXPECT_EQ(Stat("/7/environ").uid, 1000U);
  other->mm->dumpable = mm::Dumpable::kNo;
  EXPECT_EQ(Stat("/7/environ").uid, 0U);
  EXPECT_EQ(Stat("/7").uid, 1000U);
}

TEST_F(ProcTest, MemoryOpenedBeforeAnExecIsClosedAfterIt) {
  const Ref<mm::MemoryManager> memory = GiveMemory(*other);
  const uint64_t at =
      memory
          ->Mmap(
              {.size = 4096, .prot = PROT_READ | PROT_WRITE, .flags = MAP_PRIVATE | MAP_ANONYMOUS},
              {})
          .value();
  const Ref<vfs::File> mem = Open("/7/mem", *other, O_RDWR).value();
  std::string word = "word";
  const auto write = [&] {
    mm::IoSequence from = mm::IoSequence::FromKernel(std::as_bytes(std::span(word)));
    uint64_t offset = at;
    return mem->Write(*other, from, &offset);
  };
  EXPECT_EQ(write().value(), 4U);
  std::string seen(4, '\0');
  mm::IoSequence to = mm::IoSequence::FromKernel(std::as_writable_bytes(std::span(seen)));
  EXPECT_EQ(mem->Read(*other, to, at).value(), 4U);
  EXPECT_EQ(seen, "word");
  mm::IoSequence nowhere = mm::IoSequence::FromKernel(std::as_writable_bytes(std::span(seen)));
  EXPECT_EQ(CodeOf(mem->Read(*other, nowhere, 4096)), EIO);
  ASSERT_TRUE(memory->Clear());
  EXPECT_EQ(write().value(), 0U);
}

TEST_F(ProcTest, CmdlineFollowsSetproctitle) {
  const Ref<mm::MemoryManager> memory = GiveMemory(*other);
  const uint64_t at =
      memory
          ->Mmap(
              {.size = 8192, .prot = PROT_READ | PROT_WRITE, .flags = MAP_PRIVATE | MAP_ANONYMOUS},
              {})
          .value();
  const auto put = [&](uint64_t offset, std::string_view text) {
    ASSERT_EQ(memory->CopyOut(mm::UserAddr{at + offset}, std::as_bytes(std::span(text))).bytes,
              text.size());
  };
  put(0, std::string_view("cat\0file\0HOME=/\0", 16));
  memory->layout.arg_start = at;
  memory->layout.arg_end = memory->layout.env_start = at + 9;
  memory->layout.env_end = at + 16;
  EXPECT_EQ(Read("/7/cmdline"), std::string("cat\0file\0", 9));
  EXPECT_EQ(Read("/7/environ"), std::string("HOME=/\0", 7));
  put(0, std::string_view("a longer title\0", 15));
  EXPECT_EQ(Read("/7/cmdline"), std::string("a longer title\0", 15));
  EXPECT_TRUE(Contains(Read("/7/smaps"), "Size:                  8 kB\n"));
  EXPECT_TRUE(Contains(Read("/7/smaps_rollup"), "[rollup]\nRss: "));
}

TEST_F(ProcTest, DescriptorsAreLinks) {
  (void)GiveMemory(*other);
  const vfs::Path pipe = kernel->anon_fs->NewPath("pipe", S_IFIFO | 0600, other->creds());
  const Ref<vfs::File> file = MakeRef<vfs::File>(pipe, uint32_t{O_WRONLY});
  EXPECT_EQ(other->files->Reserve(100, 3).value().fd(), 3);
  std::move(*other->files->Reserve(100, 3)).Commit(file, vfs::CloseOnExec::kYes);
  EXPECT_EQ(Names("/7/fd"), (std::vector<std::string>{".", "..", "3"}));
  EXPECT_EQ(Link("/7/fd/3", *other).value(), pipe.dentry->name());
  EXPECT_EQ(Stat("/7/fd/3").mode, uint32_t{S_IFLNK | 0300});
  EXPECT_EQ(Stat("/7/fd/3").size, 64U);
  EXPECT_EQ(CodeOf(Link("/7/fd/4", *other)), ENOENT);
  const std::string info = Read("/7/fdinfo/3");
  EXPECT_EQ(info.rfind("pos:\t0\nflags:\t02000001\nmnt_id:\t", 0), 0U) << info;
  vfs::NameOps walker(*other, *fs);
  EXPECT_EQ(walker.Resolve("/7/fd/3", {}).value(), pipe);
  (void)other->files->Remove(3);
  EXPECT_EQ(CodeOf(Link("/7/fd/3", *other)), ENOENT);
}

TEST_F(ProcTest, CommAndOomScoreAreWritten) {
  (void)GiveMemory(*other);
  EXPECT_EQ(Write("/7/comm", "renamed by itself", *other), 0);
  EXPECT_EQ(Read("/7/comm"), "renamed by itse\n");
  EXPECT_EQ(Write("/7/comm", "x", *init), EINVAL);
  EXPECT_EQ(Write("/7/oom_score_adj", "500\n", *other), 0);
  EXPECT_EQ(Read("/7/oom_score_adj"), "500\n");
  EXPECT_EQ(Read("/7/oom_adj"), "8\n");
  EXPECT_EQ(Write("/7/oom_score_adj", "1001", *other), EINVAL);
  EXPECT_EQ(Write("/7/oom_score_adj", "-1", *other), EACCES);
  EXPECT_EQ(Write("/7/oom_score_adj", "-1", *init), 0);
  EXPECT_EQ(Write("/7/stat", "1", *init), EINVAL);
  EXPECT_EQ(Write("/7/stat", "1", *other), EACCES);
}

TEST_F(ProcTest, SysctlsHaveModesForRootToo) {
  EXPECT_EQ(Read("/sys/kernel/ostype"), "Linux\n");
  EXPECT_EQ(Write("/sys/kernel/ostype", "BSD", *init), EACCES);
  EXPECT_EQ(Write("/sys/kernel/hostname", "name\n", *init), 0);
  EXPECT_EQ(Read("/sys/kernel/hostname"), "name\n");
  EXPECT_EQ(container->namespaces()->uts->hostname(), "name");
  EXPECT_EQ(Write("/sys/kernel/hostname", "x", *other), EACCES);
  EXPECT_EQ(Read("/sys/kernel/random/uuid").size(), 37U);
  EXPECT_NE(Read("/sys/kernel/random/uuid"), Read("/sys/kernel/random/uuid"));
  EXPECT_EQ(Read("/sys/kernel/random/boot_id"), Read("/sys/kernel/random/boot_id"));
}

TEST_F(ProcTest, AReaderInPiecesSeesOneText) {
  const Ref<vfs::File> file = Open("/sys/kernel/hostname", *init).value();
  const auto read = [&](uint64_t offset) {
    std::string text(2, '\0');
    mm::IoSequence to = mm::IoSequence::FromKernel(std::as_writable_bytes(std::span(text)));
    text.resize(file->Read(*init, to, offset).value());
    return text;
  };
  EXPECT_EQ(read(0), "sk");
  container->namespaces()->uts->SetHostname("other");
  EXPECT_EQ(read(2), "ep");
  EXPECT_EQ(read(0), "ot");
  EXPECT_EQ(file->Seek(1, SEEK_SET).value(), 1U);
  EXPECT_EQ(CodeOf(file->Seek(0, SEEK_END)), EINVAL);
}

TEST_F(ProcTest, TellsOfTheMachine) {
  const std::string cpus = Read("/cpuinfo");
  EXPECT_TRUE(Contains(cpus, "processor\t: 1\n"));
  EXPECT_FALSE(Contains(cpus, "processor\t: 2\n"));
  EXPECT_TRUE(Contains(cpus, " sse2 "));
  EXPECT_TRUE(Contains(Read("/stat"), "\ncpu1 "));
  EXPECT_TRUE(Contains(Read("/meminfo"), "MemTotal:       "));
  EXPECT_TRUE(Contains(Read("/loadavg"), "/2 "));
  EXPECT_EQ(Read("/version").rfind("Linux version ", 0), 0U);
  EXPECT_TRUE(Contains(Read("/self/mounts"), "proc / proc rw,relatime 0 0\n"));
  EXPECT_TRUE(Contains(Read("/self/mountinfo"), "1 0 0:5 / / rw,relatime - proc proc rw\n"));
  EXPECT_TRUE(Contains(Read("/net/dev"), "lo:"));
  EXPECT_TRUE(Contains(Read("/1/limits"), "Max open files            1024                 "));
}

TEST_F(ProcTest, NamespacesCanBeOpenedAndCompared) {
  EXPECT_EQ(Link("/1/ns/pid", *init).value(), "pid:[4026531836]");
  const Ref<vfs::File> first = Open("/1/ns/pid", *init).value();
  const Ref<vfs::File> second = Open("/7/ns/pid_for_children", *init).value();
  EXPECT_EQ(first->inode()->ino(), second->inode()->ino());
}

}  // namespace
}  // namespace skep::fs
