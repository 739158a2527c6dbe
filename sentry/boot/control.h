// What the CLI tells a sentry when it starts one, and what the sentry tells back: all that
// runsc-cli/ may know of the sentry.
//
// The CLI starts `skep boot --config-fd N` (re-executing itself) with the descriptors that the
// configuration names; the configuration is JSON in a memfd. Over the control socket
// (SOCK_SEQPACKET) the sentry sends events, the CLI sends commands.
#pragma once

#include <sys/resource.h>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "jail/identity.h"

namespace skep::boot {

struct MountConfig {
  std::string destination;  // absolute in the guest; "/" for the first one
  enum class Kind : uint8_t {
    kGofer,
    kTmpfs,
    kProc,
    kSysfs,
    kDevpts,
    kDev,
    kMqueue,  // without queues: empty and read-only
  } kind = Kind::kGofer;
  int attach = -1;            // kGofer: attach point of the gofer
  bool overlay = false;       // kGofer: writes go to memory
  bool shared_cache = false;  // kGofer: somebody else may change the tree
  bool read_only = false, no_exec = false, no_suid = false, no_dev = false;
  uint64_t size = 0;      // kTmpfs: bytes; 0: half of the memory
  uint32_t mode = 01777;  // kTmpfs: of its root
  std::string source;     // as /proc/mounts shows it
};

struct Capabilities {
  uint64_t effective = 0, permitted = 0, inheritable = 0, bounding = 0, ambient = 0;
};

// A process that somebody outside starts: a container's first one, or an exec session.
struct ProcessConfig {
  std::vector<std::string> argv, env;
  std::string exec_path;  // what execve gets: found in PATH by the CLI, or argv[0] as it is
  std::string cwd = "/";
  uint32_t uid = 0, gid = 0, umask = 022;
  std::vector<uint32_t> groups;
  Capabilities capabilities;
  bool no_new_privs = false;
  bool terminal = false;        // stdin and stdout are a terminal that the CLI has put in raw mode
  bool terminal_errors = true;  // ... and so is stderr
  bool terminal_input = true;   // nobody else reads there: the CLI is in the foreground
  uint16_t terminal_rows = 0, terminal_columns = 0;
  struct Rlimit {
    int resource;
    uint64_t soft, hard;
  };
  std::vector<Rlimit> rlimits;
  int oom_score_adj = 0;

  // Descriptors 0, 1 and 2 in the sentry's process; -1: closed.
  int stdio_fds[3] = {-1, -1, -1};
  // uid and gid of each, as the guest is to see them; empty: as the sentry sees them.
  std::vector<uint32_t> stdio_owners;
  // The first of them that shares its open file description, and the first one of the same file.
  int stdio_description_of[3] = {0, 1, 2};
  int stdio_inode_of[3] = {0, 1, 2};
  // Their names where the guest may know them; "" for pipes, sockets and what it cannot see.
  std::vector<std::string> stdio_names;
};

// What a container is to its sandbox.
struct ContainerConfig {
  std::string id;
  std::string hostname = "skep", domainname;
  std::vector<MountConfig> mounts;  // mounted in this order; the first is "/"
  std::vector<std::string> masked_paths, readonly_paths;
  bool unkillable_init = true;  // it is a container's init (KernelConfig)
  uint64_t pids_limit = 0;      // 0: none
  int gofer_fd = -1;            // client socket of the gofer
  // Ids of the container for those of whoever started it: inside, outside and count, repeated.
  std::vector<uint32_t> uid_map, gid_map;
};

// What holds for a sentry and all that is in it.
struct SandboxConfig {
  std::string platform = "auto";  // auto, ptrace, notify, kvm
  bool ptrace_poison = false;     // a test mode
  bool move_tasks = false;        // a test mode
  bool check_locks = false;       // another
  int workers = 0;                // 0: one for each allowed CPU
  uint64_t memory_limit = 0;      // 0: none
  std::string stub_cgroup;        // informative: what the memory limit is held with
  bool checkpoint_scan = false;   // a test mode: a checkpoint looks for stray pointers
  std::string crash;              // a test hook: how the sentry fails (CrashForTest)
  bool jail_self_test = false;    // a test hook: tries to break out, reports, exits

  // Descriptors in the sentry's process; -1: none.
  int control_fd = -1;
  // A listening socket: others may reach the sandbox, which belongs to nobody. -1: it ends with the
  // control socket.
  int listen_fd = -1;
  // Holds the lock of the state directory; closed when the sandbox can be reached. -1: none.
  int lock_fd = -1;
  uint64_t kill_after_ms = 0;  // of a sandbox that listens: its init is killed then; 0: never
  int restore_fd = -1;  // the image of a sandbox that goes on; what is not a descriptor is in there
  int log_fd = -1;
  int strace_fd = -1;
  int last_words_fd = -1;  // where it says why it died (base/last_words.h)
  int filter_use_fd = -1;  // a test mode: where the use of the filter's rows is counted
  // cgroup.procs of the stubs' own group, writable: the sentry moves each stub there. -1: none.
  int stub_cgroup_fd = -1;
  int engine_fd = -1;  // the device of the engine that was chosen (platform/engines.h)
  // /proc/<pid>/stat of the CLI: guests stop while it is stopped. -1: it is nobody's.
  int caller_stat_fd = -1;
  std::string log_format = "text";
  bool debug = false;
  // Who the sentry is on the host.
  jail::Identity identity;
};

// A sandbox with its first container and that container's first process.
struct BootConfig : SandboxConfig, ContainerConfig, ProcessConfig {};

std::string ToJson(const BootConfig& config);
HostResult<BootConfig> FromJson(const std::string& text);
std::string ToJson(const ProcessConfig& config);
HostResult<ProcessConfig> ProcessFromJson(const std::string& text);
std::string ToJson(const ContainerConfig& config);
HostResult<ContainerConfig> ContainerFromJson(const std::string& text);

// sentry -> CLI
struct SentryEvent {
  enum class Kind : uint8_t {
    kStarted,       // the first process runs; text: the engine's name
    kFailed,        // it could not be started: text says why; status: the errno of execve, or 0
    kExited,        // the first process is gone; status: as wait4 tells it; text: why, or empty
    kStopped,       // the first process stopped (status: the signal): the CLI stops itself too
    kLost,          // what the sandbox cannot do without is gone: text says what
    kCheckpointed,  // status 0: the image is complete and the sentry ends; else text says why not
    kWantsInput,    // a guest reads the terminal, whose input is held (CliCommand::kContinue)
    kTaken,         // a kSignal has been delivered; status: its number
    kReleased,      // the container is forgotten, and the sandbox goes on with others
  } kind = Kind::kFailed;
  int32_t status = 0;
  std::string text;
};
// CLI -> sentry
struct CliCommand {
  enum class Kind : uint8_t {
    kSignal,      // value: signal number for the first process (or the terminal's foreground group)
    kWindow,      // value: rows << 16 | columns
    kContinue,    // the CLI was continued; value: 1 if the terminal is its own, 0 in the background
    kCheckpoint,  // with a descriptor: writes the sandbox to it and ends the sentry
    kRelease,     // of a sandbox that listens: the status of its end was fetched
    kSuspend,     // the CLI is about to stop, by this signal: so do the guest's processes
  } kind = Kind::kSignal;
  uint32_t value = 0;
};
Result<void> SendEvent(int fd, const SentryEvent& event);
// nullopt: the peer is gone.
std::optional<SentryEvent> ReceiveEvent(int fd);
// `file`: a descriptor that goes along (-1: none); what came along, if anything did.
Result<void> SendCommand(int fd, const CliCommand& command, int file = -1);
std::optional<CliCommand> ReceiveCommand(int fd, OwnedFd* file = nullptr);

// `skep boot`: the sentry's main. Does not return before the sandbox is gone.
int BootMain(int config_fd);

}  // namespace skep::boot
