// The configuration that a sentry is started with.
#include "sentry/boot/control.h"
#include "tests/fuzz/fuzz.h"

namespace skep::fuzz {
namespace {

std::vector<std::string> Seeds() {
  boot::BootConfig config;
  config.id = "id";
  config.argv = {"sh", "-c", "true"};
  config.env = {"A=1"};
  config.groups = {1, 2};
  config.rlimits = {{.resource = 7, .soft = 1, .hard = 2}};
  config.mounts.resize(2);
  config.mounts[1].destination = "/t";
  config.masked_paths = {"/proc/kcore"};
  return {boot::ToJson(config), "{}", std::string(3000, '{'), R"({"argv":1})"};
}

// What it reads it writes, and reads back the same.
int TestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto config = boot::FromJson(text);
  if (!config) return 0;
  const std::string written = boot::ToJson(*config);
  const auto again = boot::FromJson(written);
  if (!again || boot::ToJson(*again) != written) Fail("no round trip");
  return 0;
}

const Target kTarget("boot_config", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
