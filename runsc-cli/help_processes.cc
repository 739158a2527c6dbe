// `skep help processes` and `skep help filters`: the tables of roles and of what each process may
// ask of the host, from the tables themselves.
#include <fmt/format.h>
#include <vector>

#include "gofer/jail/jail.h"
#include "jail/filter.h"
#include "runsc-cli/report.h"
#include "runsc-cli/verbs.h"
#include "runtime/roles.h"
#include "sentry/boot/jail.h"

namespace skep::cli {
namespace {

using runtime::RoleIds;
using runtime::RoleRow;

const char* NameOf(RoleIds ids) {
  switch (ids) {
    case RoleIds::kOwn:
      return "one of its own";
    case RoleIds::kTree:
      return "those of its files";
    case RoleIds::kSentrys:
      break;
  }
  return "the sentry's";
}

std::string ProcessesAsText() {
  std::string text = "The processes of a sandbox, and what each is on the host.\n";
  for (const RoleRow& row : runtime::Roles()) {
    const std::string namespaces =
        row.namespaces == 0 ? "the sentry's" : runtime::NamesOfNamespaces(row.namespaces);
    text += fmt::format(
        "\n{}\n  ids:          {}\n  namespaces:   {}\n  capabilities: {:#x}, in its own user "
        "namespace\n  root:         {}\n  holds:        {}\n  its end:      {}\n",
        row.name, NameOf(row.ids), namespaces, row.capabilities, row.root, row.holds, row.death);
  }
  return text;
}

std::string ProcessesAsJson() {
  std::string rows;
  for (const RoleRow& row : runtime::Roles()) {
    rows += fmt::format(
        "{}  {{\"name\": {}, \"ids\": {}, \"namespaces\": {}, \"capabilities\": {}, \"root\": {}, "
        "\"holds\": {}, \"death\": {}}}",
        rows.empty() ? "" : ",\n", JsonQuote(row.name), JsonQuote(NameOf(row.ids)),
        JsonQuote(runtime::NamesOfNamespaces(row.namespaces)), row.capabilities,
        JsonQuote(row.root), JsonQuote(row.holds), JsonQuote(row.death));
  }
  return fmt::format("[\n{}\n]\n", rows);
}

// In the order of the parts in which their use is counted (jail::FilterUse).
struct Filter {
  const char* process;
  std::vector<FilterRow> rows;
};

std::vector<Filter> Filters() {
  const std::span<const FilterRow> gofer = gofer::FilterRows();
  return {{"sentry, with notify", boot::FilterRows(platform::EngineKind::kNotify)},
          {"sentry, with ptrace", boot::FilterRows(platform::EngineKind::kPtrace)},
          {"gofer", {gofer.begin(), gofer.end()}}};
}

std::string FiltersAsText() {
  std::string text =
      "What a process of a sandbox may ask of the host, and why; anything else ends it. Numbers "
      "are "
      "of arguments, from 0.\n";
  for (const Filter& filter : Filters()) {
    text += fmt::format("\n{} ({} rows)\n", filter.process, filter.rows.size());
    for (const FilterRow& row : filter.rows) {
      text += fmt::format("  {:<44} {}\n", jail::TextOf(row), row.why);
    }
  }
  return text;
}

std::string FiltersAsJson() {
  std::string filters;
  for (const Filter& filter : Filters()) {
    std::string rows;
    for (const FilterRow& row : filter.rows) {
      rows += fmt::format("{}    {{\"call\": {}, \"why\": {}}}", rows.empty() ? "" : ",\n",
                          JsonQuote(jail::TextOf(row)), JsonQuote(row.why));
    }
    filters += fmt::format("{}  {{\"process\": {}, \"rows\": [\n{}\n  ]}}",
                           filters.empty() ? "" : ",\n", JsonQuote(filter.process), rows);
  }
  return fmt::format("[\n{}\n]\n", filters);
}

}  // namespace

int PrintProcesses(TableFormat format, const Reporter& reporter) {
  return reporter.Print(format == TableFormat::kJson ? ProcessesAsJson() : ProcessesAsText());
}

int PrintFilters(TableFormat format, const Reporter& reporter) {
  return reporter.Print(format == TableFormat::kJson ? FiltersAsJson() : FiltersAsText());
}

}  // namespace skep::cli
