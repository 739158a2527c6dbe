// One function per verb of the command line; each returns the exit status of the process.
#pragma once

#include <string>

#include "runsc-cli/options.h"
#include "runsc-cli/report.h"

namespace skep::cli {

int Do(const GlobalOptions& global, const DoOptions& options, const Reporter& reporter);
int Run(const GlobalOptions& global, const RunOptions& options, const Reporter& reporter);
int WriteSpec(const SpecOptions& options, const Reporter& reporter);
int PrintPlatforms(const GlobalOptions& global);
enum class TableFormat : uint8_t { kMarkdown, kJson };
int PrintSyscalls(TableFormat format);
int PrintProcesses(TableFormat format);
int PrintFilters(TableFormat format);

}  // namespace skep::cli
