// `skep platforms`: which engines work on this host, and which one `auto` takes.
#include <fmt/format.h>
#include <span>

#include "base/host_call.h"
#include "platform/platform.h"
#include "runsc-cli/verbs.h"

namespace skep::cli {
namespace {

using platform::EngineKind;

struct NamedEngine {
  EngineKind kind;
  const char* name;
  const char* what;
};
// In the order in which `auto` prefers them.
constexpr NamedEngine kEngines[] = {
    {EngineKind::kKvm, "kvm", "hardware virtualisation"},
    {EngineKind::kNotify, "notify", "seccomp user notification"},
    {EngineKind::kPtrace, "ptrace", "works wherever ptrace is allowed"},
};

}  // namespace

int PrintPlatforms(const GlobalOptions& global) {
  std::string out;
  bool chosen = false;
  for (const NamedEngine& engine : kEngines) {
    const std::optional<std::string> why = platform::WhyUnavailable(engine.kind);
    const bool wanted = global.platform == "auto" || global.platform == engine.name;
    const bool takes = !why && wanted && !chosen;
    chosen |= takes;
    out += fmt::format("{} {:<7} {}: {}\n", takes ? '*' : ' ', engine.name, engine.what,
                       why ? "no: " + *why : "works here");
  }
  (void)host::WriteAll(1, std::as_bytes(std::span(out)));
  return chosen ? 0 : 1;
}

}  // namespace skep::cli
