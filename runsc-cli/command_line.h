// The command line as tables: verbs, their options and operands. One source for the parser, the
// help, the manual pages, docs/cli.md and shell completion.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace skep::cli {

using OptionTarget = std::variant<bool*, std::string*, int64_t*, std::vector<std::string>*>;

struct OptionRow {
  std::string_view name;   // without its dashes
  char letter = 0;         // of the short form; 0: none
  std::string_view value;  // what stands for the value in the help; empty: a flag
  std::string_view text;
  OptionTarget target;
  std::vector<std::string_view> choices = {};
  int64_t least = 0, most = std::numeric_limits<int64_t>::max();  // of numbers
  enum class Audience : uint8_t { kUser, kTest } audience = Audience::kUser;
};

// A word that is no option. The last one may take all that are left.
struct OperandRow {
  std::string_view name;
  std::variant<std::string*, std::vector<std::string>*> target;
  enum class Need : uint8_t { kRequired, kOptional } need = Need::kRequired;
};

struct ExampleRow {
  std::string_view command, text;
};

struct VerbRow {
  std::string_view name;
  std::string_view usage;    // after "skep "
  std::string_view summary;  // a line
  std::string_view text;     // paragraphs
  std::vector<OptionRow> options;
  std::vector<OperandRow> operands;
  // The rest, from the first word that is neither an option nor an operand: a command of the
  // guest's, whose options are never looked at. Null: there is none.
  std::vector<std::string>* command = nullptr;
  std::vector<ExampleRow> examples;
};

struct CommandTable {
  std::string_view summary;
  std::vector<OptionRow> globals;
  std::vector<VerbRow> verbs;
};

struct ParsedLine {
  const VerbRow* verb = nullptr;  // null: none was given
  bool help = false;              // of `verb`, or of all
  bool version = false;
};

// Fills in the options that the table points to. The error says what is wrong with which word, and
// what may have been meant; `*parsed` has the verb by then, if one was recognized.
HostResult<void> ParseLine(const CommandTable& table, const std::vector<std::string>& words,
                           ParsedLine* parsed);

// The candidate that somebody may have meant by `word`; empty: none is near.
std::string_view NearMiss(std::string_view word, const std::vector<std::string_view>& candidates);

}  // namespace skep::cli
