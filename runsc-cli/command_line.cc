#include "runsc-cli/command_line.h"

#include <fmt/format.h>
#include <algorithm>
#include <charconv>

namespace skep::cli {
namespace {

const OptionRow* FindLong(const std::vector<OptionRow>& rows, std::string_view name) {
  const auto found = std::find_if(rows.begin(), rows.end(),
                                  [&](const OptionRow& row) { return row.name == name; });
  return found == rows.end() ? nullptr : &*found;
}

const OptionRow* FindShort(const std::vector<OptionRow>& rows, char letter) {
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const OptionRow& row) {
    return row.letter != 0 && row.letter == letter;
  });
  return found == rows.end() ? nullptr : &*found;
}

std::string Listed(const std::vector<std::string_view>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i != 0) text += i + 1 == words.size() ? " or " : ", ";
    text += words[i];
  }
  return text;
}

HostResult<void> Store(const OptionRow& row, const std::string& given, const std::string& value) {
  if (!row.choices.empty() &&
      std::find(row.choices.begin(), row.choices.end(), value) == row.choices.end()) {
    return HostFail(fmt::format("{} {}: write {}", given, value, Listed(row.choices)));
  }
  if (auto* const* text = std::get_if<std::string*>(&row.target)) {
    // An unset variable of a script, more often than not: it must not mean the default.
    if (value.empty()) return HostFail(fmt::format("{}: the value is empty", given));
    **text = value;
  } else if (auto* const* list = std::get_if<std::vector<std::string>*>(&row.target)) {
    (*list)->push_back(value);
  } else if (auto* const* number = std::get_if<int64_t*>(&row.target)) {
    int64_t parsed = 0;
    const char* end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, parsed);
    if (error != std::errc() || stop != end || parsed < row.least || parsed > row.most) {
      return HostFail(
          fmt::format("{} {}: not a number from {} to {}", given, value, row.least, row.most));
    }
    **number = parsed;
  }
  return {};
}

class Parser {
 public:
  Parser(const CommandTable& table, const std::vector<std::string>& words, ParsedLine* parsed)
      : table_(table), words_(words), parsed_(*parsed) {}

  HostResult<void> Run() {
    TRY(TakeOptions(table_.globals));
    if (parsed_.help || parsed_.version || at_ == words_.size()) return {};
    const std::string& name = words_[at_++];
    for (const VerbRow& verb : table_.verbs) {
      if (verb.name == name) parsed_.verb = &verb;
    }
    if (parsed_.verb == nullptr) return UnknownVerb(name);
    return RunVerb(*parsed_.verb);
  }

 private:
  HostResult<void> RunVerb(const VerbRow& verb) {
    size_t operand = 0;
    while (at_ < words_.size()) {
      TRY(TakeOptions(verb.options));
      if (parsed_.help) return {};
      if (at_ == words_.size()) break;
      if (operand < verb.operands.size()) {
        TakeOperand(verb, operand);
      } else if (verb.command != nullptr) {
        verb.command->assign(words_.begin() + static_cast<ptrdiff_t>(at_), words_.end());
        at_ = words_.size();
      } else {
        return HostFail(fmt::format("{}: '{}' is one word too many; it is: skep {}", verb.name,
                                    words_[at_], verb.usage));
      }
    }
    for (; operand < verb.operands.size(); ++operand) {
      const OperandRow& row = verb.operands[operand];
      const auto* const* list = std::get_if<std::vector<std::string>*>(&row.target);
      if (list != nullptr && !(*list)->empty()) continue;
      if (row.need == OperandRow::Need::kOptional) continue;
      return HostFail(fmt::format("{}: no {}; it is: skep {}", verb.name, row.name, verb.usage));
    }
    if (verb.command != nullptr && verb.command->empty()) {
      return HostFail(fmt::format("{}: no command; it is: skep {}", verb.name, verb.usage));
    }
    return {};
  }

  void TakeOperand(const VerbRow& verb, size_t& operand) {
    const OperandRow& row = verb.operands[operand];
    const std::string& word = words_[at_++];
    if (auto* const* text = std::get_if<std::string*>(&row.target)) {
      **text = word;
      ++operand;
    } else {
      std::get<std::vector<std::string>*>(row.target)->push_back(word);
    }
  }

  // All options that stand here, and the "--" that ends them.
  HostResult<void> TakeOptions(const std::vector<OptionRow>& rows) {
    while (!options_ended_ && at_ < words_.size() && words_[at_].size() > 1 &&
           words_[at_][0] == '-') {
      if (words_[at_] == "--") {
        ++at_;
        options_ended_ = true;
        return {};
      }
      TRY(words_[at_][1] == '-' ? TakeLong(rows) : TakeShort(rows));
      if (parsed_.help || parsed_.version) return {};
    }
    return {};
  }

  HostResult<void> TakeLong(const std::vector<OptionRow>& rows) {
    const std::string& word = words_[at_++];
    const size_t equals = word.find('=');
    const std::string given = word.substr(0, equals);
    const std::string_view name = std::string_view(given).substr(2);
    const OptionRow* row = FindLong(rows, name);
    if (row == nullptr) return TakeWellKnown(rows, given);
    if (auto* const* flag = std::get_if<bool*>(&row->target)) {
      if (equals != std::string::npos) return HostFail(given + " takes no value");
      **flag = true;
      return {};
    }
    if (equals != std::string::npos) return Store(*row, given, word.substr(equals + 1));
    return StoreNext(*row, given);
  }

  HostResult<void> TakeShort(const std::vector<OptionRow>& rows) {
    const std::string& word = words_[at_++];
    const std::string given = word.substr(0, 2);
    const OptionRow* row = FindShort(rows, word[1]);
    if (row == nullptr) return TakeWellKnown(rows, word);
    if (auto* const* flag = std::get_if<bool*>(&row->target)) {
      if (word.size() > 2) return HostFail(fmt::format("unknown option {}", word));
      **flag = true;
      return {};
    }
    if (word.size() > 2) return Store(*row, given, word.substr(word[2] == '=' ? 3 : 2));
    return StoreNext(*row, given);
  }

  HostResult<void> StoreNext(const OptionRow& row, const std::string& given) {
    if (at_ == words_.size()) {
      return HostFail(fmt::format("{}: the value is missing ({})", given, row.value));
    }
    return Store(row, given, words_[at_++]);
  }

  // Options that every place knows, and those that this one does not.
  HostResult<void> TakeWellKnown(const std::vector<OptionRow>& rows, const std::string& given) {
    if (given == "--help" || given == "-h") {
      parsed_.help = true;
      return {};
    }
    if (parsed_.verb == nullptr && (given == "--version" || given == "-v")) {
      parsed_.version = true;
      return {};
    }
    const std::string where =
        parsed_.verb == nullptr ? "" : fmt::format("{}: ", parsed_.verb->name);
    if (given.starts_with("--") && FindLong(table_.globals, std::string_view(given).substr(2))) {
      return HostFail(
          fmt::format("{}{} is a global option; write it before the verb: skep {} {} ...", where,
                      given, given, parsed_.verb->name));
    }
    std::vector<std::string_view> names = {"help"};
    for (const OptionRow& row : rows) names.push_back(row.name);
    const std::string_view near =
        given.starts_with("--") ? NearMiss(std::string_view(given).substr(2), names) : "";
    if (!near.empty()) {
      return HostFail(fmt::format("{}unknown option {}; did you mean --{}?", where, given, near));
    }
    return HostFail(fmt::format("{}unknown option {}", where, given));
  }

  HostResult<void> UnknownVerb(const std::string& name) {
    std::vector<std::string_view> names;
    for (const VerbRow& verb : table_.verbs) names.push_back(verb.name);
    const std::string_view near = NearMiss(name, names);
    if (!near.empty()) {
      return HostFail(fmt::format("unknown verb '{}'; did you mean `skep {}`?", name, near));
    }
    return HostFail(
        fmt::format("unknown verb '{}'; to run a command: skep do -- {} ...", name, name));
  }

  const CommandTable& table_;
  const std::vector<std::string>& words_;
  ParsedLine& parsed_;
  size_t at_ = 0;
  bool options_ended_ = false;
};

// Levenshtein's distance.
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row[b.size()];
}

}  // namespace

HostResult<void> ParseLine(const CommandTable& table, const std::vector<std::string>& words,
                           ParsedLine* parsed) {
  return Parser(table, words, parsed).Run();
}

std::string_view NearMiss(std::string_view word, const std::vector<std::string_view>& candidates) {
  std::string_view best;
  size_t least = std::max<size_t>(word.size() > 3 ? 2 : 1, word.size() / 3) + 1;
  for (const std::string_view candidate : candidates) {
    const size_t distance = Distance(word, candidate);
    if (distance >= least) continue;
    least = distance;
    best = candidate;
  }
  return best;
}

}  // namespace skep::cli
