#include "runsc-cli/state.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <span>

#include "base/host_call.h"
#include "runsc-cli/parse.h"
#include "runsc-cli/report.h"

namespace skep::cli {
namespace {

constexpr size_t kIdMax = 255;
constexpr size_t kStateMax = size_t{1} << 20;
constexpr const char* kSocket = "control.sock";

Result<void> MakeDirectory(const std::string& path, uint32_t mode) {
  TRY(host::Call(SYS_mkdirat, AT_FDCWD, path.c_str(), mode));
  return {};
}

HostResult<void> MakeParents(const std::string& path) {
  std::string part;
  for (const std::string& component : Split(path, '/')) {
    part += component + "/";
    if (component.empty()) continue;
    const Result<void> made = MakeDirectory(part, 0711);
    if (!made && made.error() != Errno(EEXIST)) {
      return HostFail("cannot make the state directory " + part, made.error().code());
    }
  }
  return {};
}

// Somebody else could have made a directory of a well-known name first.
HostResult<void> CheckOwner(const std::string& root) {
  struct stat status{};
  if (lstat(root.c_str(), &status) != 0 || !S_ISDIR(status.st_mode) ||
      (status.st_uid != geteuid() && status.st_uid != 0)) {
    return HostFail("--root: " + root + " is not a directory of this user");
  }
  return {};
}

Result<void> WriteDurably(int directory, const char* name, const std::string& text) {
  OwnedFd file = TRY(host::OpenAt(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  TRY(host::WriteAll(file.get(), std::as_bytes(std::span(text))));
  TRY(host::Call(SYS_fsync, file.get()));
  return {};
}

}  // namespace

HostResult<void> CheckId(const std::string& id) {
  bool good = !id.empty() && id.size() <= kIdMax && id != "." && id != "..";
  for (const char c : id) {
    good = good && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '_' || c == '+' || c == '-' || c == '.');
  }
  if (good) return {};
  return HostFail("'" + id + "' is not a container id: use letters, digits and _ + - .");
}

std::string DefaultStateRoot() {
  if (geteuid() == 0) return "/run/skep";
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && runtime[0] == '/') return std::string(runtime) + "/skep";
  return fmt::format("/tmp/skep-{}", geteuid());
}

HostResult<StateDirectory> StateDirectory::Make(const std::string& root, const std::string& id) {
  TRY(CheckId(id));
  TRY(MakeParents(root));
  TRY(CheckOwner(root));
  const std::string path = root + "/" + id;
  const Result<void> made = MakeDirectory(path, 0711);
  if (!made && made.error() == Errno(EEXIST)) {
    return HostFail(
        fmt::format("a container with the id '{}' exists already (in {}); when it has "
                    "ended, `skep delete {}` removes it",
                    id, root, id));
  }
  if (!made) return HostFail("cannot make " + path, made.error().code());
  StateDirectory directory = TRY(Open(root, id));
  TRY(directory.Lock());
  return directory;
}

HostResult<StateDirectory> StateDirectory::Open(const std::string& root, const std::string& id) {
  TRY(CheckId(id));
  const std::string path = root + "/" + id;
  Result<OwnedFd> directory =
      host::Open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (directory) return StateDirectory(path, std::move(*directory));
  if (directory.error() == Errno(ENOENT)) {
    return std::unexpected(
        Error{fmt::format("there is no container '{}' (in {})", id, root), ENOENT});
  }
  return HostFail("cannot open " + path, directory.error().code());
}

std::vector<std::string> StateDirectory::List(const std::string& root) {
  std::vector<std::string> names;
  DIR* directory = opendir(root.c_str());
  if (directory == nullptr) return names;
  while (const dirent* entry = readdir(directory)) {
    if (CheckId(entry->d_name)) names.emplace_back(entry->d_name);
  }
  closedir(directory);
  std::sort(names.begin(), names.end());
  return names;
}

HostResult<void> StateDirectory::Lock() {
  Result<OwnedFd> own = host::OpenAt(fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (!own) return HostFail("cannot open " + path_, own.error().code());
  const Result<int64_t> locked = host::Call(SYS_flock, own->get(), LOCK_EX);
  if (!locked) return HostFail("cannot lock " + path_, locked.error().code());
  lock_ = std::move(*own);
  return {};
}

HostResult<OwnedFd> StateDirectory::ShareLock() const {
  Result<OwnedFd> again = host::Dup(lock_.get());
  if (!again) return HostFail("cannot share the lock of " + path_, again.error().code());
  return std::move(*again);
}

bool StateDirectory::IsLocked() const {
  // A lock belongs to an open file description: a new one, so that ours stays as it is.
  const Result<OwnedFd> again = host::OpenAt(fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return again && !host::Call(SYS_flock, again->get(), LOCK_EX | LOCK_NB);
}

Result<OwnedFd> StateDirectory::OpenFile(const char* name, int flags) const {
  return host::OpenAt(fd(), name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
}

HostResult<OwnedFd> StateDirectory::BindSocket() const {
  return runtime::BindControlSocket(fd(), kSocket);
}

HostResult<void> StateDirectory::LinkSocket(const StateDirectory& other) const {
  const Result<int64_t> linked = host::Call(SYS_linkat, other.fd(), kSocket, fd(), kSocket, 0);
  if (!linked) return HostFail("cannot link the control socket", linked.error().code());
  return {};
}

Result<runtime::SandboxClient> StateDirectory::Connect() const {
  return runtime::SandboxClient::Connect(fd(), kSocket);
}

HostResult<void> StateDirectory::Remove() {
  for (const char* name : {"state.json", "state.json.new", kSocket, kOutputLog}) {
    (void)host::Call(SYS_unlinkat, fd(), name, 0);
  }
  const Result<int64_t> removed = host::Call(SYS_unlinkat, AT_FDCWD, path_.c_str(), AT_REMOVEDIR);
  if (removed || removed.error() == Errno(ENOENT)) return {};
  return HostFail("cannot remove " + path_, removed.error().code());
}

std::string StateJson(const ContainerState& state) {
  return fmt::format(
      "{{\"ociVersion\": \"1.0.2\", \"id\": {}, \"status\": {}, \"pid\": {}, \"bundle\": {}, "
      "\"created\": {}{}{}}}\n",
      JsonQuote(state.id), JsonQuote(state.status), state.pid, JsonQuote(state.bundle),
      JsonQuote(state.created),
      state.exit_code ? fmt::format(", \"exitCode\": {}", *state.exit_code) : "",
      state.cgroup.empty() ? "" : fmt::format(", \"cgroup\": {}", JsonQuote(state.cgroup)));
}

HostResult<void> StateDirectory::Write(const ContainerState& state) {
  Result<void> written = WriteDurably(fd(), "state.json.new", StateJson(state));
  if (written && renameat(fd(), "state.json.new", fd(), "state.json") != 0) written = Fail(EIO);
  if (written) (void)host::Call(SYS_fsync, fd());
  if (!written) return HostFail("cannot write " + path_ + "/state.json", written.error().code());
  return {};
}

std::optional<ContainerState> StateDirectory::Read() const {
  const Result<OwnedFd> file = OpenFile("state.json", O_RDONLY);
  if (!file) return std::nullopt;
  std::string text(kStateMax, '\0');
  const Result<size_t> size = host::PRead(file->get(), std::as_writable_bytes(std::span(text)), 0);
  if (!size) return std::nullopt;
  const nlohmann::json json =
      nlohmann::json::parse(std::string_view(text).substr(0, *size), nullptr, false);
  if (!json.is_object()) return std::nullopt;
  ContainerState state;
  const auto take = [&](const char* key, std::string& value) {
    const auto found = json.find(key);
    if (found != json.end() && found->is_string()) value = found->get<std::string>();
  };
  take("id", state.id);
  take("status", state.status);
  take("bundle", state.bundle);
  take("created", state.created);
  take("cgroup", state.cgroup);
  const auto pid = json.find("pid");
  if (pid != json.end() && pid->is_number_integer()) state.pid = pid->get<int>();
  const auto code = json.find("exitCode");
  if (code != json.end() && code->is_number_integer()) state.exit_code = code->get<int>();
  return state;
}

std::string TimeNow() {
  const time_t seconds = static_cast<time_t>(host::RealtimeNs() / 1'000'000'000);
  tm utc{};
  gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", utc.tm_year + 1900, utc.tm_mon + 1,
                     utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

}  // namespace skep::cli
