#include "sentry/boot/stdio.h"

#include <algorithm>

#include "sentry/anon/host_file.h"
#include "sentry/arena/arena.h"

namespace skep::boot {
namespace {

// The configuration comes from the CLI, which may only err.
size_t IndexBefore(int index, size_t i) {
  return index >= 0 && static_cast<size_t>(index) <= i ? static_cast<size_t>(index) : i;
}

Result<Ref<vfs::File>> MakeFile(kernel::Kernel& kernel, const ProcessConfig& config,
                                const ProcessStdio& stdio, size_t i) {
  anon::HostFileOptions options;
  const size_t same_file = IndexBefore(config.stdio_inode_of[i], i);
  if (same_file != i && stdio.files[same_file]) {
    options.ino = stdio.files[same_file]->inode()->ino();
  }
  if (i < config.stdio_names.size()) options.name = config.stdio_names[i];
  Ref<anon::HostFile> file =
      TRY(anon::HostFile::Make(*kernel.anon_fs, kernel.scheduler, stdio.fds[i], options));
  if (config.stdio_owners.size() == 2 * stdio.fds.size()) {
    file->SetOwner(config.stdio_owners[2 * i], config.stdio_owners[2 * i + 1]);
  }
  return Ref<vfs::File>(std::move(file));
}

// A terminal takes descriptors 0 and 1; with it as standard error, a third one is for nothing.
void CloseErrors(ProcessStdio& stdio) {
  const arena::HostFd errors = stdio.fds[2];
  if (!errors || errors == stdio.fds[0] || errors == stdio.fds[1]) return;
  const arena::HostHeapScope host;
  const OwnedFd closed = arena::HostTable::Get().Remove(errors);
  stdio.fds[2] = stdio.fds[1];
}

}  // namespace

void AdoptStdio(const ProcessConfig& config, ProcessStdio& stdio) {
  for (size_t i = 0; i < stdio.fds.size(); ++i) {
    if (config.stdio_fds[i] < 0) continue;
    const size_t first = IndexBefore(config.stdio_description_of[i], i);
    if (first != i && stdio.fds[first]) {
      stdio.fds[i] = stdio.fds[first];
      // 0, 1 and 2 stay taken: libraries write to them.
      if (config.stdio_fds[i] > 2) OwnedFd(config.stdio_fds[i]).Reset();
    } else {
      stdio.fds[i] = arena::HostTable::Get().Add(OwnedFd(config.stdio_fds[i]));
    }
  }
}

void ReleaseStdio(ProcessStdio& stdio) {
  stdio.files = {};
  if (stdio.opened) return;
  const arena::HostHeapScope host;
  for (size_t i = 0; i < stdio.fds.size(); ++i) {
    const arena::HostFd fd = stdio.fds[i];
    if (!fd || std::find(stdio.fds.begin(), stdio.fds.begin() + i, fd) != stdio.fds.begin() + i) {
      continue;
    }
    OwnedFd closed = arena::HostTable::Get().Remove(fd);
  }
  stdio.fds = {};
}

Result<void> OpenStdio(kernel::Task& task, const ProcessConfig& config, ProcessStdio& stdio,
                       Ref<vfs::File> console) {
  {
    auto files = MakeRef<vfs::FdTable>();
    kernel::TasksLock lock(task.kernel);
    task.files.Set(vfs::FdTableHold(std::move(files)));
  }
  stdio.opened = true;
  if (console && config.terminal_errors) CloseErrors(stdio);
  for (size_t i = 0; i < stdio.fds.size(); ++i) {
    if (!stdio.fds[i]) continue;
    vfs::FdReservation slot = TRY(task.files->Reserve(1024, static_cast<int>(i)));
    if (console && (i != 2 || config.terminal_errors)) {
      std::move(slot).Commit(console, vfs::CloseOnExec::kNo);
      continue;
    }
    // One description outside is one inside: its position, its flags, its number.
    const size_t first = IndexBefore(config.stdio_description_of[i], i);
    if (first != i && stdio.files[first]) {
      std::move(slot).Commit(stdio.files[first], vfs::CloseOnExec::kNo);
      continue;
    }
    Ref<vfs::File> file = TRY(MakeFile(task.kernel, config, stdio, i));
    stdio.files[i] = file;
    std::move(slot).Commit(std::move(file), vfs::CloseOnExec::kNo);
  }
  return {};
}

}  // namespace skep::boot
