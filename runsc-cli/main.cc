// main() of the one binary: the command line's verbs, and the roles that it starts itself in.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "gofer/main/gofer_main.h"
#include "runsc-cli/command_table.h"
#include "runsc-cli/help.h"
#include "runsc-cli/parse.h"
#include "runsc-cli/report.h"
#include "runsc-cli/verbs.h"
#include "sentry/boot/control.h"

namespace skep::cli {
namespace {

constexpr const char* kVersion = "skep version 0.1.0\nspec: 1.0.2\n";
constexpr int kUsageError = 1;

int PrintHelp(const CommandTable& table, const HelpOptions& options, const Reporter& reporter) {
  const std::string& topic = options.topic;
  std::string text;
  const TableFormat format = options.json ? TableFormat::kJson : TableFormat::kMarkdown;
  if (topic == "syscalls") return PrintSyscalls(format, reporter);
  if (topic == "processes") return PrintProcesses(format, reporter);
  if (topic == "filters") return PrintFilters(format, reporter);
  if (options.format == "markdown") text = HelpMarkdown(table);
  if (options.format == "man") text = HelpManual(table);
  if (options.format == "bash") text = BashCompletion(table);
  if (options.format == "fish") text = FishCompletion(table);
  if (text.empty() && (topic.empty() || topic == "all")) text = HelpText(table);
  std::vector<std::string_view> names = {"syscalls", "processes", "filters", "all"};
  for (const VerbRow& verb : table.verbs) {
    names.push_back(verb.name);
    if (text.empty() && verb.name == topic) text = HelpText(table, verb);
  }
  for (const TopicRow& row : Topics()) {
    names.push_back(row.name);
    if (text.empty() && row.name == topic) text = HelpText(row);
  }
  if (!text.empty()) return reporter.Print(text);
  const std::string_view near = NearMiss(topic, names);
  reporter.Error(near.empty()
                     ? fmt::format("no help on '{}'; `skep help` lists the verbs", topic)
                     : fmt::format("no help on '{}'; did you mean `skep help {}`?", topic, near));
  return kUsageError;
}

int Dispatch(const CommandTable& table, std::string_view verb, const Options& options,
             const Reporter& reporter) {
  const GlobalOptions& global = options.global;
  if (verb == "do") return Do(global, options.do_options, reporter);
  if (verb == "run") return Run(global, options.run, reporter);
  if (verb == "exec") return Exec(global, options.exec, reporter);
  if (verb == "list") return List(global, options.list, reporter);
  if (verb == "kill") return Kill(global, options.kill, reporter);
  if (verb == "wait") return Wait(global, options.wait, reporter);
  if (verb == "logs") return Logs(global, options.logs, reporter);
  if (verb == "delete") return Delete(global, options.remove, reporter);
  if (verb == "spec") return WriteSpec(options.spec, reporter);
  if (verb == "platforms") return PrintPlatforms(global, reporter);
  if (verb == "version") return reporter.Print(kVersion);
  return PrintHelp(table, options.help, reporter);
}

// Verbs that end as the guest's command does keep skep's own errors apart from it.
int CodeOfUsageError(const ParsedLine& line) {
  const bool runs_commands = line.verb != nullptr && line.verb->command != nullptr;
  return runs_commands ? kOwnError : kUsageError;
}

int RunVerb(const std::vector<std::string>& words, const std::array<bool, 3>& closed) {
  Options options;
  options.global.closed = closed;
  const CommandTable table = MakeCommandTable(options);
  ParsedLine line;
  const HostResult<void> parsed = ParseLine(table, words, &line);
  if (!parsed) {
    const std::string topic = line.verb == nullptr ? "" : fmt::format(" {}", line.verb->name);
    fprintf(stderr, "skep: %s (`skep help%s` says more)\n",
            Printable(parsed.error().message).c_str(), topic.c_str());
    return CodeOfUsageError(line);
  }
  if (line.version) return Reporter().Print(kVersion);
  if (line.help) {
    const std::string text = line.verb == nullptr ? HelpText(table) : HelpText(table, *line.verb);
    return Reporter().Print(text);
  }
  if (line.verb == nullptr) {
    fputs("skep: no verb; `skep help` lists them\n", stderr);
    return kUsageError;
  }
  const LogFormat format =
      options.global.log_format == "json" ? LogFormat::kJson : LogFormat::kText;
  const HostResult<Reporter> reporter = Reporter::Make(options.global.log, format);
  if (!reporter) {
    fprintf(stderr, "skep: %s\n", reporter.error().message.c_str());
    return CodeOfUsageError(line);
  }
  ConfigureLog(-1, format, options.global.debug ? LogLevel::kDebug : LogLevel::kWarning, "cli");
  return Dispatch(table, line.verb->name, options, *reporter);
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

// Descriptors made later must not take the places of standard input, output and error. Which of
// them were closed.
std::array<bool, 3> FillStandardDescriptors() {
  std::array<bool, 3> closed = {};
  struct stat status{};
  for (int fd = 0; fd < 3; ++fd) {
    if (fstat(fd, &status) == 0) continue;
    closed[static_cast<size_t>(fd)] = true;
    (void)open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY);
  }
  return closed;
}

int Main(int argc, char** argv) {
  const std::array<bool, 3> closed = FillStandardDescriptors();
  if (argc == 4 && (strcmp(argv[1], "gofer") == 0 || strcmp(argv[1], "boot") == 0)) {
    return RunRole(argv[1], argv[2], argv[3]);
  }
  return RunVerb({argv + std::min(argc, 1), argv + argc}, closed);
}

}  // namespace
}  // namespace skep::cli

int main(int argc, char** argv) { return skep::cli::Main(argc, argv); }
