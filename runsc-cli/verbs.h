// One function per verb of the command line; each returns the exit status of the process.
#pragma once

#include <string>

#include "runsc-cli/options.h"
#include "runsc-cli/report.h"

namespace skep::cli {

// What `do` and `exec` end with when the error is not the command's.
inline constexpr int kOwnError = 125;
inline constexpr int kNotExecutable = 126;
inline constexpr int kNotFound = 127;

int Do(const GlobalOptions& global, const DoOptions& options, const Reporter& reporter);
int Run(const GlobalOptions& global, const RunOptions& options, const Reporter& reporter);
int Exec(const GlobalOptions& global, const ExecOptions& options, const Reporter& reporter);
int List(const GlobalOptions& global, const ListOptions& options, const Reporter& reporter);
int Kill(const GlobalOptions& global, const KillOptions& options, const Reporter& reporter);
int Wait(const GlobalOptions& global, const WaitOptions& options, const Reporter& reporter);
int Logs(const GlobalOptions& global, const LogsOptions& options, const Reporter& reporter);
int Delete(const GlobalOptions& global, const DeleteOptions& options, const Reporter& reporter);
int WriteSpec(const SpecOptions& options, const Reporter& reporter);
int PrintPlatforms(const GlobalOptions& global, const Reporter& reporter);
enum class TableFormat : uint8_t { kMarkdown, kJson };
int PrintSyscalls(TableFormat format, const Reporter& reporter);
int PrintProcesses(TableFormat format, const Reporter& reporter);
int PrintFilters(TableFormat format, const Reporter& reporter);

}  // namespace skep::cli
