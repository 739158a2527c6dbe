// execve's first step: which program a file stands for.
#include <sys/mount.h>
#include <algorithm>
#include <cstring>
#include <optional>

#include "base/limits.h"
#include "sentry/loader/elf.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"

namespace skep::loader {
namespace {

constexpr size_t kScriptLine = 256;  // Linux: BINPRM_BUF_SIZE
constexpr int kMaxScripts = 5;       // Linux: exec_binprm's depth
constexpr uint64_t kMaxOffset = INT64_MAX;
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

// Linux: load_script. `head`: the first kScriptLine bytes, zeros behind the file's end. The line
// may be cut there, but not inside the interpreter's name.
Result<ScriptLine> ParseScript(std::string_view head) {
  constexpr std::string_view kBlanks = " \t", kTerminators("\t \0", 3);
  size_t end = head.substr(0, head.find('\0')).find('\n');
  if (end == std::string_view::npos) {
    const size_t first = head.find_first_not_of(kBlanks, 2);
    if (first == std::string_view::npos) return Fail(ENOEXEC);
    if (head.find_first_of(kTerminators, first) == std::string_view::npos) return Fail(ENOEXEC);
    end = head.size() - 1;
  }
  while (IsBlank(head[end - 1])) --end;
  const std::string_view line = head.substr(0, end);
  const size_t name = line.find_first_not_of(kBlanks, 2);
  if (name == std::string_view::npos) return Fail(ENOEXEC);
  const size_t separator = std::min(line.find_first_of(kTerminators, name), end);
  ScriptLine script;
  script.interpreter = line.substr(name, separator - name);
  if (separator == end || line[separator] == '\0') return script;
  const std::string_view argument = line.substr(line.find_first_not_of(kBlanks, separator));
  script.argument = argument.substr(0, argument.find('\0'));
  return script;
}

bool IsElf(std::span<const std::byte> head) {
  return head.size() >= SELFMAG && memcmp(head.data(), ELFMAG, SELFMAG) == 0;
}

bool IsProgram(const Elf64_Ehdr& h) { return h.e_type == ET_EXEC || h.e_type == ET_DYN; }

// `bad`: the errno of a header that is not as it must be; `cut`: of one that is not there.
Result<ElfFile> ReadElf(vfs::Caller& caller, Ref<vfs::File> file, int bad, int cut) {
  ElfFile elf;
  elf.file = std::move(file);
  auto header = std::as_writable_bytes(std::span(&elf.header, 1));
  const size_t header_read = TRY(ReadAt(caller, *elf.file, 0, header));
  if (header_read < header.size()) return Fail(cut);
  const Elf64_Ehdr& h = elf.header;
  if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_machine != EM_X86_64 ||
      h.e_phentsize != sizeof(Elf64_Phdr) || h.e_phnum == 0 || h.e_phnum > kMaxSegments) {
    return Fail(bad);
  }
  elf.segments.resize(h.e_phnum);
  auto table = std::as_writable_bytes(std::span(elf.segments));
  const Result<size_t> table_read = ReadAt(caller, *elf.file, h.e_phoff, table);
  if (!table_read || *table_read < table.size()) return Fail(bad);
  return elf;
}

// None: the program wants none.
Result<std::optional<std::string>> InterpreterOf(vfs::Caller& caller, const ElfFile& elf) {
  for (const Elf64_Phdr& p : elf.segments) {
    if (p.p_type != PT_INTERP) continue;
    if (p.p_filesz < 2 || p.p_filesz > kPathMax) return Fail(ENOEXEC);
    std::string path(p.p_filesz, '\0');
    if (p.p_offset > kMaxOffset - path.size()) return Fail(EINVAL);
    const size_t n =
        TRY(ReadAt(caller, *elf.file, p.p_offset, std::as_writable_bytes(std::span(path))));
    if (n < path.size()) return Fail(EIO);
    if (path.back() != '\0') return Fail(ENOEXEC);
    path.resize(strlen(path.c_str()));
    return path;
  }
  return std::nullopt;
}

// What a program names. Linux: open_exec, for which an empty name is the working directory.
Result<Ref<vfs::File>> OpenInterpreter(vfs::NameOps& walker, const std::string& path) {
  if (path.empty()) return Fail(EACCES);
  const vfs::Path found = TRY(walker.Resolve(path, {}));
  return OpenExecutable(walker, found);
}

}  // namespace

Result<Ref<vfs::File>> OpenExecutable(vfs::NameOps& walker, const vfs::Path& path) {
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

Result<Program> Prepare(vfs::NameOps& walker, Ref<vfs::File> file, std::string path,
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
    file = TRY(OpenInterpreter(walker, current));
  }
  program.argv = std::move(argv);
  program.main = TRY(ReadElf(caller, std::move(file), ENOEXEC, ENOEXEC));
  if (!IsProgram(program.main.header)) return Fail(ENOEXEC);
  const std::optional<std::string> path_of_interpreter = TRY(InterpreterOf(caller, program.main));
  if (path_of_interpreter) {
    Ref<vfs::File> interpreter = TRY(OpenInterpreter(walker, *path_of_interpreter));
    program.interpreter = TRY(ReadElf(caller, std::move(interpreter), ELIBBAD, EIO));
  }
  return program;
}

}  // namespace skep::loader
