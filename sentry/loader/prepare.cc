// execve's first step: which program a file stands for.
#include <sys/mount.h>
#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "sentry/loader/elf.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"

namespace skep::loader {
namespace {

constexpr size_t kScriptLine = 256;  // Linux: BINPRM_BUF_SIZE
constexpr int kMaxScripts = 5;       // Linux: exec_binprm's depth
constexpr size_t kMaxSegments = 65536 / sizeof(Elf64_Phdr);

Result<size_t> ReadAt(vfs::Caller& caller, vfs::File& file, uint64_t offset,
                      std::span<std::byte> to) {
  size_t done = 0;
  while (done < to.size()) {
    mm::IoSequence io = mm::IoSequence::FromKernel(to.subspan(done));
    const size_t n = TRY(file.Read(caller, io, offset + done));
    if (n == 0) break;
    done += n;
  }
  return done;
}

struct ScriptLine {
  std::string interpreter;
  std::string argument;  // empty: none
};

bool IsBlank(char c) { return c == ' ' || c == '\t'; }

// Linux: load_script. The line may be cut at 256 bytes, but not inside the interpreter's name.
Result<ScriptLine> ParseScript(std::string_view head) {
  head.remove_prefix(2);
  size_t end = head.find('\n');
  if (end == std::string_view::npos) {
    end = head.find('\0');
    const size_t first = head.find_first_not_of(" \t");
    if (first == std::string_view::npos) return Fail(ENOEXEC);
    const size_t stop = head.find_first_of(std::string_view(" \t\0", 3), first);
    if (stop == std::string_view::npos) return Fail(ENOEXEC);
    if (end == std::string_view::npos) end = head.size();
  }
  std::string_view line = head.substr(0, end);
  line = line.substr(0, line.find('\0'));
  while (!line.empty() && IsBlank(line.back())) line.remove_suffix(1);
  while (!line.empty() && IsBlank(line.front())) line.remove_prefix(1);
  if (line.empty()) return Fail(ENOEXEC);
  ScriptLine script;
  const size_t stop = line.find_first_of(" \t");
  script.interpreter = line.substr(0, stop);
  if (stop != std::string_view::npos) {
    line.remove_prefix(stop);
    while (!line.empty() && IsBlank(line.front())) line.remove_prefix(1);
    script.argument = line;
  }
  return script;
}

bool IsElf(std::span<const std::byte> head) {
  return head.size() >= SELFMAG && memcmp(head.data(), ELFMAG, SELFMAG) == 0;
}

Result<ElfFile> ReadElf(vfs::Caller& caller, Ref<vfs::File> file, int bad) {
  ElfFile elf;
  elf.file = std::move(file);
  auto header = std::as_writable_bytes(std::span(&elf.header, 1));
  const size_t header_read = TRY(ReadAt(caller, *elf.file, 0, header));
  if (header_read < header.size()) return Fail(bad);
  const Elf64_Ehdr& h = elf.header;
  if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 ||
      h.e_machine != EM_X86_64 || (h.e_type != ET_EXEC && h.e_type != ET_DYN) ||
      h.e_phentsize != sizeof(Elf64_Phdr) || h.e_phnum == 0 || h.e_phnum > kMaxSegments) {
    return Fail(bad);
  }
  elf.segments.resize(h.e_phnum);
  auto table = std::as_writable_bytes(std::span(elf.segments));
  const size_t table_read = TRY(ReadAt(caller, *elf.file, h.e_phoff, table));
  if (table_read < table.size()) return Fail(bad);
  bool any = false;
  for (const Elf64_Phdr& p : elf.segments) {
    if (p.p_type != PT_LOAD) continue;
    any = true;
    uint64_t end = 0;
    if (p.p_filesz > p.p_memsz || __builtin_add_overflow(p.p_vaddr, p.p_memsz, &end) ||
        end > kGuestAddressEnd || (p.p_vaddr - p.p_offset) % kPageSize != 0) {
      return Fail(bad == ENOEXEC ? EINVAL : bad);
    }
  }
  if (!any) return Fail(bad);
  return elf;
}

Result<std::string> InterpreterOf(vfs::Caller& caller, const ElfFile& elf) {
  for (const Elf64_Phdr& p : elf.segments) {
    if (p.p_type != PT_INTERP) continue;
    if (p.p_filesz < 2 || p.p_filesz > kPathMax) return Fail(ENOEXEC);
    std::string path(p.p_filesz, '\0');
    const size_t n =
        TRY(ReadAt(caller, *elf.file, p.p_offset, std::as_writable_bytes(std::span(path))));
    if (n < path.size()) return Fail(EIO);
    if (path.back() != '\0') return Fail(ENOEXEC);
    path.resize(strlen(path.c_str()));
    return path;
  }
  return std::string();
}

}  // namespace

Result<Ref<vfs::File>> OpenExecutable(vfs::Walker& walker, const vfs::Path& path) {
  vfs::Inode* inode = path.inode();
  if (inode == nullptr) return Fail(ENOENT);
  if (inode->IsSymlink()) return Fail(ELOOP);
  if (inode->type() != S_IFREG) return Fail(EACCES);
  if (path.mount && (path.mount->flags() & MS_NOEXEC) != 0) return Fail(EACCES);
  TRY(walker.Access(path, vfs::kMayExec, walker.caller().creds()));
  // Executing needs no read permission: open the inode itself, past the vfs' check.
  Ref<vfs::File> file = TRY(inode->Open(walker.caller(), path, O_RDONLY));
  // Linux: deny_write_access: a file that is open for writing is busy.
  TRY(file->DenyWrites());
  return file;
}

Result<Program> Prepare(vfs::Walker& walker, Ref<vfs::File> file, std::string path,
                        std::vector<std::string> argv, std::vector<std::string> envp,
                        bool path_inaccessible) {
  vfs::Caller& caller = walker.caller();
  Program program;
  program.execfn = path;
  program.comm = path.substr(path.rfind('/') + 1);
  program.envp = std::move(envp);
  std::string current = std::move(path);
  for (int depth = 0;; ++depth) {
    std::array<std::byte, kScriptLine> head{};
    const size_t n = TRY(ReadAt(caller, *file, 0, head));
    const auto bytes = std::span(head).first(n);
    if (n < 2 || head[0] != std::byte{'#'} || head[1] != std::byte{'!'}) {
      if (!IsElf(bytes)) return Fail(ENOEXEC);
      break;
    }
    if (path_inaccessible) return Fail(ENOENT);
    if (depth >= kMaxScripts) return Fail(ELOOP);
    // SAFETY: chars view bytes.
    const ScriptLine script =
        TRY(ParseScript({reinterpret_cast<const char*>(head.data()), head.size()}));
    if (!program.script) program.script = file;
    if (!argv.empty()) argv.erase(argv.begin());
    argv.insert(argv.begin(), current);
    if (!script.argument.empty()) argv.insert(argv.begin(), script.argument);
    argv.insert(argv.begin(), script.interpreter);
    current = script.interpreter;
    const vfs::Path found = TRY(walker.Resolve(current, {}));
    file = TRY(OpenExecutable(walker, found));
  }
  program.argv = std::move(argv);
  program.main = TRY(ReadElf(caller, std::move(file), ENOEXEC));
  const std::string interpreter = TRY(InterpreterOf(caller, program.main));
  if (!interpreter.empty()) {
    const vfs::Path found = TRY(walker.Resolve(interpreter, {}));
    Ref<vfs::File> loader = TRY(OpenExecutable(walker, found));
    program.interpreter = TRY(ReadElf(caller, std::move(loader), ELIBBAD));
  }
  return program;
}

}  // namespace skep::loader
