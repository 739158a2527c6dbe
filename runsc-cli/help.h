// The tables of command_table.cc as text: for a terminal, docs/cli.md, manual pages and shells.
#pragma once

#include <string>

#include "runsc-cli/command_table.h"

namespace skep::cli {

// `skep help` and `skep help VERB`.
std::string HelpText(const CommandTable& table);
std::string HelpText(const CommandTable& table, const VerbRow& verb);
std::string HelpText(const TopicRow& topic);
// docs/cli.md whole.
std::string HelpMarkdown(const CommandTable& table);
// skep.1, with all verbs.
std::string HelpManual(const CommandTable& table);
std::string BashCompletion(const CommandTable& table);
std::string FishCompletion(const CommandTable& table);

}  // namespace skep::cli
