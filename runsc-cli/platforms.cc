// `skep platforms`: which engines work on this host, and which one `auto` takes.
#include <fmt/format.h>

#include "base/host_call.h"
#include "platform/engines.h"
#include "runsc-cli/verbs.h"

namespace skep::cli {
namespace {

// A number or a word from the kernel's own files, or "unknown".
std::string ReadSetting(const char* path) {
  Result<std::string> text = host::ReadWholeFile(path, 4096);
  if (!text) return "unknown";
  while (!text->empty() && text->back() == '\n') text->pop_back();
  // The word in brackets is the chosen one of several.
  const size_t open = text->find('['), close = text->find(']');
  if (open == std::string::npos || close == std::string::npos || close < open) return *text;
  return text->substr(open + 1, close - open - 1);
}

// Whether it works, tried out; and what it costs.
std::string Describe(const platform::EngineInfo& engine, bool& works) {
  if (const std::optional<std::string> why = engine.WhyUnavailable()) return "no: " + *why;
  const HostResult<uint64_t> cost = platform::MeasureSyscallNs(engine.kind);
  if (!cost) return "no: " + cost.error().message;
  works = true;
  return fmt::format("works here; a system call costs {}.{:02} us", *cost / 1000,
                     *cost % 1000 / 10);
}

}  // namespace

int PrintPlatforms(const GlobalOptions& global, const Reporter& reporter) {
  std::string out;
  bool chosen = false;
  for (const platform::EngineInfo& engine : platform::kEngines) {
    bool works = false;
    const std::string description = Describe(engine, works);
    const bool wanted = global.platform == "auto" || global.platform == engine.name;
    const bool takes = works && wanted && !chosen;
    chosen |= takes;
    out +=
        fmt::format("{} {:<7} {}: {}\n", takes ? '*' : ' ', engine.name, engine.what, description);
  }
  out += fmt::format("mappings of a process (vm.max_map_count): {}\n",
                     ReadSetting("/proc/sys/vm/max_map_count"));
  out += fmt::format("huge pages for guest memory (shmem_enabled): {}\n",
                     ReadSetting("/sys/kernel/mm/transparent_hugepage/shmem_enabled"));
  const int printed = reporter.Print(out);
  return chosen ? printed : 1;
}

}  // namespace skep::cli
