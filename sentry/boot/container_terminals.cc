#include "sentry/boot/container_terminals.h"

#include <sys/stat.h>

#include "sentry/anon/tty_file.h"

namespace skep::boot {
namespace {

constexpr uint32_t kTtyGroup = 5;  // who owns /dev/pts/N

}  // namespace

void ContainerTerminals::RegisterDevices(fs::DeviceTable& devices) {
  using Path = vfs::Path;
  const auto controlling = [this](vfs::Caller& caller, const Path& path, uint32_t flags, uint32_t) {
    return ptys_.OpenControlling(caller, path, flags);
  };
  const auto console = [this](vfs::Caller& caller, const Path& path, uint32_t flags,
                              uint32_t) -> Result<Ref<vfs::File>> {
    const Console first = FirstConsole();
    if (!first.console) return Fail(ENODEV);
    return anon::OpenTerminal(caller, Ref<anon::Terminal>(&first.console->terminal()), path, flags);
  };
  const auto master = [this](vfs::Caller& caller, const Path& path, uint32_t flags, uint32_t) {
    return ptys_.OpenMaster(caller, path, flags);
  };
  const auto slave = [this](vfs::Caller& caller, const Path& path, uint32_t flags, uint32_t minor) {
    return ptys_.OpenSlave(caller, path, flags, minor);
  };
  devices.Register(S_IFCHR, anon::kTtyAuxMajor, 0, 1, controlling);
  devices.Register(S_IFCHR, anon::kTtyAuxMajor, 1, 1, console);
  devices.Register(S_IFCHR, anon::kTtyAuxMajor, 2, 1, master);
  devices.Register(S_IFCHR, anon::kPtyMajor, 0, anon::kMaxPtys, slave);
}

void ContainerTerminals::SetDevpts(Ref<fs::DevptsFs> devpts, vfs::Path root) {
  MutexLock lock(mutex_);
  std::swap(devpts_, devpts);
  std::swap(devpts_root_, root);
}

Ref<fs::DevptsFs> ContainerTerminals::Devpts() const {
  MutexLock lock(mutex_);
  return devpts_;
}

ContainerTerminals::Console ContainerTerminals::FirstConsole() const {
  MutexLock lock(mutex_);
  return first_console_;
}

Result<ContainerTerminals::Console> ContainerTerminals::MakeConsole(arena::HostFd input,
                                                                    arena::HostFd output,
                                                                    const winsize& size,
                                                                    uint32_t uid, uint32_t gid) {
  auto terminal = MakeRef<anon::Terminal>(kernel_.terminals());
  terminal->SetWindow(size);
  Console made;
  made.index = TRY(ptys_.AddTerminal(terminal, uid, gid));
  made.console = TRY(anon::Console::Start(kernel_.scheduler, std::move(terminal), input, output));
  return made;
}

Result<Ref<vfs::File>> ContainerTerminals::OpenConsole(vfs::Caller& caller, anon::Console& console,
                                                       int index) {
  vfs::Path path;
  if (auto found = PathOf(index)) {
    path = *found;
  } else {
    path = kernel_.anon_fs->NewPath("console", S_IFCHR | 0600, caller.creds());
  }
  return anon::OpenTerminal(caller, Ref<anon::Terminal>(&console.terminal()), path, O_RDWR);
}

Result<void> ContainerTerminals::StartConsole(arena::HostFd input, arena::HostFd output,
                                              const winsize& size) {
  Console made = TRY(MakeConsole(input, output, size, 0, kTtyGroup));
  MutexLock lock(mutex_);
  std::swap(first_console_, made);
  return {};
}

Result<Ref<vfs::File>> ContainerTerminals::OpenConsole(vfs::Caller& caller) {
  const Console first = FirstConsole();
  return OpenConsole(caller, *first.console, first.index);
}

void ContainerTerminals::StopConsole() {
  if (const Console first = FirstConsole(); first.console) first.console->Stop();
}

void ContainerTerminals::SetConsoleInput(anon::Input input) {
  if (const Console first = FirstConsole(); first.console) first.console->SetInput(input);
}

void ContainerTerminals::OnWantedConsoleInput(std::function<void()> wanted) {
  const Console first = FirstConsole();
  if (first.console) first.console->OnWantedInput(std::move(wanted));
}

void ContainerTerminals::SetConsoleWindow(const winsize& size) {
  if (const Console first = FirstConsole(); first.console)
    first.console->terminal().SetWindow(size);
}

void ContainerTerminals::DrainConsole(sched::Deadline deadline) {
  if (const Console first = FirstConsole(); first.console) first.console->Drain(deadline);
}

void ContainerTerminals::Forget() {
  StopConsole();
  Console console;
  Ref<fs::DevptsFs> devpts;
  vfs::Path root;
  MutexLock lock(mutex_);
  std::swap(first_console_, console);
  std::swap(devpts_, devpts);
  std::swap(devpts_root_, root);
}

void ContainerTerminals::Add(int index, uint32_t uid, uint32_t gid) {
  if (const Ref<fs::DevptsFs> devpts = Devpts()) devpts->Add(index, uid, gid);
}

void ContainerTerminals::Remove(int index) {
  if (const Ref<fs::DevptsFs> devpts = Devpts()) devpts->Remove(index);
}

Result<vfs::Path> ContainerTerminals::PathOf(int index) {
  Ref<fs::DevptsFs> devpts;
  vfs::Path root;
  {
    MutexLock lock(mutex_);
    devpts = devpts_;
    root = devpts_root_;
  }
  if (!devpts) return Fail(ENOENT);
  Ref<vfs::Dentry> dentry = TRY(devpts->DentryOf(index));
  return vfs::Path(root.mount, std::move(dentry));
}

}  // namespace skep::boot
