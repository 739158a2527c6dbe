// What the command line said: one struct per verb. main.cc fills them in; the verbs read them.
#pragma once

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
  int workers = 0;
  bool debug = false;
  bool ptrace_poison = false;
  bool move_tasks = false;
  bool check_locks = false;
};

struct DoOptions {
  std::string rootfs;  // empty: the host's root
  std::string cwd;     // empty: the current directory; with a rootfs: /
  std::string user;
  std::string memory;
  std::string hostname = "skep";
  std::vector<std::string> env, volumes;
  int64_t pids = 0;
  // A test mode: so many ms after its start the sandbox is written to `image`, and goes on from
  // there in a new sentry.
  int64_t checkpoint_after = -1;
  std::string image;
  std::string crash;            // a test mode: how the sentry is to fail
  std::string filter_use;       // a test mode: where the use of the filters' rows is counted
  bool jail_self_test = false;  // a test mode: the sentry first tries to break out
  std::vector<std::string> command;
};

struct RunOptions {
  std::string id, bundle = ".", pid_file;
};

struct SpecOptions {
  std::string bundle = ".";
  bool rootless = false;
};

}  // namespace skep::cli
