// skep's verbs and options, as data.
#pragma once

#include "runsc-cli/command_line.h"
#include "runsc-cli/options.h"

namespace skep::cli {

// The table points into `options`, which must outlive it.
CommandTable MakeCommandTable(Options& options);

// Prose that belongs to no verb, for help, manual and docs/cli.md.
struct TopicRow {
  std::string_view name, title, text;
};
const std::vector<TopicRow>& Topics();

}  // namespace skep::cli
