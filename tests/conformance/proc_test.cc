// /proc: what programs read about themselves, others and the machine.
#include <dirent.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

#include <atomic>
#include <cstring>
#include <set>
#include <sstream>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

std::string Link(const std::string& path) {
  char target[4096] = {};
  return readlink(path.c_str(), target, sizeof(target) - 1) < 0 ? "" : target;
}

// The value after "Key:" in a status-like file.
std::string Field(const std::string& path, const std::string& key) {
  const std::string text = "\n" + ReadFile(path);
  const size_t at = text.find("\n" + key + ":");
  if (at == std::string::npos) return "";
  const size_t start = text.find_first_not_of(" \t", at + key.size() + 2);
  return text.substr(start, text.find('\n', start) - start);
}

std::vector<std::string> StatFields(const std::string& path) {
  const std::string text = ReadFile(path);
  std::istringstream words(text.substr(text.rfind(')') + 1));
  std::vector<std::string> fields = {"", ""};  // numbered from 1, as proc(5) does: pid and name
  for (std::string word; words >> word;) fields.push_back(word);
  return fields;
}

std::set<std::string> Names(const std::string& path) {
  std::set<std::string> names;
  DIR* stream = opendir(path.c_str());
  if (stream == nullptr) return names;
  while (const dirent* entry = readdir(stream)) names.insert(entry->d_name);
  closedir(stream);
  return names;
}

TEST(Proc, SelfIsTheReader) {
  EXPECT_EQ(Link("/proc/self"), std::to_string(getpid()));
  EXPECT_EQ(Link("/proc/thread-self"),
            std::to_string(getpid()) + "/task/" + std::to_string(GetTid()));
  EXPECT_THAT(ForkAndRun([] { EXPECT_EQ(Link("/proc/self"), std::to_string(getpid())); }),
              ExitsWith(0));
}

TEST(Proc, ListsProcesses) {
  ChildProcess child([] {
    for (;;) pause();
  });
  const std::set<std::string> names = Names("/proc");
  EXPECT_EQ(names.count(std::to_string(getpid())), 1u);
  EXPECT_EQ(names.count(std::to_string(child.pid())), 1u);
  for (const char* name : {"self", "meminfo", "cpuinfo", "stat", "uptime", "loadavg", "mounts"}) {
    EXPECT_EQ(names.count(name), 1u) << name;
  }
}

TEST(Proc, VanishesWithTheProcess) {
  std::string path;
  {
    ChildProcess child([] {
      for (;;) pause();
    });
    path = "/proc/" + std::to_string(child.pid());
    EXPECT_TRUE(Exists(path));
  }
  EXPECT_FALSE(Exists(path));
  EXPECT_FALSE(Exists("/proc/99999999"));
}

TEST(Proc, ExeCwdAndRoot) {
  EXPECT_EQ(Link("/proc/self/exe"), TestBinary());
  char cwd[4096];
  EXPECT_EQ(Link("/proc/self/cwd"), getcwd(cwd, sizeof(cwd)));
  EXPECT_EQ(Link("/proc/self/root"), "/");
  const Fd fd(open("/proc/self/exe", O_RDONLY));
  char magic[4];
  EXPECT_THAT(read(fd, magic, 4), SucceedsWith(4));
  EXPECT_EQ(std::string(magic, 4),
            "\x7f"
            "ELF");
}

TEST(Proc, CmdlineAndEnviron) {
  const Outcome outcome = RunProgram(
      TestBinary(), {TestBinary(), "--helper=cat", "/proc/self/cmdline", "two words"}, {"A=b"});
  EXPECT_EQ(outcome.output.substr(outcome.output.find('\0') + 1),
            std::string("--helper=cat\0/proc/self/cmdline\0two words\0", 42));
  EXPECT_EQ(
      RunProgram(TestBinary(), {TestBinary(), "--helper=cat", "/proc/self/environ"}, {"A=b", "C="})
          .output,
      std::string("A=b\0C=\0", 7));
}
const Helper kCat("cat", [](int, char** argv) {
  const std::string text = ReadFile(argv[0]);
  return write(STDOUT_FILENO, text.data(), text.size()) < 0 ? 1 : 0;
});

TEST(Proc, CommIsReadAndWritten) {
  EXPECT_THAT(ForkAndRun([] {
                WriteFile("/proc/self/comm", "renamed");
                EXPECT_EQ(ReadFile("/proc/self/comm"), "renamed\n");
                char name[16];
                prctl(PR_GET_NAME, name);
                EXPECT_STREQ(name, "renamed");
              }),
              ExitsWith(0));
}

TEST(Proc, StatHasIdsStateAndName) {
  const std::string text = ReadFile("/proc/self/stat");
  EXPECT_EQ(text.substr(0, text.find(' ')), std::to_string(getpid()));
  EXPECT_NE(text.find("(proc_test)"), std::string::npos);
  const std::vector<std::string> fields = StatFields("/proc/self/stat");
  ASSERT_GE(fields.size(), 52u);
  EXPECT_EQ(fields[2], "R");
  EXPECT_EQ(fields[3], std::to_string(getppid()));
  EXPECT_EQ(fields[4], std::to_string(getpgrp()));
  EXPECT_EQ(fields[5], std::to_string(getsid(0)));
  EXPECT_EQ(fields[19], "1") << "one thread";
  EXPECT_GT(std::stoull(fields[22]), 0u) << "bytes of address space";
  EXPECT_GT(std::stoull(fields[23]), 0u) << "resident pages";
}

TEST(Proc, StatesOfOthers) {
  ChildProcess sleeper([] {
    for (;;) pause();
  });
  EXPECT_TRUE(WaitUntil([&] { return ProcessState(sleeper.pid()) == 'S'; }));
  sleeper.Kill(SIGSTOP);
  EXPECT_TRUE(WaitUntil([&] { return ProcessState(sleeper.pid()) == 'T'; }));
  sleeper.Kill(SIGKILL);
  EXPECT_TRUE(WaitUntil([&] { return ProcessState(sleeper.pid()) == 'Z'; }));
  EXPECT_EQ(ReadFile("/proc/" + std::to_string(sleeper.pid()) + "/cmdline"), "");
}

TEST(Proc, StatusHasIdsMasksAndMemory) {
  const std::string path = "/proc/self/status";
  EXPECT_EQ(Field(path, "Name"), "proc_test");
  EXPECT_EQ(Field(path, "Pid"), std::to_string(getpid()));
  EXPECT_EQ(Field(path, "Tgid"), std::to_string(getpid()));
  EXPECT_EQ(Field(path, "PPid"), std::to_string(getppid()));
  EXPECT_EQ(Field(path, "State"), "R (running)");
  const std::string uid = std::to_string(getuid());
  EXPECT_EQ(Field(path, "Uid"), uid + "\t" + uid + "\t" + uid + "\t" + uid);
  EXPECT_EQ(Field(path, "Threads"), "1");
  EXPECT_NE(Field(path, "VmRSS"), "");
  EXPECT_NE(Field(path, "VmSize"), "");
  EXPECT_EQ(Field(path, "NoNewPrivs").size(), 1u);
  const ScopedSignalMask mask(SIG_BLOCK, {SIGHUP});
  EXPECT_EQ(Field(path, "SigBlk"), "0000000000000001");
  EXPECT_EQ(Field(path, "CapEff").size(), 16u);
}

TEST(Proc, TaskListsThreads) {
  EXPECT_EQ(Names("/proc/self/task"), (std::set<std::string>{".", "..", std::to_string(getpid())}));
  std::atomic<pid_t> tid = 0;
  std::atomic<bool> stop = false;
  std::thread thread([&] {
    prctl(PR_SET_NAME, "worker");
    tid = GetTid();
    while (!stop) sched_yield();
  });
  while (tid == 0) sched_yield();
  EXPECT_EQ(Names("/proc/self/task").size(), 4u);
  EXPECT_EQ(ReadFile("/proc/self/task/" + std::to_string(tid) + "/comm"), "worker\n");
  EXPECT_EQ(Field("/proc/self/status", "Threads"), "2");
  stop = true;
  thread.join();
}

TEST(Proc, FdListsDescriptors) {
  const Pipe pipe = MakePipe();
  EXPECT_EQ(Names("/proc/self/fd").count(std::to_string(pipe.reader)), 1u);
  EXPECT_EQ(Link("/proc/self/fd/" + std::to_string(pipe.reader)).substr(0, 6), "pipe:[");
  const Fd null(open("/dev/null", O_RDONLY));
  EXPECT_EQ(Link("/proc/self/fd/" + std::to_string(null)), "/dev/null");
  EXPECT_EQ(Link("/proc/self/fd/1000000"), "");
  struct stat st = {};
  ASSERT_THAT(lstat(("/proc/self/fd/" + std::to_string(pipe.reader)).c_str(), &st), Succeeds());
  EXPECT_TRUE(S_ISLNK(st.st_mode));
  EXPECT_EQ(st.st_mode & 0700, 0500u) << "read-only";
}

TEST(Proc, FdinfoTellsOffsetAndFlags) {
  const TempDir dir;
  WriteFile(dir.File("f"), "0123456789");
  const Fd fd(open(dir.File("f").c_str(), O_RDONLY | O_CLOEXEC));
  lseek(fd, 7, SEEK_SET);
  const std::string path = "/proc/self/fdinfo/" + std::to_string(fd);
  EXPECT_EQ(Field(path, "pos"), "7");
  EXPECT_NE(Field(path, "flags"), "");
}

TEST(Proc, FilesOfAnotherUserAreClosed) {
  REQUIRE_ROOT();
  const std::string path = "/proc/" + std::to_string(getpid());
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setresgid(1234, 1234, 1234), Succeeds());
                ASSERT_THAT(setresuid(1234, 1234, 1234), Succeeds());
                EXPECT_THAT(open((path + "/environ").c_str(), O_RDONLY), FailsWith(EACCES));
                EXPECT_EQ(Link(path + "/exe"), "");
                EXPECT_NE(ReadFile(path + "/stat"), "");
              }),
              ExitsWith(0));
}

TEST(Proc, MountsNameTheRoot) {
  const std::string mounts = ReadFile("/proc/self/mounts");
  EXPECT_NE(mounts.find(" / "), std::string::npos);
  EXPECT_NE(mounts.find(" /proc proc "), std::string::npos);
  EXPECT_EQ(ReadFile("/proc/mounts"), mounts);
  EXPECT_NE(ReadFile("/proc/self/mountinfo").find(" - proc "), std::string::npos);
}

TEST(Proc, LimitsAndStatm) {
  const std::string limits = ReadFile("/proc/self/limits");
  EXPECT_NE(limits.find("Max open files"), std::string::npos);
  unsigned long pages = 0;
  EXPECT_EQ(sscanf(ReadFile("/proc/self/statm").c_str(), "%lu", &pages), 1);
  EXPECT_GT(pages, 100u);
}

TEST(Proc, CpuinfoMatchesTheCpusWeMayUse) {
  const std::string text = ReadFile("/proc/cpuinfo");
  size_t processors = 0;
  for (size_t at = 0; (at = text.find("processor\t:", at)) != std::string::npos; ++at) ++processors;
  cpu_set_t set;
  CPU_ZERO(&set);
  ASSERT_THAT(sched_getaffinity(0, sizeof(set), &set), Succeeds());
  EXPECT_GE(processors, static_cast<size_t>(CPU_COUNT(&set)));
  EXPECT_NE(text.find("flags\t\t: "), std::string::npos);
  EXPECT_NE(text.find(" sse2 "), std::string::npos);
}

TEST(Proc, MeminfoAgreesWithSysinfo) {
  const std::string total = Field("/proc/meminfo", "MemTotal");
  EXPECT_NE(total.find(" kB"), std::string::npos);
  struct sysinfo info = {};
  ASSERT_THAT(sysinfo(&info), Succeeds());
  EXPECT_EQ(std::stoull(total), info.totalram * info.mem_unit / 1024);
  for (const char* key : {"MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal"}) {
    EXPECT_NE(Field("/proc/meminfo", key), "") << key;
  }
}

TEST(Proc, StatCountsCpuTime) {
  const std::string text = ReadFile("/proc/stat");
  EXPECT_EQ(text.substr(0, 5), "cpu  ");
  EXPECT_NE(text.find("\ncpu0 "), std::string::npos);
  EXPECT_NE(text.find("\nbtime "), std::string::npos);
  EXPECT_NE(text.find("\nprocesses "), std::string::npos);
}

TEST(Proc, UptimeAndLoadavg) {
  double up = 0;
  double idle = 0;
  EXPECT_EQ(sscanf(ReadFile("/proc/uptime").c_str(), "%lf %lf", &up, &idle), 2);
  EXPECT_GT(up, 0);
  double load[3];
  int running = 0;
  int total = 0;
  int last = 0;
  EXPECT_EQ(sscanf(ReadFile("/proc/loadavg").c_str(), "%lf %lf %lf %d/%d %d", &load[0], &load[1],
                   &load[2], &running, &total, &last),
            6);
  EXPECT_GE(total, running);
}

TEST(Proc, VersionFilesystemsAndSysKernel) {
  EXPECT_EQ(ReadFile("/proc/version").substr(0, 14), "Linux version ");
  const std::string types = ReadFile("/proc/filesystems");
  for (const char* name : {"sysfs", "tmpfs", "proc", "devpts", "mqueue", "pipefs", "sockfs"}) {
    EXPECT_NE(types.find("nodev\t" + std::string(name) + "\n"), std::string::npos) << name;
  }
  EXPECT_EQ(ReadFile("/proc/sys/kernel/ostype"), "Linux\n");
  EXPECT_GE(std::stol(ReadFile("/proc/sys/kernel/pid_max")), 1000);
  EXPECT_GE(std::stol(ReadFile("/proc/sys/fs/pipe-max-size")), 65'536);
}

TEST(Proc, IsReadInPiecesAndFromOffsets) {
  const Fd fd(open("/proc/self/status", O_RDONLY));
  char first[8] = {};
  EXPECT_THAT(read(fd, first, 5), SucceedsWith(5));
  EXPECT_STREQ(first, "Name:");
  char second[4] = {};
  EXPECT_THAT(pread(fd, second, 3, 1), SucceedsWith(3));
  EXPECT_STREQ(second, "ame");
  struct stat st;
  fstat(fd, &st);
  EXPECT_EQ(st.st_size, 0);
}

// The descriptor's number is the argument; what is left of it to read goes to stdout.
const Helper kReadDescriptor("read_descriptor", [](int argc, char** argv) {
  char buffer[64];
  const ssize_t n = read(atoi(argv[argc - 1]), buffer, sizeof(buffer));
  return n == 0 ? 0 : 1;
});

TEST(Proc, MemoryFilesAreOfTheProgramThatWasThereAtOpen) {
  for (const char* name : {"environ", "mem"}) {
    EXPECT_THAT(ForkAndRun([&] {
                  const int fd = open(("/proc/self/" + std::string(name)).c_str(), O_RDONLY);
                  ASSERT_THAT(fd, Succeeds());
                  const std::string number = std::to_string(fd);
                  const char* const argv[] = {"x", "--helper=read_descriptor", number.c_str(),
                                              nullptr};
                  execv(TestBinary().c_str(), const_cast<char**>(argv));
                  _exit(9);
                }),
                ExitsWith(0))
        << name;
  }
}

TEST(Proc, StatTellsWhereTheHeapStarts) {
  const std::string text = ReadFile("/proc/self/stat");
  std::vector<std::string> fields;
  size_t at = text.rfind(')') + 2;
  while (at < text.size()) {
    const size_t end = text.find_first_of(" \n", at);
    fields.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  constexpr size_t kStartBrk = 47 - 3;  // proc(5) counts from 1; the first here is field 3
  ASSERT_GT(fields.size(), kStartBrk);
  const uint64_t start = std::stoull(fields[kStartBrk]);
  EXPECT_GT(start, 0u);
  EXPECT_LE(start, reinterpret_cast<uint64_t>(sbrk(0)));
}

TEST(Proc, CannotBeChanged) {
  EXPECT_THAT(mkdir("/proc/new", 0700), FailsWith(ENOENT));
  EXPECT_THAT(unlink("/proc/self/status"), FailsWith(EPERM));
  EXPECT_THAT(open("/proc/self/stat", O_RDONLY | O_CREAT | O_EXCL, 0600), FailsWith(EEXIST));
}

}  // namespace
}  // namespace skep::test
