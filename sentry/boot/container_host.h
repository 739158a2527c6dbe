// ContainerHost: what a container has of the host, and how it starts and ends: its gofer, mounts,
// devices and terminals, standard files. The kernel's part is kernel::Container; who waits for it
// and its exec sessions are the ControlServer's.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/ref.h"
#include "sentry/anon/host_file.h"
#include "sentry/boot/container_devices.h"
#include "sentry/boot/control.h"
#include "sentry/boot/stdio.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/kernel/container.h"

namespace skep::boot {

struct Sandbox;

// Numbers of containers are never used again, unlike their ids.
enum class ContainerNumber : uint64_t {};

struct ContainerHost : RefCounted<ContainerHost> {
  ContainerHost(kernel::Kernel& kernel, ContainerNumber number_in, ContainerConfig config_in,
                ProcessConfig process_in);

  const ContainerNumber number;
  // Without descriptors: those are in the host table.
  const ContainerConfig config;
  const ProcessConfig process;  // the first one's
  const Ref<ContainerDevices> devices;
  Ref<kernel::Container> container;  // set when it is made

  // Belongs to the fibers of its processes, from the start of the first one to Dismantle.
  Ref<fs::GoferConnection> gofer;
  Ref<vfs::MountNamespace> mounts;
  std::vector<Ref<fs::GoferFs>> gofer_trees;
  ProcessStdio stdio;
  Ref<anon::HostFile> terminal_input;  // stdin, if it alone is the host's terminal; null: it is not
  std::string failed_step;             // of the start: what could not be done

  // The guests are being stopped because their starter was: it need not be told.
  std::atomic<bool> suspending{false};
  std::atomic<bool> suspended{false};  // by its starter, which will let them go on
  std::atomic<bool> gofer_lost{false};

  // The first process runs: the mounts are there.
  bool runs() const { return runs_.load(); }
  void NoteRuns() {
    runs_ = true;
    changes_.WakeAll();
  }
  // It has ended and whoever waits for that was told, or it never started.
  bool over() const { return over_.load(); }
  void NoteOver() {
    over_ = true;
    changes_.WakeAll();
  }
  sched::WaitQueue& changes() { return changes_; }

  ContainerTerminals& terminals() const { return devices->terminals(); }
  // The terminal that its processes read, console or standard input, is theirs or somebody else's
  // for the moment.
  void SetInput(anon::Input input);
  const std::string& id() const { return config.id; }

 private:
  std::atomic<bool> runs_{false}, over_{false};
  sched::WaitQueue changes_;
};

// What becomes of a container, told on fibers.
class ContainerEvents {
 public:
  // `error`: 0; the errno of execve; or another one (`text` says what of, and `in_files` is true).
  virtual void Started(ContainerHost& host, int error, bool in_files, std::string_view text) = 0;
  virtual void Stopped(ContainerHost& host, int signo) = 0;
  virtual void WantsInput(ContainerHost& host) = 0;
  virtual void GoferLost(ContainerNumber number) = 0;
  // All output is written that its terminal takes.
  virtual void Ended(ContainerHost& host, int status) = 0;

 protected:
  ~ContainerEvents() = default;
};

// Makes it known to the kernel and to its gofer. `gofer`: the client's socket; none: no files of
// the host. EEXIST: the id is taken; ENFILE: there are too many gofers. Arena heap.
Result<Ref<ContainerHost>> MakeContainerHost(Sandbox& sandbox, ContainerConfig config,
                                             const ProcessConfig& process, OwnedFd gofer);
// Starts its first process. Arena heap.
Result<void> StartContainer(Sandbox& sandbox, Ref<ContainerHost> host);
// How a connection says that its gofer is gone.
std::function<void()> TellGoferLost(Sandbox& sandbox, ContainerNumber number);
// On a fiber, when the first process has ended or never started: waits for the end of the others,
// and lets go of all that the container has. Its id is free afterwards.
void Dismantle(ContainerHost& host);

}  // namespace skep::boot
