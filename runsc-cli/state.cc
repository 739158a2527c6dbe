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

Result<void> MakeDirectory(const std::string& path, uint32_t mode) {
  TRY(host::Call(SYS_mkdirat, static_cast<uint64_t>(AT_FDCWD),
                 reinterpret_cast<uint64_t>(path.c_str()), mode));
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

bool Lock(int fd) {
  return host::Call(SYS_flock, static_cast<uint64_t>(fd), LOCK_EX | LOCK_NB).has_value();
}

Result<void> WriteDurably(int directory, const char* name, const std::string& text) {
  OwnedFd file = TRY(host::OpenAt(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  TRY(host::WriteAll(file.get(), std::as_bytes(std::span(text))));
  TRY(host::Call(SYS_fsync, static_cast<uint64_t>(file.get())));
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
  const Result<void> made = MakeDirectory(path, 0711);
  if (!made && made.error() != Errno(EEXIST)) {
    return HostFail("cannot make " + path, made.error().code());
  }
  Result<OwnedFd> directory =
      host::Open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (!directory) return HostFail("cannot open " + path, directory.error().code());
  if (!Lock(directory->get())) {
    return HostFail("a container with the id '" + id + "' exists already (in " + root + ")");
  }
  state.directory_ = std::move(*directory);
  state.path_ = path;
  return state;
}

StateDirectory::StateDirectory(StateDirectory&& other) noexcept
    : path_(std::exchange(other.path_, "")), directory_(std::move(other.directory_)) {}

StateDirectory::~StateDirectory() {
  if (path_.empty()) return;
  for (const char* name : {"/state.json", "/state.json.new"}) unlink((path_ + name).c_str());
  rmdir(path_.c_str());
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
  if (written) (void)host::Call(SYS_fsync, static_cast<uint64_t>(fd));
  if (!written) return HostFail("cannot write " + path_ + "/state.json", written.error().code());
  return {};
}

}  // namespace skep::cli
