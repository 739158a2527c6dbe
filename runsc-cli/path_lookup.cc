#include "runsc-cli/path_lookup.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include "base/host_call.h"
#include "runsc-cli/parse.h"

namespace skep::cli {
namespace {

// "/a/../b" -> "/b"; good enough for choosing the tree a path is in.
std::string Flatten(const std::string& path) {
  std::vector<std::string> kept;
  for (const std::string& component : Split(path, '/')) {
    if (component.empty() || component == ".") continue;
    if (component == "..") {
      if (!kept.empty()) kept.pop_back();
    } else {
      kept.push_back(component);
    }
  }
  std::string flat;
  for (const std::string& component : kept) flat += "/" + component;
  return flat.empty() ? "/" : flat;
}

bool IsBelow(const std::string& path, const std::string& directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

Result<OwnedFd> OpenInTree(int tree, const std::string& path) {
  open_how how = {};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  return host::CallFd(SYS_openat2, tree, path.c_str(), &how, sizeof how);
}

Result<void> CheckProgram(const std::vector<GuestTree>& trees, const std::string& cwd,
                          const std::string& path) {
  const OwnedFd fd = TRY(OpenInGuest(trees, cwd, path));
  const struct stat status = TRY(host::Stat(fd.get()));
  // The guest's kernel decides by the guest's credentials whether it may be executed.
  if (!S_ISREG(status.st_mode) || (status.st_mode & 0111) == 0) return Fail(EACCES);
  return {};
}

}  // namespace

Result<OwnedFd> OpenInGuest(const std::vector<GuestTree>& trees, const std::string& cwd,
                            const std::string& path) {
  if (path.empty()) return Fail(ENOENT);
  const std::string whole = path[0] == '/' ? path : cwd + "/" + path;
  const std::string flat = Flatten(whole);
  const GuestTree* best = nullptr;
  for (const GuestTree& tree : trees) {
    if (!IsBelow(flat, tree.guest)) continue;
    if (best == nullptr || tree.guest.size() >= best->guest.size()) best = &tree;
  }
  if (best == nullptr) return Fail(ENOENT);
  if (best->guest == "/") return OpenInTree(best->fd, whole);
  const std::string rest = flat.substr(best->guest.size());
  if (rest.empty()) return OpenInTree(best->fd, ".");
  return OpenInTree(best->fd, rest);
}

const char* FindEnv(const std::vector<std::string>& env, const std::string& name) {
  const char* value = nullptr;
  for (const std::string& entry : env) {
    if (entry.size() > name.size() && entry[name.size()] == '=' && entry.starts_with(name)) {
      value = entry.c_str() + name.size() + 1;
    }
  }
  return value;
}

Result<std::string> FindProgram(const std::vector<GuestTree>& trees, const std::string& cwd,
                                const std::string& program, const std::vector<std::string>& env) {
  if (program.empty()) return Fail(ENOENT);
  if (program.find('/') != std::string::npos) {
    const Result<void> found = CheckProgram(trees, cwd, program);
    if (!found && (found.error().code() == ENOENT || found.error().code() == ENOTDIR ||
                   found.error() == Errno(EACCES))) {
      return std::unexpected(found.error());
    }
    return program;
  }
  const char* path = FindEnv(env, "PATH");
  Errno why(ENOENT);
  for (const std::string& directory : Split(path == nullptr ? kDefaultPath : path, ':')) {
    const std::string candidate = (directory.empty() ? "." : directory) + "/" + program;
    const Result<void> found = CheckProgram(trees, cwd, candidate);
    if (found) return candidate;
    if (found.error() == Errno(EACCES)) why = Errno(EACCES);
  }
  return std::unexpected(why);
}

}  // namespace skep::cli
