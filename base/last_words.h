// Last words: what a process of a sandbox leaves behind when it ends by a fault of its own.
//
// A process that is the first of its pid namespace cannot even be killed by its own abort(), and a
// wait status says little. So its starter makes a memory file that both have: the newest lines of
// the log go there, and a CHECK that fails or a fault of the hardware says what happened. It is
// there however the process ended. The reader trusts nothing in it.
#pragma once

#include <csignal>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"

namespace skep {

// -- in the process --

// Maps the file; the descriptor may be closed afterwards. Once, before other threads.
void KeepLastWords(int fd);
// The first of the process's threads that comes is heard. Async-signal-safe.
void SayLastWords(std::string_view text);
// A line of the log. Async-signal-safe.
void NoteLogLine(std::string_view line);
// Ends the process, which has said its last words.
[[noreturn]] void EndByOwnFault();

// SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT say what happened and end the process. For the
// calling thread the handlers have a stack of their own; other threads call GiveSignalStack.
void CatchFatalSignals();
void GiveSignalStack();
// What a handler of SIGSEGV or SIGBUS does with a fault that is not its business. `what`: more of
// it, or empty.
[[noreturn]] void DieOfSignal(int signo, const siginfo_t* info, const void* context,
                              std::string_view what);

// -- in its starter --

HostResult<OwnedFd> MakeLastWords();
struct LastWords {
  std::string said;              // empty: nothing; printable
  std::vector<std::string> log;  // the last lines, printable
};
LastWords ReadLastWords(int fd, size_t most_lines);

}  // namespace skep
