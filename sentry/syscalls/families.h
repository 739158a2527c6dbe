// The families of system calls. Each file sys_*.cc ends with the rows of its own handlers, which
// nothing outside it names; the table (table.cc) is made of them.
#pragma once

#include <span>

#include "sentry/syscalls/adapter.h"

namespace skep::syscalls {

extern const std::span<const Row> kDirRows;
extern const std::span<const Row> kExecRows;
extern const std::span<const Row> kIdsRows;
extern const std::span<const Row> kMmRows;
extern const std::span<const Row> kOpenRows;
extern const std::span<const Row> kPidfdRows;
extern const std::span<const Row> kPollRows;
extern const std::span<const Row> kProcessRows;
extern const std::span<const Row> kRwRows;
extern const std::span<const Row> kSchedRows;
extern const std::span<const Row> kSignalRows;
extern const std::span<const Row> kSocketRows;
extern const std::span<const Row> kStatRows;
extern const std::span<const Row> kSystemRows;
extern const std::span<const Row> kTimeRows;
extern const std::span<const Row> kRefusedRows;

// All of them, in no order. A number that two of them give is a fault (table_test.cc).
inline const std::span<const Row>* const kFamilies[] = {
    &kDirRows,  &kExecRows,    &kIdsRows,  &kMmRows,     &kOpenRows,   &kPidfdRows,
    &kPollRows, &kProcessRows, &kRwRows,   &kSchedRows,  &kSignalRows, &kSocketRows,
    &kStatRows, &kSystemRows,  &kTimeRows, &kRefusedRows};

}  // namespace skep::syscalls
