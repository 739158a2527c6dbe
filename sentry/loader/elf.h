// The ELF loader: what execve(2) makes of a file (Linux: fs/binfmt_elf.c, fs/binfmt_script.c).
//
// In two steps, around execve's point of no return: Prepare() opens and reads everything and may
// fail; Load() fills an empty address space. It fails for want of memory and, as Linux does, for
// segments that cannot be where they want to be: there is no way back then.
#pragma once

#include <elf.h>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/loader/vdso.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/name_ops.h"

namespace skep::loader {

struct ElfFile {
  Ref<vfs::File> file;
  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> segments;
};

// A program that is going to be loaded.
struct Program {
  ElfFile main;
  ElfFile interpreter;            // file is null: static
  std::vector<std::string> argv;  // after #! rewriting
  std::vector<std::string> envp;
  std::string execfn;     // AT_EXECFN: the path as it was given
  std::string comm;       // last component of it
  Ref<vfs::File> script;  // the file named in execve if it was a script, else null
};

// Follows #! lines (at most 5 levels, else ELOOP) and PT_INTERP. `file` was opened for execution
// (permission, type and mount checked by OpenExecutable). `path_inaccessible`: the path names a
// descriptor that execve closes, so a script's interpreter could not open it (ENOENT). Errors:
// ENOEXEC, ELIBBAD, EACCES, E2BIG...
Result<Program> Prepare(vfs::NameOps& walker, Ref<vfs::File> file, std::string path,
                        std::vector<std::string> argv, std::vector<std::string> envp,
                        bool path_inaccessible = false);

// Linux: do_open_execat: a regular file, execute permission, no noexec mount. EACCES, ENOENT,
// ELOOP... Nobody may write to the file while it is open or until AllowWrites: ETXTBSY.
Result<Ref<vfs::File>> OpenExecutable(vfs::NameOps& walker, const vfs::Path& path);

struct LoadContext {
  VdsoPages* vdso = nullptr;
  uint32_t uid = 0, euid = 0, gid = 0, egid = 0;
  bool secure = false;  // AT_SECURE
  uint64_t stack_limit = 8u << 20;
  uint64_t random = 0;  // seed of the layout; 0: no randomisation (personality)
  std::array<std::byte, 16> random_bytes{};  // AT_RANDOM
  std::string platform_name = "x86_64";
  uint64_t hwcap = 0, hwcap2 = 0, minsigstksz = 2048;
};

struct Loaded {
  uint64_t entry = 0;
  uint64_t stack_pointer = 0;
  std::vector<uint64_t> auxv;  // as /proc/<pid>/auxv shows it
};
Result<Loaded> Load(mm::MemoryManager& mm, const Program& program, const LoadContext& context);

}  // namespace skep::loader
