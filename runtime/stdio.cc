#include "runtime/stdio.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host_call.h"

namespace skep::runtime {
namespace {

bool SameFile(int a, int b) {
  const Result<struct stat> first = host::Stat(a);
  const Result<struct stat> second = host::Stat(b);
  return first && second && first->st_dev == second->st_dev && first->st_ino == second->st_ino;
}

// Without kcmp(2), which some hosts forbid, it is a guess: the same file, flags and position.
bool LookTheSame(int a, int b) {
  return SameFile(a, b) && fcntl(a, F_GETFL) == fcntl(b, F_GETFL) &&
         lseek(a, 0, SEEK_CUR) == lseek(b, 0, SEEK_CUR);
}

bool ShareDescription(int a, int b) {
  const Result<int64_t> order = host::Call(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b);
  return order ? *order == 0 : LookTheSame(a, b);
}

std::string NameOf(int fd) {
  std::string name(PATH_MAX, '\0');
  const ssize_t size =
      readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), name.data(), name.size());
  if (size <= 0 || static_cast<size_t>(size) == name.size()) return "";
  name.resize(static_cast<size_t>(size));
  return name[0] == '/' ? name : "";
}

bool IsBelow(const std::string& path, const std::string& directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

}  // namespace

std::string GuestPathOf(const std::string& path, const std::vector<boot::MountConfig>& mounts,
                        const std::vector<std::string>& sources) {
  for (size_t i = mounts.size(); i-- > 0;) {
    if (sources[i].empty() || !IsBelow(path, sources[i])) continue;
    std::string below = sources[i] == "/" ? path : path.substr(sources[i].size());
    if (below == "/") below.clear();
    const std::string& point = mounts[i].destination;
    const std::string guest = point == "/" ? (below.empty() ? "/" : below) : point + below;
    // Another mount may lie over it.
    size_t top = 0;
    for (size_t j = 0; j < mounts.size(); ++j) {
      if (IsBelow(guest, mounts[j].destination) &&
          mounts[j].destination.size() >= mounts[top].destination.size()) {
        top = j;
      }
    }
    if (top == i) return guest;
  }
  return "";
}

void DescribeStdio(const std::array<int, 3>& fds, boot::ProcessConfig& config) {
  config.stdio_names.assign(fds.size(), "");
  config.stdio_owners.assign(2 * fds.size(), 0);
  for (size_t i = 0; i < fds.size(); ++i) {
    config.stdio_description_of[i] = config.stdio_inode_of[i] = static_cast<int>(i);
    if (fds[i] < 0) continue;
    for (size_t j = i; j-- > 0;) {
      if (fds[j] < 0) continue;
      if (SameFile(fds[i], fds[j])) config.stdio_inode_of[i] = config.stdio_inode_of[j];
      if (ShareDescription(fds[i], fds[j])) {
        config.stdio_description_of[i] = config.stdio_description_of[j];
      }
    }
    const Result<struct stat> status = host::Stat(fds[i]);
    if (status) {
      config.stdio_owners[2 * i] = status->st_uid;
      config.stdio_owners[2 * i + 1] = status->st_gid;
    }
    const std::string name = NameOf(fds[i]);
    if (status && S_ISCHR(status->st_mode) && IsBelow(name, "/dev")) config.stdio_names[i] = name;
  }
}

void DescribeStdio(const std::array<int, 3>& fds, SandboxPlan& plan) {
  DescribeStdio(fds, static_cast<boot::ProcessConfig&>(plan.config));
  std::vector<std::string> sources;
  for (const boot::MountConfig& mount : plan.config.mounts) {
    const bool of_host = mount.kind == boot::MountConfig::Kind::kGofer;
    sources.push_back(
        of_host ? NameOf(plan.attach_points[static_cast<size_t>(mount.attach)].root.get()) : "");
  }
  for (size_t i = 0; i < fds.size(); ++i) {
    const Result<struct stat> status = host::Stat(fds[i]);
    if (fds[i] < 0 || !status || !S_ISREG(status->st_mode)) continue;
    plan.config.stdio_names[i] = GuestPathOf(NameOf(fds[i]), plan.config.mounts, sources);
  }
}

}  // namespace skep::runtime
