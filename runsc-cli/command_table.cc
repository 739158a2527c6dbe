#include "runsc-cli/command_table.h"

#include "platform/engines.h"

namespace skep::cli {
namespace {

constexpr auto kTest = OptionRow::Audience::kTest;

std::vector<std::string_view> EngineNames() {
  std::vector<std::string_view> names = {"auto"};
  for (const platform::EngineInfo& engine : platform::kEngines) names.emplace_back(engine.name);
  return names;
}

std::vector<OptionRow> GlobalRows(GlobalOptions& o) {
  return {
      {"root", 0, "DIR",
       "directory of the state of named sandboxes (root: /run/skep; others: "
       "$XDG_RUNTIME_DIR/skep or /tmp/skep-UID)",
       &o.root},
      {"platform", 0, "ENGINE", "engine that runs guests; `skep platforms` lists them", &o.platform,
       EngineNames()},
      {"overlay",
       0,
       "WHERE",
       "where writes to the root go: memory, or none (a --rootfs or a "
       "bundle's root is then written to itself; the host's own root, "
       "which `do` shows, is then read-only)",
       &o.overlay,
       {"memory", "none"}},
      {"workers",
       0,
       "N",
       "threads that serve guests (0: one for each CPU)",
       &o.workers,
       {},
       0,
       1024},
      {"debug", 0, "", "log more; to standard error where there is no --debug-log", &o.debug},
      {"debug-log", 0, "FILE", "file for the logs of the sentry and the gofer", &o.debug_log},
      {"log", 0, "FILE", "file for this command's own errors, as runc writes it", &o.log},
      {"log-format", 0, "FORMAT", "format of the log files", &o.log_format, {"text", "json"}},
      {"strace", 0, "FILE", "file for a trace of the guests' system calls (-: stderr)", &o.strace},
      {"ptrace-poison",
       0,
       "",
       "ptrace overwrites registers that were not loaded",
       &o.ptrace_poison,
       {},
       0,
       0,
       kTest},
      {"move-tasks",
       0,
       "",
       "guest threads go from worker to worker all the time",
       &o.move_tasks,
       {},
       0,
       0,
       kTest},
      {"filter-use",
       0,
       "FILE",
       "counts there which rows of `skep help filters` are used",
       &o.filter_use,
       {},
       0,
       0,
       kTest},
      {"check-locks",
       0,
       "",
       "the sentry ends where it takes locks out of order",
       &o.check_locks,
       {},
       0,
       0,
       kTest},
  };
}

std::vector<OptionRow> AttachRows(AttachOptions& o) {
  return {
      {"detach", 'd', "", "return when the guest runs; `skep wait`, `logs` and `delete` go on",
       &o.detach},
      {"kill-after", 0, "DURATION",
       "the sandbox is killed when the guest still runs so long after "
       "its start (500ms, 10s, 5m, 1h)",
       &o.kill_after},
  };
}

std::vector<OptionRow> TestRowsOfDo(DoOptions& o) {
  return {
      {"jail-self-test",
       0,
       "",
       "the sentry first tries to leave its jail, and says so in the log",
       &o.jail_self_test,
       {},
       0,
       0,
       kTest},
      {"crash",
       0,
       "HOW",
       "the sentry fails: check, stack, fault, jail or abort",
       &o.crash,
       {},
       0,
       0,
       kTest},
      {"checkpoint-after",
       0,
       "MS",
       "after so long, stop, and go on from --image in a new process",
       &o.checkpoint_after,
       {},
       0,
       3600'000,
       kTest},
      {"image", 0, "FILE", "for --checkpoint-after", &o.image, {}, 0, 0, kTest},
      {"checkpoint-only",
       0,
       "",
       "the sandbox ends with its checkpoint",
       &o.checkpoint_only,
       {},
       0,
       0,
       kTest},
      {"from-image", 0, "", "goes on from --image", &o.from_image, {}, 0, 0, kTest},
  };
}

VerbRow DoVerb(DoOptions& o) {
  std::vector<OptionRow> rows = {
      {"name", 'n', "ID",
       "the sandbox can be reached by this name (exec, kill, wait, list) and "
       "outlives this command",
       &o.name},
      {"in", 0, "ID",
       "one more container, with files, processes and a name of its own, in the sandbox that ID "
       "runs in; needs --name and --detach",
       &o.sandbox},
      {"rootfs", 0, "DIR", "directory that becomes the root, in place of this machine's",
       &o.rootfs},
      {"cwd", 'w', "DIR", "directory inside to start in (the current one; with --rootfs: /)",
       &o.cwd},
      {"env", 'e', "NAME=VALUE", "added to the environment; may be repeated", &o.env},
      {"user", 'u', "USER[:GROUP]", "whom to run as; numbers, or names of this machine", &o.user},
      {"volume", 'v', "HOST:GUEST[:ro]",
       "a directory or file of the host, shown at GUEST and "
       "written through; may be repeated",
       &o.volumes},
      {"memory", 'm', "SIZE", "memory limit (512m, 2g)", &o.memory},
      {"pids", 0, "N", "most processes and threads", &o.pids, {}, 1, 4194304},
      {"hostname", 0, "NAME", "host name inside, up to 64 bytes", &o.hostname},
  };
  for (OptionRow& row : TestRowsOfDo(o)) rows.push_back(std::move(row));
  for (OptionRow& row : AttachRows(o.attach)) rows.push_back(std::move(row));
  return {
      "do",
      "[GLOBAL OPTIONS] do [OPTIONS] [--] COMMAND [ARGUMENT ...]",
      "run a command over a view of this machine's root, or of a directory",
      "The command sees this machine's files (or those of --rootfs); what it writes stays in "
      "memory and is gone when it ends, except below a --volume. It has the caller's user, "
      "environment, limits, working directory and standard input, output and error. An ordinary "
      "user may do this too.",
      std::move(rows),
      {},
      &o.command,
      {{"skep do -- make test", "a build that cannot change the machine"},
       {"skep do -v $PWD:/src -w /src -m 1g -- ./run.sh", "writes below /src stay"},
       {"skep --strace calls.txt do -- ls -l", "what system calls does it make?"},
       {"skep do --name job --detach -- ./long.sh", "in the background, by name"}}};
}

VerbRow RunVerb(RunOptions& o) {
  std::vector<OptionRow> rows = {
      {"bundle", 'b', "DIR", "directory with config.json (the current one)", &o.bundle},
      {"pid-file", 0, "FILE", "file for the pid of the sandbox's kernel", &o.pid_file},
  };
  for (OptionRow& row : AttachRows(o.attach)) rows.push_back(std::move(row));
  return {
      "run",
      "[GLOBAL OPTIONS] run [OPTIONS] ID",
      "run an OCI bundle",
      "ID names the container. What config.json asks for and this version cannot do is listed "
      "in one message, and nothing is started.",
      std::move(rows),
      {{"ID", &o.id}},
      nullptr,
      {{"skep spec && skep run box", "the bundle of the current directory"},
       {"skep run --detach --bundle /b/web web && skep logs --follow web", "in the background"}}};
}

VerbRow ExecVerb(ExecOptions& o) {
  return {
      "exec",
      "[GLOBAL OPTIONS] exec [OPTIONS] ID [--] COMMAND [ARGUMENT ...]",
      "run another command in a running sandbox",
      "The command has the container's root and, unless told otherwise, its user and "
      "environment; its exit status becomes this command's. It gets a terminal if standard "
      "input and output are one.",
      {{"env", 'e', "NAME=VALUE", "added to the environment; may be repeated", &o.env},
       {"cwd", 'w', "DIR", "directory inside to start in (that of the container's start)", &o.cwd},
       {"user", 'u', "USER[:GROUP]",
        "whom to run as; numbers, or names that the container's own /etc/passwd and /etc/group "
        "have",
        &o.user},
       {"tty", 't', "", "insist on a terminal", &o.tty},
       {"no-tty", 'T', "", "no terminal, even if there is one", &o.no_tty}},
      {{"ID", &o.id}},
      &o.command,
      {{"skep exec web -- sh", "a shell in the sandbox"},
       {"echo text | skep exec web -- tee /tmp/file", "streams are passed on"}}};
}

std::vector<VerbRow> LifeVerbs(Options& o) {
  return {
      {"list",
       "[GLOBAL OPTIONS] list [OPTIONS]",
       "the named sandboxes of this user",
       "",
       {{"format", 'f', "FORMAT", "text, or json", &o.list.format, {"text", "json"}},
        {"quiet", 'q', "", "names only", &o.list.quiet}},
       {},
       nullptr,
       {{"skep list --format json | jq .", "for programs"}}},
      {"kill",
       "[GLOBAL OPTIONS] kill ID [SIGNAL]",
       "send a signal to a container's first process",
       "SIGNAL is a name or a number; TERM if it is left out.",
       {},
       {{"ID", &o.kill.id}, {"SIGNAL", &o.kill.signal, OperandRow::Need::kOptional}},
       nullptr,
       {{"skep kill web", "ask it to end"}, {"skep kill web KILL", "end it"}}},
      {"wait",
       "[GLOBAL OPTIONS] wait ID",
       "wait for a container's end and print its exit status",
       "The sandbox's processes end when the status has been fetched; its name stays until it is "
       "deleted.",
       {},
       {{"ID", &o.wait.id}},
       nullptr,
       {{"skep wait web", ""}}},
      {"logs",
       "[GLOBAL OPTIONS] logs [OPTIONS] ID",
       "what a detached container has written",
       "",
       {{"follow", 'f', "", "go on until it ends", &o.logs.follow}},
       {{"ID", &o.logs.id}},
       nullptr,
       {{"skep logs --follow web", ""}}},
      {"delete",
       "[GLOBAL OPTIONS] delete [OPTIONS] ID ...",
       "remove what is left of ended containers",
       "",
       {{"force", 'f', "", "end it first if it runs; no error if there is none", &o.remove.force}},
       {{"ID", &o.remove.ids}},
       nullptr,
       {{"skep delete --force web", ""}}},
  };
}

std::vector<VerbRow> OtherVerbs(Options& o) {
  return {
      {"spec",
       "spec [OPTIONS]",
       "write a config.json to start from",
       "",
       {{"bundle", 'b', "DIR", "directory to write it to", &o.spec.bundle},
        {"rootless", 0, "", "for an ordinary user", &o.spec.rootless}},
       {},
       nullptr,
       {{"mkdir b && skep spec -b b", ""}}},
      {"platforms",
       "[GLOBAL OPTIONS] platforms",
       "which engines work on this host",
       "",
       {},
       {},
       nullptr,
       {{"skep platforms", ""}}},
      {"version", "version", "print the version", "", {}, {}, nullptr, {}},
      {"help",
       "help [OPTIONS] [TOPIC]",
       "this text, that of a verb, or of a topic",
       "TOPIC is a verb, one of exit-codes, signals, streams and lifetimes, or syscalls; all, for "
       "the "
       "formats that are files.",
       {{"format",
         0,
         "FORMAT",
         "text; markdown or man of TOPIC; completion for bash or fish",
         &o.help.format,
         {"text", "markdown", "man", "bash", "fish"}},
        {"json", 0, "", "syscalls: as JSON", &o.help.json}},
       {{"TOPIC", &o.help.topic, OperandRow::Need::kOptional}},
       nullptr,
       {{"skep help do", ""}, {"source <(skep help --format bash)", "completion in this shell"}}},
  };
}

}  // namespace

CommandTable MakeCommandTable(Options& options) {
  CommandTable table;
  table.summary = "skep runs programs on a Linux kernel of its own.";
  table.globals = GlobalRows(options.global);
  table.verbs = {DoVerb(options.do_options), RunVerb(options.run), ExecVerb(options.exec)};
  for (VerbRow& verb : LifeVerbs(options)) table.verbs.push_back(std::move(verb));
  for (VerbRow& verb : OtherVerbs(options)) table.verbs.push_back(std::move(verb));
  return table;
}

const std::vector<TopicRow>& Topics() {
  static const std::vector<TopicRow> kTopics = {
      {"exit-codes", "Exit codes",
       "`do` and `exec` end as the command does: with its exit code, or with 128 and the number of "
       "the signal that ended it. Errors of skep itself are 125 (an option is wrong, or the "
       "sandbox "
       "could not be set up or was lost), 126 (the command cannot be executed) and 127 (there is "
       "no "
       "such command). `run` ends as the container does, and with 1 for an error of its own, as "
       "runc "
       "does. All other verbs end with 0 or 1."},
      {"signals", "Signals",
       "Signals to `skep do`, `run` and `exec` go to the guest's command: HUP, INT, QUIT, USR1, "
       "USR2, TERM, ALRM, CONT and TSTP. A guest that handles SIGTERM takes the time it needs; a "
       "sandbox that has not taken note of it within 10 seconds is killed. STOP and TSTP to skep "
       "stop the guest's processes too, until CONT. A background job that reads the terminal is "
       "stopped, as natively. --kill-after bounds the guest's time."},
      {"streams", "Standard input, output and error",
       "They are passed on as they are: descriptors that share one open file description outside "
       "share one inside, one that is closed is closed inside, and a regular file is written at "
       "the "
       "description's own position. /proc/self/fd names a file by its path where the guest sees it "
       "too, a terminal or device by its name, a pipe as pipe:[n]; other paths of the host are not "
       "told (host:[n])."},
      {"lifetimes", "Lifetimes",
       "A sandbox without a name ends with its `skep do`. A named one belongs to nobody: it ends "
       "when its container has ended and the status was fetched (by the `do` or `run` that "
       "started it, or by `wait`), or by `delete`. Killing any skep command, even with -9, leaves "
       "it alone."},
  };
  return kTopics;
}

}  // namespace skep::cli
