// execve(2), execveat(2).
#include <fcntl.h>

#include "base/limits.h"
#include "sentry/kernel/clone.h"
#include "sentry/kernel/credentials.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"

namespace skep::syscalls {
namespace {

// A NULL-terminated array of strings. Linux: count() and copy_strings(): EFAULT, E2BIG.
Result<std::vector<std::string>> CopyInStrings(Task& task, UserPtr<const uint64_t> list,
                                               size_t& budget) {
  std::vector<std::string> out;
  if (list.is_null()) return out;
  for (uint64_t i = 0;; ++i) {
    const uint64_t address = TRY(task.mm->CopyIn(list.At(i)));
    if (address == 0) return out;
    if (budget < sizeof(uint64_t)) return Fail(E2BIG);
    auto text = task.mm->CopyInString(UserPtr<const char>(address), kMaxArgStrlen);
    if (!text) return Fail(text.error().code() == ENAMETOOLONG ? E2BIG : text.error().code());
    const size_t cost = text->size() + 1 + sizeof(uint64_t);
    if (cost > budget) return Fail(E2BIG);
    budget -= cost;
    out.push_back(std::move(*text));
  }
}

Result<void> DoExec(Task& task, Fd dir, Path address, UserPtr<const uint64_t> argv,
                    UserPtr<const uint64_t> envp, int32_t flags) {
  const std::string path = TRY(CopyInPath(task, address));
  TRY(kernel::CheckProcessLimitOfExec(task));
  if ((flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) != 0) return Fail(EINVAL);
  vfs::NameOps walker = TRY(WalkerAt(task, dir, path));
  const auto follow =
      (flags & AT_SYMLINK_NOFOLLOW) != 0 ? vfs::FollowFinal::kNo : vfs::FollowFinal::kYes;
  const vfs::Path found =
      TRY(walker.Resolve(path, {.follow = follow, .empty_path = (flags & AT_EMPTY_PATH) != 0}));
  Ref<vfs::File> file = TRY(loader::OpenExecutable(walker, found));
  // Linux: bprm_stack_limits: a quarter of the stack limit, at least 128 KiB.
  const uint64_t stack = std::min<uint64_t>(task.Limit(RLIMIT_STACK), uint64_t{24} << 20);
  size_t budget = std::max<uint64_t>(stack / 4, 32 * kPageSize);
  std::vector<std::string> arguments = TRY(CopyInStrings(task, argv, budget));
  std::vector<std::string> environment = TRY(CopyInStrings(task, envp, budget));
  // Linux since 5.18: an empty argv becomes one empty string.
  if (arguments.empty()) arguments.emplace_back();
  // As do_open_execat names it: /dev/fd/N/path for a descriptor's relative path.
  std::string name = path;
  bool inaccessible = false;
  if (dir.value != AT_FDCWD && !path.starts_with('/')) {
    inaccessible = task.files->GetCloexec(dir.value).value_or(false);
    name = "/dev/fd/" + std::to_string(dir.value) + (path.empty() ? "" : "/" + path);
  }
  loader::Program program =
      TRY(loader::Prepare(walker, std::move(file), std::move(name), std::move(arguments),
                          std::move(environment), inaccessible));
  return kernel::Exec(task, std::move(program));
}

Result<void> Execve(Task& task, Path path, UserPtr<const uint64_t> argv,
                    UserPtr<const uint64_t> envp) {
  return DoExec(task, Fd{AT_FDCWD}, path, argv, envp, 0);
}

Result<void> Execveat(Task& task, Fd dir, Path path, UserPtr<const uint64_t> argv,
                      UserPtr<const uint64_t> envp, int32_t flags) {
  return DoExec(task, dir, path, argv, envp, flags);
}

constexpr Row kRows[] = {
    Full<Execve>(SYSCALL(execve)),
    Full<Execveat>(SYSCALL(execveat)),
};

}  // namespace

constinit const std::span<const Row> kExecRows = kRows;

}  // namespace skep::syscalls
