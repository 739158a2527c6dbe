#include "runsc-cli/state.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <span>
#include <utility>

#include "base/host_call.h"
#include "runsc-cli/parse.h"
#include "runsc-cli/report.h"

namespace skep::cli {
namespace {

constexpr size_t kIdMax = 255;
constexpr int kTries = 500;
constexpr useconds_t kPauseUs = 2000;

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

bool Lock(int fd) { return host::Call(SYS_flock, fd, LOCK_EX | LOCK_NB).has_value(); }

bool IsAt(int directory, const std::string& path) {
  struct stat there{};
  const Result<struct stat> here = host::Stat(directory);
  return here && lstat(path.c_str(), &there) == 0 && here->st_ino == there.st_ino &&
         here->st_dev == there.st_dev;
}

// Unless somebody has it: a CLI that lives, or one that has taken it over.
void RemoveState(const std::string& path) {
  const Result<OwnedFd> directory =
      host::Open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (!directory) return;
  // Children of a CLI that was killed may have had no time yet to let go of its lock.
  for (int tries = 0; !Lock(directory->get()); ++tries) {
    if (tries == kTries) return;
    usleep(kPauseUs);
  }
  if (!IsAt(directory->get(), path)) return;
  for (const char* name : {"/state.json", "/state.json.new"}) unlink((path + name).c_str());
  rmdir(path.c_str());
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
  StateDirectory state;
  const std::string path = root + "/" + id;
  state.path_ = path;
  state.janitor_ = TRY(runtime::Janitor::Start([path] { RemoveState(path); }));
  // Again if a janitor removes it under our hands.
  for (int tries = 0; tries < kTries; ++tries) {
    const Result<void> made = MakeDirectory(path, 0711);
    if (!made && made.error() != Errno(EEXIST)) {
      return HostFail("cannot make " + path, made.error().code());
    }
    Result<OwnedFd> directory =
        host::Open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (!directory && directory.error() == Errno(ENOENT)) continue;
    if (!directory) return HostFail("cannot open " + path, directory.error().code());
    const bool locked = Lock(directory->get());
    if (!IsAt(directory->get(), path)) continue;
    if (!locked) {
      state.janitor_.Dismiss();
      break;
    }
    state.directory_ = std::move(*directory);
    return state;
  }
  return HostFail("a container with the id '" + id + "' exists already (in " + root + ")");
}

StateDirectory::StateDirectory(StateDirectory&& other) noexcept
    : path_(std::exchange(other.path_, "")),
      directory_(std::move(other.directory_)),
      janitor_(std::move(other.janitor_)) {}

StateDirectory::~StateDirectory() {
  directory_.Reset();
  janitor_.Finish();
}

std::string StateJson(const ContainerState& state) {
  return fmt::format(
      "{{\"ociVersion\": \"1.0.2\", \"id\": {}, \"status\": {}, \"pid\": {}, \"bundle\": {}, "
      "\"created\": {}}}\n",
      JsonQuote(state.id), JsonQuote(state.status), state.pid, JsonQuote(state.bundle),
      JsonQuote(state.created));
}

HostResult<void> StateDirectory::Write(const ContainerState& state) {
  const int fd = directory_.get();
  Result<void> written = WriteDurably(fd, "state.json.new", StateJson(state));
  if (written && renameat(fd, "state.json.new", fd, "state.json") != 0) written = Fail(EIO);
  if (written) (void)host::Call(SYS_fsync, fd);
  if (!written) return HostFail("cannot write " + path_ + "/state.json", written.error().code());
  return {};
}

}  // namespace skep::cli
