// config.json of an OCI bundle, judged: what this version does is taken over, what it cannot do is
// refused by its field's name, what the specification does not know is noted.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "sentry/boot/control.h"

namespace skep::cli {

struct OciConfig {
  // Identity, limits, names and mounts; the first mount is the root. The mounts that are gofer
  // trees have attach points in the order of `sources`, counted from 0.
  boot::BootConfig boot;
  std::vector<std::string> sources;  // host paths: root.path, then bind mounts; as in the file
  std::string cgroups_path;
  // What somebody should know, and what is only for the log.
  std::vector<std::string> warnings, notes;
};

// The error names every field that is wrong or asks for what this version cannot do.
HostResult<OciConfig> ParseOciConfig(const std::string& text);

}  // namespace skep::cli
