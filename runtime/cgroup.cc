#include "runtime/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <memory>

#include "base/host_call.h"
#include "runtime/text.h"

namespace skep::runtime {
namespace {

constexpr std::string_view kPrefix = "skep-sandbox-";
// Below a sandbox's group.
constexpr std::array kParts = {"/stubs", "/kernel"};
constexpr size_t kProcFileMax = size_t{1} << 20;

struct CgroupMount {
  std::string root, point, type, options;
};

std::vector<CgroupMount> ReadMounts(const std::string& mountinfo) {
  std::vector<CgroupMount> mounts;
  for (const std::string& line : Split(mountinfo, '\n')) {
    const std::vector<std::string> words = Split(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 6 || words.end() - dash < 4) continue;
    if (!dash[1].starts_with("cgroup")) continue;
    mounts.push_back({words[3], words[4], dash[1], dash[3]});
  }
  return mounts;
}

bool HasWord(const std::string& list, std::string_view word, char separator) {
  const std::vector<std::string> words = Split(list, separator);
  return std::find(words.begin(), words.end(), word) != words.end();
}

// The group of this process in a hierarchy, as seen below the mount's root.
std::optional<std::string> OwnGroup(const std::string& cgroup, std::string_view controller,
                                    const std::string& mount_root) {
  for (const std::string& line : Split(cgroup, '\n')) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool found =
        controller.empty() ? line.starts_with("0::") : HasWord(controllers, controller, ',');
    if (!found) continue;
    std::string path = line.substr(second + 1);
    if (mount_root != "/") {
      if (!path.starts_with(mount_root)) return "/";
      path = path.substr(mount_root.size());
    }
    return path.empty() ? "/" : path;
  }
  return std::nullopt;
}

std::string Join(const std::string& mount, const std::string& group) {
  return group == "/" ? mount : mount + group;
}

Result<void> MakeDirectory(const std::string& path) {
  TRY(host::Call(SYS_mkdirat, AT_FDCWD, path.c_str(), 0755));
  return {};
}

// Processes that were killed stay in their group for a moment. The parents of a sandbox's group are
// busy while another one has a group there.
void RemoveDirectories(const std::vector<std::string>& outermost_first, size_t own) {
  constexpr useconds_t kPauseUs = 2000;
  constexpr int kTries = 2500;
  for (size_t i = outermost_first.size(); i > 0; --i) {
    const int most = i > own ? kTries : 1;
    for (int tries = 0; tries < most; ++tries) {
      const Result<int64_t> removed = host::Call(SYS_rmdir, outermost_first[i - 1].c_str());
      if (removed || removed.error() != Errno(EBUSY)) break;  // nobody is in it any more
      usleep(kPauseUs);
    }
  }
}

Result<void> WriteFile(const std::string& path, const std::string& text) {
  const OwnedFd file = TRY(host::Open(path.c_str(), O_WRONLY | O_CLOEXEC));
  TRY(host::Write(file.get(), std::as_bytes(std::span(text))));
  return {};
}

bool Lock(int fd) { return host::Call(SYS_flock, fd, LOCK_EX | LOCK_NB).has_value(); }

// Outermost first.
std::vector<std::string> MissingParents(const std::string& path) {
  std::vector<std::string> missing;
  for (size_t end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (access(part.c_str(), F_OK) != 0) missing.push_back(part);
  }
  return missing;
}

// A group whose maker holds no lock on it any more has been left behind.
bool IsLeft(const std::string& path) {
  const Result<OwnedFd> fd = host::Open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return fd && Lock(fd->get());
}

void RemoveLeftovers(const std::string& parent) {
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(parent.c_str()), &closedir);
  if (!dir) return;
  while (const dirent* entry = readdir(dir.get())) {
    if (!std::string_view(entry->d_name).starts_with(kPrefix)) continue;
    const std::string path = parent + "/" + entry->d_name;
    if (!IsLeft(path)) continue;
    for (const char* part : kParts) (void)rmdir((path + part).c_str());
    (void)rmdir(path.c_str());
  }
}

// Processes that the sandbox's end has not ended: stopped ones, for example.
void KillAllIn(const std::string& group) {
  const Result<std::string> pids =
      host::ReadWholeFile((group + "/cgroup.procs").c_str(), kProcFileMax);
  if (!pids) return;
  for (const std::string& line : Split(*pids, '\n')) {
    const pid_t pid = atoi(line.c_str());
    if (pid > 0) (void)host::Kill(pid, SIGKILL);
  }
}

}  // namespace

std::optional<MemoryHierarchy> FindMemoryHierarchy(const std::string& mountinfo,
                                                   const std::string& cgroup) {
  const std::vector<CgroupMount> mounts = ReadMounts(mountinfo);
  using Version = MemoryHierarchy::Version;
  for (const CgroupMount& mount : mounts) {
    if (mount.type != "cgroup" || !HasWord(mount.options, "memory", ',')) continue;
    const auto own = OwnGroup(cgroup, "memory", mount.root);
    if (own) return MemoryHierarchy{Version::kV1, mount.point, *own};
  }
  for (const CgroupMount& mount : mounts) {
    if (mount.type != "cgroup2") continue;
    const auto own = OwnGroup(cgroup, "", mount.root);
    if (own) return MemoryHierarchy{Version::kV2, mount.point, *own};
  }
  return std::nullopt;
}

std::vector<std::string> ParentCandidates(const MemoryHierarchy& hierarchy,
                                          const std::string& wanted) {
  if (!wanted.empty()) {
    // As runc: absolute paths are below the mount, relative ones below our own group.
    const std::string own = hierarchy.own == "/" ? "" : hierarchy.own;
    const std::string group = wanted[0] == '/' ? wanted : own + "/" + wanted;
    return {hierarchy.mount + group};
  }
  std::vector<std::string> candidates = {Join(hierarchy.mount, hierarchy.own)};
  // A v2 group that has processes cannot have children with controllers: then beside ours.
  if (hierarchy.version == MemoryHierarchy::Version::kV2 && hierarchy.own != "/") {
    const std::string parent = hierarchy.own.substr(0, hierarchy.own.rfind('/'));
    candidates.push_back(hierarchy.mount + parent);
  }
  return candidates;
}

uint64_t LimitOfStubs(uint64_t limit_bytes) {
  constexpr uint64_t kMost = uint64_t{1} << 60;
  constexpr uint64_t kStubs = 64 << 20;
  return std::min(limit_bytes, kMost) + limit_bytes / 8 + kStubs;
}

uint64_t LimitOfSandbox(uint64_t limit_bytes) {
  constexpr uint64_t kKernel = 256 << 20;
  return LimitOfStubs(limit_bytes) + limit_bytes / 4 + kKernel;
}

namespace {

HostResult<void> SetLimit(const std::string& path, uint64_t limit_bytes,
                          MemoryHierarchy::Version version) {
  const std::string text = std::to_string(limit_bytes);
  const bool v1 = version == MemoryHierarchy::Version::kV1;
  const std::string limit = path + (v1 ? "/memory.limit_in_bytes" : "/memory.max");
  const Result<void> limited = WriteFile(limit, text);
  if (!limited) return HostFail("cannot set the limit " + limit, limited.error().code());
  // Without swap accounting there are no such files, and no swap to be had beyond the limit.
  (void)WriteFile(path + (v1 ? "/memory.memsw.limit_in_bytes" : "/memory.swap.max"),
                  v1 ? text : "0");
  return {};
}

HostResult<OwnedFd> OpenProcs(const std::string& path) {
  Result<OwnedFd> procs = host::Open((path + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC);
  if (!procs) return HostFail("cannot write " + path + "/cgroup.procs", procs.error().code());
  return std::move(*procs);
}

}  // namespace

HostResult<void> SandboxCgroup::MakeIn(const std::string& parent, uint64_t limit_bytes,
                                       MemoryHierarchy::Version version) {
  const std::string path =
      fmt::format("{}/{}{}-{}", parent, kPrefix, getpid(), host::MonotonicNs());
  std::vector<std::string> directories = MissingParents(path);
  const size_t others = directories.size();
  directories.push_back(path);
  for (const char* part : kParts) directories.push_back(path + part);
  janitor_ = TRY(Janitor::Start([directories, others] { RemoveDirectories(directories, others); }));
  for (size_t i = 0; i < directories.size(); ++i) {
    const std::string& directory = directories[i];
    const Result<void> made = MakeDirectory(directory);
    // Another sandbox may have made a parent meanwhile.
    if (!made && (i >= others || made.error() != Errno(EEXIST))) {
      return HostFail("cannot make the control group " + directory, made.error().code());
    }
    if (i != others) continue;
    path_ = path;
    Result<OwnedFd> opened = host::Open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened) directory_ = std::move(*opened);
    (void)Lock(directory_.get());
    TRY(SetLimit(path, LimitOfSandbox(limit_bytes), version));
    if (version == MemoryHierarchy::Version::kV2) {
      const Result<void> enabled = WriteFile(path + "/cgroup.subtree_control", "+memory");
      if (!enabled) return HostFail("cannot enable memory in " + path, enabled.error().code());
    }
  }
  TRY(SetLimit(stubs_path(), LimitOfStubs(limit_bytes), version));
  stubs_ = TRY(OpenProcs(stubs_path()));
  kernel_ = TRY(OpenProcs(path + "/kernel"));
  return {};
}

HostResult<SandboxCgroup> SandboxCgroup::Make(uint64_t limit_bytes, const std::string& wanted) {
  const Result<std::string> mountinfo = host::ReadWholeFile("/proc/self/mountinfo", kProcFileMax);
  const Result<std::string> cgroup = host::ReadWholeFile("/proc/self/cgroup", kProcFileMax);
  if (!mountinfo || !cgroup) return HostFail("/proc does not show the control groups");
  const auto hierarchy = FindMemoryHierarchy(*mountinfo, *cgroup);
  if (!hierarchy) return HostFail("no memory controller is mounted");
  std::unexpected<Error> why = HostFail("no control group to use");
  for (const std::string& parent : ParentCandidates(*hierarchy, wanted)) {
    RemoveLeftovers(parent);
    // Another CLI may take a group that is not locked yet for a leftover.
    for (int tries = 0; tries < 3; ++tries) {
      SandboxCgroup group;
      HostResult<void> made = group.MakeIn(parent, limit_bytes, hierarchy->version);
      if (made) return group;
      why = std::unexpected(std::move(made).error());
      if (why.error().host_errno != ENOENT && why.error().host_errno != ENODEV) break;
    }
  }
  return why;
}

SandboxCgroup& SandboxCgroup::operator=(SandboxCgroup&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(directory_, other.directory_);
  std::swap(stubs_, other.stubs_);
  std::swap(kernel_, other.kernel_);
  std::swap(janitor_, other.janitor_);
  return *this;
}

std::vector<OwnedFd> SandboxCgroup::Holders() const {
  std::vector<OwnedFd> holders;
  for (const int fd : {directory_.get(), janitor_.life()}) {
    if (fd < 0) continue;
    Result<OwnedFd> again = host::Dup(fd);
    if (again) holders.push_back(std::move(*again));
  }
  return holders;
}

void SandboxCgroup::RemoveLeft(const std::string& path) {
  const std::string_view name = std::string_view(path).substr(path.rfind('/') + 1);
  if (!name.starts_with(kPrefix) || !IsLeft(path)) return;
  std::vector<std::string> directories = {path};
  for (const char* part : kParts) {
    KillAllIn(path + part);
    directories.push_back(path + part);
  }
  RemoveDirectories(directories, 0);
}

void SandboxCgroup::LetGo() {
  directory_.Reset();
  janitor_.LetGo();
}

SandboxCgroup::~SandboxCgroup() {
  stubs_.Reset();
  kernel_.Reset();
  directory_.Reset();
  janitor_.Finish();
}

}  // namespace skep::runtime
