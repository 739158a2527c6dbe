// A container's terminals: its ptys with their names, and the console over the host's terminal. Who
// controls which is the kernel's: Kernel::terminals().
#pragma once

#include "sentry/anon/console.h"
#include "sentry/anon/pty.h"
#include "sentry/fs/dev/device_table.h"
#include "sentry/fs/devpts/devpts.h"
#include "sentry/kernel/kernel.h"

namespace skep::boot {

class ContainerTerminals final : public anon::PtyDirectory {
 public:
  explicit ContainerTerminals(kernel::Kernel& kernel) : kernel_(kernel), ptys_(kernel.terminals()) {
    ptys_.SetDirectory(this);
  }

  // Devices 5:0 (tty), 5:1 (console), 5:2 (ptmx) and 136:N (ptys).
  void RegisterDevices(fs::DeviceTable& devices);
  void SetDevpts(Ref<fs::DevptsFs> devpts, vfs::Path root);

  // A terminal over the host's, as pts/0. On a fiber.
  Result<void> StartConsole(arena::HostFd input, arena::HostFd output, const winsize& size);
  // An open end of it for the first process, which takes it as its controlling terminal.
  Result<Ref<vfs::File>> OpenConsole(vfs::Caller& caller);
  // Another one, for an exec session.
  struct Console {
    Ref<anon::Console> console;
    int index = -1;
  };
  Result<Console> MakeConsole(arena::HostFd input, arena::HostFd output, const winsize& size,
                              uint32_t uid, uint32_t gid);
  Result<Ref<vfs::File>> OpenConsole(vfs::Caller& caller, anon::Console& console, int index);
  void RemoveConsole(int index) { ptys_.Remove(index); }
  // The first one's user has gone for good.
  void StopConsole();
  void SetConsoleInput(anon::Input input);
  void OnWantedConsoleInput(std::function<void()> wanted);
  void SetConsoleWindow(const winsize& size);
  void DrainConsole(sched::Deadline deadline);
  bool has_console() const { return static_cast<bool>(FirstConsole().console); }
  // The container has ended: lets go of its devpts, and through it of its mounts.
  void Forget();

  // anon::PtyDirectory
  void Add(int index, uint32_t uid, uint32_t gid) override;
  void Remove(int index) override;
  Result<vfs::Path> PathOf(int index) override;

 private:
  Console FirstConsole() const;
  Ref<fs::DevptsFs> Devpts() const;

  kernel::Kernel& kernel_;
  anon::PtyTable ptys_;
  mutable Mutex mutex_{LockRank::kLeaf};
  Ref<fs::DevptsFs> devpts_ GUARDED_BY(mutex_);
  vfs::Path devpts_root_ GUARDED_BY(mutex_);
  Console first_console_ GUARDED_BY(mutex_);
};

}  // namespace skep::boot
