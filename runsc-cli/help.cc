#include "runsc-cli/help.h"

#include <fmt/format.h>
#include <algorithm>

namespace skep::cli {
namespace {

constexpr size_t kWidth = 92;
constexpr size_t kColumn = 28;

// Words of `text` on lines of kWidth, each with `indent` before it; the first is `used` long.
std::string Wrapped(std::string_view text, size_t indent, size_t used) {
  std::string out;
  size_t column = used;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string_view word = text.substr(at, end - at);
    if (column != indent && column + 1 + word.size() > kWidth) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
    } else if (column != indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    at = end + 1;
  }
  return out + '\n';
}

std::string Forms(const OptionRow& row) {
  std::string text = row.letter != 0 ? fmt::format("-{}, --{}", row.letter, row.name)
                                     : fmt::format("--{}", row.name);
  if (!row.value.empty()) text += fmt::format(" {}", row.value);
  return text;
}

std::string Column(const std::string& left, std::string_view text) {
  std::string out = "  " + left;
  if (out.size() + 2 > kColumn) {
    out += '\n';
    out += std::string(kColumn, ' ');
  } else {
    out.resize(kColumn, ' ');
  }
  return out + Wrapped(text, kColumn, kColumn);
}

std::string OptionLines(const std::vector<OptionRow>& rows, OptionRow::Audience audience) {
  std::string out;
  for (const OptionRow& row : rows) {
    if (row.audience == audience) out += Column(Forms(row), row.text);
  }
  return out;
}

std::string OptionSection(const char* title, const std::vector<OptionRow>& rows,
                          OptionRow::Audience audience) {
  const std::string lines = OptionLines(rows, audience);
  return lines.empty() ? "" : fmt::format("\n{}:\n{}", title, lines);
}

std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  return out;
}

std::string MarkdownOptions(const std::vector<OptionRow>& rows, OptionRow::Audience audience) {
  std::string out;
  for (const OptionRow& row : rows) {
    if (row.audience != audience) continue;
    if (out.empty()) out = "\n| option | meaning |\n|---|---|\n";
    std::string text(row.text);
    for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) {
      text.insert(at, "\\");
    }
    out += fmt::format("| `{}` | {} |\n", Forms(row), text);
  }
  return out;
}

std::string ManualOptions(const std::vector<OptionRow>& rows) {
  std::string out;
  for (const OptionRow& row : rows) {
    if (row.audience != OptionRow::Audience::kUser) continue;
    out += fmt::format(".TP\n.B {}\n{}\n", Escaped(Forms(row)), Escaped(row.text));
  }
  return out;
}

std::string OptionWords(const std::vector<OptionRow>& rows) {
  std::string out = "--help";
  for (const OptionRow& row : rows) {
    if (row.audience != OptionRow::Audience::kUser) continue;
    out += fmt::format(" --{}", row.name);
    if (row.letter != 0) out += fmt::format(" -{}", row.letter);
  }
  return out;
}

}  // namespace

std::string HelpText(const CommandTable& table) {
  std::string out =
      fmt::format("{}\n\nUsage: skep [GLOBAL OPTIONS] VERB ...\n\nVerbs:\n", table.summary);
  for (const VerbRow& verb : table.verbs) out += Column(std::string(verb.name), verb.summary);
  out +=
      OptionSection("Global options (before the verb)", table.globals, OptionRow::Audience::kUser);
  out += OptionSection("Test modes", table.globals, OptionRow::Audience::kTest);
  out += "\nExamples:\n";
  for (const VerbRow& verb : table.verbs) {
    if (!verb.examples.empty()) out += fmt::format("  {}\n", verb.examples.front().command);
  }
  out += "\n`skep help VERB` says more; also `skep help";
  for (const TopicRow& topic : Topics()) out += fmt::format(" {}", topic.name);
  return out + " syscalls`, one at a time.\n";
}

std::string HelpText(const CommandTable&, const VerbRow& verb) {
  std::string out = fmt::format("Usage: skep {}\n\n", verb.usage);
  std::string summary(verb.summary);
  summary[0] = static_cast<char>(toupper(summary[0]));
  out += Wrapped(summary + ".", 0, 0);
  if (!verb.text.empty()) out += "\n" + Wrapped(verb.text, 0, 0);
  out += OptionSection("Options", verb.options, OptionRow::Audience::kUser);
  out += OptionSection("Test modes", verb.options, OptionRow::Audience::kTest);
  if (!verb.examples.empty()) out += "\nExamples:\n";
  for (const ExampleRow& example : verb.examples) {
    out += fmt::format("  {}\n", example.command);
    if (!example.text.empty()) out += fmt::format("      {}\n", example.text);
  }
  return out;
}

std::string HelpText(const TopicRow& topic) {
  return fmt::format("{}\n\n{}", topic.title, Wrapped(topic.text, 0, 0));
}

std::string HelpMarkdown(const CommandTable& table) {
  std::string out = fmt::format(
      "# The command line\n\nMade by `skep help all --format markdown` from the tables in "
      "`runsc-cli/command_table.cc`; a test\ncompares it with them. {} Global options stand before "
      "the verb: `skep [GLOBAL OPTIONS] VERB ...`.\n\n## Global options\n{}",
      table.summary, MarkdownOptions(table.globals, OptionRow::Audience::kUser));
  for (const VerbRow& verb : table.verbs) {
    out += fmt::format("\n## skep {}\n\n```\nskep {}\n```\n\n{}.\n", verb.name, verb.usage,
                       verb.summary);
    if (!verb.text.empty()) out += fmt::format("\n{}\n", verb.text);
    out += MarkdownOptions(verb.options, OptionRow::Audience::kUser);
    if (verb.examples.empty()) continue;
    out += "\n```sh\n";
    for (const ExampleRow& example : verb.examples) {
      out += fmt::format("{}{}{}\n", example.command, example.text.empty() ? "" : "    # ",
                         example.text);
    }
    out += "```\n";
  }
  for (const TopicRow& topic : Topics())
    out += fmt::format("\n## {}\n\n{}\n", topic.title, topic.text);
  out += "\n## Test modes\n\nFor skep's own tests; they may change at any time.\n" +
         MarkdownOptions(table.globals, OptionRow::Audience::kTest);
  for (const VerbRow& verb : table.verbs) {
    out += MarkdownOptions(verb.options, OptionRow::Audience::kTest);
  }
  return out;
}

std::string HelpManual(const CommandTable& table) {
  std::string out = fmt::format(
      ".TH SKEP 1\n.SH NAME\nskep \\- run programs on a Linux kernel of its own\n.SH SYNOPSIS\n"
      ".B skep\n[GLOBAL OPTIONS] VERB ...\n.SH DESCRIPTION\n{}\n.SH GLOBAL OPTIONS\n{}",
      Escaped(table.summary), ManualOptions(table.globals));
  for (const VerbRow& verb : table.verbs) {
    std::string title = fmt::format("skep {}", verb.name);
    std::transform(title.begin(), title.end(), title.begin(), [](char c) { return toupper(c); });
    out += fmt::format(".SH {}\n.B skep {}\n.PP\n{}.\n", title, Escaped(verb.usage),
                       Escaped(verb.summary));
    if (!verb.text.empty()) out += fmt::format(".PP\n{}\n", Escaped(verb.text));
    out += ManualOptions(verb.options);
    for (const ExampleRow& example : verb.examples) {
      out += fmt::format(".PP\n.nf\n    {}\n.fi\n{}\n", Escaped(example.command),
                         Escaped(example.text));
    }
  }
  for (const TopicRow& topic : Topics()) {
    std::string title(topic.title);
    std::transform(title.begin(), title.end(), title.begin(), [](char c) { return toupper(c); });
    out += fmt::format(".SH {}\n{}\n", title, Escaped(topic.text));
  }
  return out;
}

std::string BashCompletion(const CommandTable& table) {
  std::string verbs;
  std::string cases;
  std::string valued;  // options that the next word is a value of
  const auto note = [&](const std::vector<OptionRow>& rows) {
    for (const OptionRow& row : rows) {
      if (row.value.empty()) continue;
      if (!valued.empty()) valued += "|";
      valued += fmt::format("--{}", row.name);
    }
  };
  note(table.globals);
  for (const VerbRow& verb : table.verbs) {
    verbs += fmt::format("{}{}", verbs.empty() ? "" : " ", verb.name);
    const bool has_id = !verb.operands.empty() && verb.operands[0].name == "ID";
    cases += fmt::format("    {}) words='{}'; ids={} ;;\n", verb.name, OptionWords(verb.options),
                         has_id && verb.name != "run" ? 1 : 0);
  }
  return fmt::format(
      "# bash completion for skep; made by `skep help --format bash`.\n"
      "_skep() {{\n"
      "  local cur=${{COMP_WORDS[COMP_CWORD]}} verb= words= ids=0 i skip=0\n"
      "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
      "    if ((skip)); then skip=0; continue; fi\n"
      "    case ${{COMP_WORDS[i]}} in\n"
      "    {}) skip=1 ;;\n"
      "    -*) ;;\n"
      "    *) verb=${{COMP_WORDS[i]}}; break ;;\n"
      "    esac\n"
      "  done\n"
      "  case $verb in\n"
      "    '') words='{} {} --version' ;;\n{}"
      "  esac\n"
      "  ((ids)) && [[ $cur != -* ]] && words=$(skep list --quiet 2>/dev/null)\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
      "}}\n"
      "complete -o default -F _skep skep\n",
      valued, verbs, OptionWords(table.globals), cases);
}

std::string FishCompletion(const CommandTable& table) {
  std::string out = "# fish completion for skep; made by `skep help --format fish`.\n";
  const auto line = [&](std::string_view condition, const OptionRow& row) {
    if (row.audience != OptionRow::Audience::kUser) return;
    std::string text(row.text);
    std::erase(text, '\'');
    out += fmt::format("complete -c skep -n '{}' -l {}{}{} -d '{}'\n", condition, row.name,
                       row.letter != 0 ? fmt::format(" -s {}", row.letter) : "",
                       row.value.empty() ? "" : " -r", text);
  };
  for (const OptionRow& row : table.globals) line("__fish_use_subcommand", row);
  for (const VerbRow& verb : table.verbs) {
    std::string summary(verb.summary);
    std::erase(summary, '\'');
    out += fmt::format("complete -c skep -n __fish_use_subcommand -f -a {} -d '{}'\n", verb.name,
                       summary);
    for (const OptionRow& row : verb.options) {
      line(fmt::format("__fish_seen_subcommand_from {}", verb.name), row);
    }
  }
  return out;
}

}  // namespace skep::cli
