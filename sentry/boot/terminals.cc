#include "sentry/boot/terminals.h"

#include <sys/stat.h>

#include "sentry/anon/tty_file.h"

namespace skep::boot {
namespace {

constexpr uint32_t kTtyGroup = 5;  // who owns /dev/pts/N

}  // namespace

void SandboxTerminals::RegisterDevices(fs::DeviceTable& devices) {
  using Path = vfs::Path;
  const auto controlling = [this](vfs::Caller& caller, const Path& path, uint32_t flags, uint32_t) {
    return ptys_.OpenControlling(caller, path, flags);
  };
  const auto console = [this](vfs::Caller& caller, const Path& path, uint32_t flags,
                              uint32_t) -> Result<Ref<vfs::File>> {
    if (!console_) return Fail(ENODEV);
    return anon::OpenTerminal(caller, Ref<anon::Terminal>(&console_->terminal()), path, flags);
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

void SandboxTerminals::SetDevpts(Ref<fs::DevptsFs> devpts, vfs::Path root) {
  devpts_ = std::move(devpts);
  devpts_root_ = std::move(root);
}

Result<SandboxTerminals::Console> SandboxTerminals::MakeConsole(arena::HostFd input,
                                                                arena::HostFd output,
                                                                const winsize& size, uint32_t uid,
                                                                uint32_t gid) {
  auto terminal = MakeRef<anon::Terminal>(kernel_.terminals());
  terminal->SetWindow(size);
  Console made;
  made.index = TRY(ptys_.AddTerminal(terminal, uid, gid));
  made.console = TRY(anon::Console::Start(kernel_.scheduler, std::move(terminal), input, output));
  return made;
}

Result<Ref<vfs::File>> SandboxTerminals::OpenConsole(vfs::Caller& caller, anon::Console& console,
                                                     int index) {
  vfs::Path path;
  if (auto found = PathOf(index)) {
    path = *found;
  } else {
    path = kernel_.anon_fs->NewPath("console", S_IFCHR | 0600, caller.creds());
  }
  return anon::OpenTerminal(caller, Ref<anon::Terminal>(&console.terminal()), path, O_RDWR);
}

Result<void> SandboxTerminals::StartConsole(arena::HostFd input, arena::HostFd output,
                                            const winsize& size) {
  Console made = TRY(MakeConsole(input, output, size, 0, kTtyGroup));
  console_ = std::move(made.console);
  console_index_ = made.index;
  return {};
}

Result<Ref<vfs::File>> SandboxTerminals::OpenConsole(vfs::Caller& caller) {
  return OpenConsole(caller, *console_, console_index_);
}

void SandboxTerminals::StopConsole() {
  if (console_) console_->Stop();
}

void SandboxTerminals::SetConsoleInput(anon::Console::Input input) {
  if (console_) console_->SetInput(input);
}

void SandboxTerminals::OnWantedConsoleInput(std::function<void()> wanted) {
  if (console_) console_->OnWantedInput(std::move(wanted));
}

void SandboxTerminals::SetConsoleWindow(const winsize& size) {
  if (console_) console_->terminal().SetWindow(size);
}

void SandboxTerminals::DrainConsole(sched::Deadline deadline) {
  if (console_) console_->Drain(deadline);
}

void SandboxTerminals::Add(int index, uint32_t uid, uint32_t gid) {
  if (devpts_) devpts_->Add(index, uid, gid);
}

void SandboxTerminals::Remove(int index) {
  if (devpts_) devpts_->Remove(index);
}

Result<vfs::Path> SandboxTerminals::PathOf(int index) {
  if (!devpts_) return Fail(ENOENT);
  Ref<vfs::Dentry> dentry = TRY(devpts_->DentryOf(index));
  return vfs::Path(devpts_root_.mount, std::move(dentry));
}

}  // namespace skep::boot
