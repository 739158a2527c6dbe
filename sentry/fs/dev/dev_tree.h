// What /dev looks like at boot: device nodes, links and directories in an empty tmpfs.
#pragma once

#include "sentry/vfs/path.h"

namespace skep::fs {

// Makes null, zero, full, random, urandom, tty, console, ptmx (a link into pts), fd, stdin, stdout,
// stderr, core, and the directories pts, shm and mqueue in the root of `fs`, owned by root. What is
// to be mounted on the directories is boot's business. `console`: there is one.
Result<void> PopulateDev(vfs::FileSystem& fs, bool console);

}  // namespace skep::fs
