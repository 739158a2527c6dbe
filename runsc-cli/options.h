// What the command line said: one struct per verb. command_table.cc fills them in; verbs read them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/log.h"

namespace skep::cli {

enum class Overlay : uint8_t { kMemory, kNone };

struct GlobalOptions {
  std::string root;  // state directory; empty: a default for this user
  std::string platform = "auto";
  std::string overlay = "memory";
  std::string log_format = "text";
  std::string log;        // runc's name: where the CLI reports errors too
  std::string debug_log;  // log of the sentry and the gofer
  std::string strace;
  int64_t workers = 0;
  bool debug = false;
  bool ptrace_poison = false;
  bool move_tasks = false;
  bool check_locks = false;
  // Which of 0, 1 and 2 were closed when this process started.
  std::array<bool, 3> closed = {};
  std::string filter_use;  // a test mode: where the use of the filters' rows is counted
};

// How somebody lives with a sandbox: `do`, `run`.
struct AttachOptions {
  bool detach = false;
  std::string kill_after;
};

struct DoOptions {
  AttachOptions attach;
  std::string name;     // empty: nobody else can reach the sandbox, and it ends with its caller
  std::string sandbox;  // the name of a container in whose sandbox it runs; empty: one of its own
  std::string rootfs;   // empty: the host's root
  std::string cwd;      // empty: the current directory; with a rootfs: /
  std::string user;
  std::string memory;
  std::string hostname = "skep";
  std::vector<std::string> env, volumes;
  int64_t pids = 0;
  // A test mode: so many ms after its start the sandbox is written to `image`, and goes on from
  // there in a new sentry.
  int64_t checkpoint_after = -1;
  std::string image;
  bool checkpoint_only = false;  // ... and does not go on
  bool from_image = false;       // a test mode: goes on from `image`
  std::string crash;             // a test mode: how the sentry is to fail
  bool jail_self_test = false;   // a test mode: the sentry first tries to break out
  std::vector<std::string> command;
};

struct RunOptions {
  AttachOptions attach;
  std::string id, bundle = ".", pid_file;
};

struct ExecOptions {
  std::string id, cwd, user;
  std::vector<std::string> env, command;
  bool tty = false, no_tty = false;
};

struct ListOptions {
  std::string format = "text";
  bool quiet = false;
};

struct KillOptions {
  std::string id, signal = "TERM";
};

struct WaitOptions {
  std::string id;
};

struct LogsOptions {
  std::string id;
  bool follow = false;
};

struct DeleteOptions {
  std::vector<std::string> ids;
  bool force = false;
};

struct SpecOptions {
  std::string bundle = ".";
  bool rootless = false;
};

struct HelpOptions {
  std::string topic;
  std::string format = "text";
  bool json = false;
};

struct Options {
  GlobalOptions global;
  DoOptions do_options;
  RunOptions run;
  ExecOptions exec;
  ListOptions list;
  KillOptions kill;
  WaitOptions wait;
  LogsOptions logs;
  DeleteOptions remove;
  SpecOptions spec;
  HelpOptions help;
};

}  // namespace skep::cli
