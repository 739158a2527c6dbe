// main() of the one binary: the command line's verbs, and the roles that it starts itself in.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "gofer/main/gofer_main.h"
#include "platform/engines.h"
#include "runsc-cli/parse.h"
#include "runsc-cli/report.h"
#include "runsc-cli/verbs.h"
#include "sentry/boot/control.h"

namespace skep::cli {
namespace {

constexpr const char* kVersion = "skep version 0.1.0\nspec: 1.0.2";
constexpr int kUsageError = 1;

struct Options {
  GlobalOptions global;
  DoOptions do_options;
  RunOptions run;
  SpecOptions spec;
  std::string help_topic;
  bool help_json = false;
  bool version = false;
};

std::vector<std::string> PlatformNames() {
  std::vector<std::string> names = {"auto"};
  for (const platform::EngineInfo& engine : platform::kEngines) names.push_back(engine.name);
  return names;
}

void AddGlobalOptions(CLI::App& app, GlobalOptions& global) {
  app.add_option("--root", global.root, "directory of the containers' state");
  app.add_option("--platform", global.platform, "engine that runs guests")
      ->check(CLI::IsMember(PlatformNames()));
  app.add_option("--overlay", global.overlay,
                 "where writes to the root go: memory, or none (to the root itself)")
      ->check(CLI::IsMember({"memory", "none", "file"}));
  app.add_option("--workers", global.workers, "threads that serve guests (0: one for each CPU)")
      ->check(CLI::Range(0, 1024));
  app.add_flag("--debug", global.debug, "log more");
  app.add_option("--debug-log", global.debug_log, "file for the logs of the sentry and the gofer");
  app.add_option("--log", global.log, "file for this command's own errors (as runc)");
  app.add_option("--log-format", global.log_format, "format of the log files")
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option("--strace", global.strace,
                 "file for a trace of the guests' system calls (-: stderr)");
  app.add_flag("--ptrace-poison", global.ptrace_poison,
               "a test mode: ptrace overwrites registers that were not loaded");
  app.add_flag("--move-tasks", global.move_tasks,
               "a test mode: guest threads go from worker to worker all the time");
  app.add_flag("--check-locks", global.check_locks,
               "a test mode: the sentry ends where it takes locks out of order");
}

void AddDo(CLI::App& app, DoOptions& options) {
  CLI::App* verb = app.add_subcommand(
      "do", "run a command over a read-only view of this machine's root, or of a directory");
  verb->footer("Usage: skep [options] do [options] [--] COMMAND [ARGUMENT ...]");
  verb->add_option("--rootfs", options.rootfs, "directory that becomes the root");
  verb->add_option("--cwd", options.cwd, "directory to start in");
  verb->add_option("--env,-e", options.env, "NAME=VALUE, added to the environment")
      ->allow_extra_args(false);
  verb->add_option("--user,-u", options.user, "USER[:GROUP] to run as");
  verb->add_option("--volume", options.volumes, "HOST:GUEST[:ro]: a directory or file of the host")
      ->allow_extra_args(false);
  verb->add_option("--memory,-m", options.memory, "memory limit, as in 512m");
  verb->add_option("--pids", options.pids, "most processes and threads")
      ->check(CLI::Range(int64_t{1}, int64_t{4194304}));
  verb->add_option("--hostname", options.hostname, "host name inside");
  verb->add_flag("--jail-self-test", options.jail_self_test,
                 "a test mode: the sentry first tries to leave its jail, and says so in the log");
  verb->add_option("--crash", options.crash, "a test mode: the sentry fails in this way")
      ->check(CLI::IsMember({"check", "stack", "fault", "jail", "abort"}))
      ->group("");
  verb->add_option("--filter-use", options.filter_use,
                   "a test mode: counts in FILE which rows of `skep help filters` are used")
      ->group("");
  CLI::Option* image = verb->add_option("--image", options.image, "file for --checkpoint-after");
  verb->add_option("--checkpoint-after", options.checkpoint_after,
                   "a test mode: after so many ms, stop, and go on from --image in a new process")
      ->needs(image)
      ->check(CLI::Range(int64_t{0}, int64_t{3600'000}));
}

void AddOthers(CLI::App& app, Options& options) {
  // Not CLI11's own: that throws, and the first exception of a static binary takes 3 ms.
  app.add_flag("--version,-v", options.version, "print the version and exit");
  CLI::App* run = app.add_subcommand("run", "run an OCI bundle in the foreground");
  run->add_option("id", options.run.id, "name of the container")->required();
  run->add_option("--bundle,-b", options.run.bundle, "directory with config.json");
  run->add_option("--pid-file", options.run.pid_file, "file for the pid of the sandbox's kernel");
  CLI::App* spec = app.add_subcommand("spec", "write a config.json to start from");
  spec->add_option("--bundle,-b", options.spec.bundle, "directory to write it to");
  spec->add_flag("--rootless", options.spec.rootless, "for an ordinary user");
  app.add_subcommand("platforms", "which engines work on this host");
  CLI::App* help = app.add_subcommand(
      "help", "this text, that of a verb, or a table: `help syscalls`, processes, filters");
  help->add_option("topic", options.help_topic, "a verb, or syscalls, processes, filters");
  help->add_flag("--json", options.help_json, "a table: as JSON");
}

const CLI::Option* FindOption(const CLI::App& verb, const CLI::App& app, const std::string& name) {
  const CLI::Option* found = verb.get_option_no_throw(name);
  return found != nullptr ? found : app.get_option_no_throw(name);
}

// Where the options of the verb that starts at `from` end: the index of `--` or of the first word
// that is neither an option nor an option's value.
size_t EndOfOptions(const CLI::App& verb, const CLI::App& app,
                    const std::vector<std::string>& words, size_t from) {
  size_t i = from;
  while (i < words.size() && words[i].size() > 1 && words[i][0] == '-' && words[i] != "--") {
    const std::string name = words[i].substr(0, words[i].find('='));
    const CLI::Option* option = FindOption(verb, app, name);
    const bool has_value = words[i].size() > name.size();
    const bool takes_value = option != nullptr && option->get_expected_min() > 0;
    i += takes_value && !has_value ? 2 : 1;
  }
  return std::min(i, words.size());
}

// Takes the guest's command off the words of `skep ... do ...`, so that its own options are never
// looked at.
void SplitCommand(const CLI::App& app, std::vector<std::string>& words, DoOptions& options) {
  const size_t verb_at = EndOfOptions(app, app, words, 0);
  if (verb_at >= words.size() || words[verb_at] != "do") return;
  size_t end = EndOfOptions(*app.get_subcommand("do"), app, words, verb_at + 1);
  const auto command = words.begin() + static_cast<ptrdiff_t>(end);
  const bool marked = command != words.end() && *command == "--";
  options.command.assign(command + (marked ? 1 : 0), words.end());
  words.erase(command, words.end());
}

int Help(const CLI::App& app, const Options& options, const Reporter& reporter) {
  const TableFormat format = options.help_json ? TableFormat::kJson : TableFormat::kMarkdown;
  if (options.help_topic == "processes") return PrintProcesses(format);
  if (options.help_topic == "filters") return PrintFilters(format);
  if (options.help_topic == "syscalls") {
    return PrintSyscalls(format);
  }
  if (options.help_topic.empty()) {
    // Not app.help(): that is the help of the verb which was given, this one.
    fputs(app.get_formatter()->make_help(&app, "skep", CLI::AppFormatMode::Normal).c_str(), stdout);
    return 0;
  }
  for (const CLI::App* verb : app.get_subcommands(nullptr)) {
    if (verb->get_name() != options.help_topic) continue;
    fputs(verb->help().c_str(), stdout);
    return 0;
  }
  reporter.Error(fmt::format("no help on '{}'; `skep help` lists the verbs", options.help_topic));
  return kUsageError;
}

int Dispatch(const CLI::App& app, const Options& options, const Reporter& reporter) {
  const std::string verb = app.get_subcommands().front()->get_name();
  if (options.global.overlay == "file") {
    reporter.Error("--overlay=file is not in this version; use memory or none");
    return kUsageError;
  }
  if (verb == "do" && options.do_options.command.empty()) {
    reporter.Error("do: no command; write skep do [options] -- COMMAND [ARGUMENT ...]");
    return kUsageError;
  }
  if (verb == "do") return Do(options.global, options.do_options, reporter);
  if (verb == "run") return Run(options.global, options.run, reporter);
  if (verb == "spec") return WriteSpec(options.spec, reporter);
  if (verb == "platforms") return PrintPlatforms(options.global);
  return Help(app, options, reporter);
}

int RunVerb(int argc, char** argv) {
  Options options;
  CLI::App app("Runs programs on a Linux kernel of its own: skep VERB --help says more.", "skep");
  app.require_subcommand(0, 1);
  app.fallthrough();
  AddGlobalOptions(app, options.global);
  AddDo(app, options.do_options);
  AddOthers(app, options);
  std::vector<std::string> words(argv + 1, argv + argc);
  SplitCommand(app, words, options.do_options);
  std::vector<std::string> reversed(words.rbegin(), words.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    fprintf(stderr, "skep: %s; `skep help` says more\n", Printable(error.what()).c_str());
    return kUsageError;
  }
  if (options.version) return puts(kVersion) >= 0 ? 0 : 1;
  if (app.get_subcommands().empty()) {
    fputs("skep: no verb; `skep help` lists them\n", stderr);
    return kUsageError;
  }
  const LogFormat format =
      options.global.log_format == "json" ? LogFormat::kJson : LogFormat::kText;
  const HostResult<Reporter> reporter = Reporter::Make(options.global.log, format);
  if (!reporter) {
    fprintf(stderr, "skep: %s\n", reporter.error().message.c_str());
    return kUsageError;
  }
  ConfigureLog(-1, format, options.global.debug ? LogLevel::kDebug : LogLevel::kWarning, "cli");
  return Dispatch(app, options, *reporter);
}

// `skep gofer --control-fd N` and `skep boot --config-fd N`: how spawn.cc starts this binary again.
int RunRole(const char* role, const char* option, const char* value) {
  const auto fd = ParseNumber(value);
  if (!fd || *fd > 1 << 20) return kUsageError;
  const int number = static_cast<int>(*fd);
  if (strcmp(role, "gofer") == 0 && strcmp(option, "--control-fd") == 0) {
    return gofer::GoferMain(number);
  }
  if (strcmp(role, "boot") == 0 && strcmp(option, "--config-fd") == 0) {
    return boot::BootMain(number);
  }
  return kUsageError;
}

// Descriptors made later must not take the places of standard input, output and error.
void FillStandardDescriptors() {
  struct stat status{};
  for (int fd = 0; fd < 3; ++fd) {
    if (fstat(fd, &status) != 0) (void)open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY);
  }
}

int Main(int argc, char** argv) {
  FillStandardDescriptors();
  if (argc == 4 && (strcmp(argv[1], "gofer") == 0 || strcmp(argv[1], "boot") == 0)) {
    return RunRole(argv[1], argv[2], argv[3]);
  }
  return RunVerb(argc, argv);
}

}  // namespace
}  // namespace skep::cli

int main(int argc, char** argv) { return skep::cli::Main(argc, argv); }
