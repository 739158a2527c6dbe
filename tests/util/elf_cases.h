// Programs at the edges of what execve(2) takes, and what Linux says of each: shared by the
// conformance test that asks Linux, and the loader's unit test and fuzz target.
#pragma once

#include <elf.h>
#include <sys/mman.h>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace skep::test {

inline constexpr uint64_t kElfPage = 4096;
inline constexpr uint64_t kElfBase = 0x400000;
inline constexpr uint64_t kElfCode = 0x1000;        // in the file: the entry
inline constexpr uint64_t kElfInterpreter = 0x800;  // in the file: the interpreter's name
inline constexpr int kElfExitCode = 42;

// An ELF file that exits with kElfExitCode, to be changed before Build().
class ElfBuilder {
 public:
  explicit ElfBuilder(uint16_t type = ET_EXEC) {
    memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = type;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    const uint64_t base = type == ET_EXEC ? kElfBase : 0;
    header.e_entry = base + kElfCode;
    header.e_phoff = header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    Add(Load(base, 0, 2 * kElfPage, PF_R | PF_X));
  }
  static Elf64_Phdr Load(uint64_t address, uint64_t offset, uint64_t size, uint32_t flags) {
    Elf64_Phdr segment = {};
    segment.p_type = PT_LOAD;
    segment.p_flags = flags;
    segment.p_offset = offset;
    segment.p_vaddr = segment.p_paddr = address;
    segment.p_filesz = segment.p_memsz = size;
    segment.p_align = kElfPage;
    return segment;
  }
  Elf64_Phdr& Add(const Elf64_Phdr& segment) { return segments.emplace_back(segment); }
  // PT_INTERP, with the NUL.
  Elf64_Phdr& Interpreter(std::string_view path) {
    interpreter.assign(path.data(), path.size());
    interpreter += '\0';
    Elf64_Phdr segment = {};
    segment.p_type = PT_INTERP;
    segment.p_flags = PF_R;
    segment.p_offset = kElfInterpreter;
    segment.p_filesz = segment.p_memsz = interpreter.size();
    return Add(segment);
  }
  std::string Build() const {
    Elf64_Ehdr final_header = header;
    if (final_header.e_phnum == 0 && !no_segments) {
      final_header.e_phnum = static_cast<uint16_t>(segments.size());
    }
    // mov $42, %edi; mov $231, %eax; syscall; hlt
    constexpr std::string_view kCode("\xbf\x2a\0\0\0\xb8\xe7\0\0\0\x0f\x05\xf4", 13);
    std::string file(2 * kElfPage, '\0');
    const auto put = [&](uint64_t at, std::string_view bytes) {
      if (file.size() < at + bytes.size()) file.resize(at + bytes.size());
      file.replace(at, bytes.size(), bytes);
    };
    put(kElfInterpreter, interpreter);
    put(0, {reinterpret_cast<const char*>(&final_header), sizeof final_header});
    put(sizeof header,
        {reinterpret_cast<const char*>(segments.data()), segments.size() * sizeof(Elf64_Phdr)});
    put(kElfCode, kCode);  // also over unused ones of many program headers
    return file;
  }

  Elf64_Ehdr header = {};
  std::vector<Elf64_Phdr> segments;
  std::string interpreter;
  bool no_segments = false;  // e_phnum is to be 0
};

// What becomes of an execve.
struct ElfOutcome {
  int error = 0;   // it is refused
  int killed = 0;  // the kernel kills it: there is no way back any more
  int faults = 0;  // it starts, and its first instruction raises this
  bool operator==(const ElfOutcome&) const = default;
};

struct ElfCase {
  std::string name;
  std::string program;      // what is executed
  ElfOutcome outcome;       // all zero: it runs and exits with kElfExitCode
  std::string interpreter;  // the file next to it, if not empty
};

inline ElfOutcome Refused(int error) { return {.error = error}; }
inline ElfOutcome Killed(int signo = SIGSEGV) { return {.killed = signo}; }
inline ElfOutcome Faults(int signo = SIGSEGV) { return {.faults = signo}; }

// Collects them. `interpreter`: the absolute path of the second file.
class ElfCaseList {
 public:
  explicit ElfCaseList(std::string interpreter_in) : interpreter(std::move(interpreter_in)) {}

  void Add(std::string name, std::string program, ElfOutcome outcome, std::string second = {}) {
    cases.push_back({std::move(name), std::move(program), outcome, std::move(second)});
  }
  // The ordinary program, changed.
  template <class Change>
  void Changed(std::string name, ElfOutcome outcome, Change change, uint16_t type = ET_EXEC) {
    ElfBuilder elf(type);
    change(elf);
    Add(std::move(name), elf.Build(), outcome);
  }
  // A program that wants an interpreter, which is the ordinary one, changed.
  template <class Change>
  void ChangedInterpreter(std::string name, ElfOutcome outcome, Change change,
                          uint16_t type = ET_DYN) {
    ElfBuilder second(type);
    change(second);
    WithInterpreter(std::move(name), second.Build(), outcome);
  }
  void WithInterpreter(std::string name, std::string second, ElfOutcome outcome) {
    ElfBuilder elf;
    elf.Interpreter(interpreter);
    Add(std::move(name), elf.Build(), outcome, std::move(second));
  }
  void Script(std::string name, std::string text, ElfOutcome outcome) {
    Add(std::move(name), std::move(text), outcome, ElfBuilder().Build());
  }

  const std::string interpreter;
  std::vector<ElfCase> cases;
};

constexpr uint64_t kElfTop = 0x7fff'ffff'f000;  // Linux: TASK_SIZE_MAX

// The header.
inline void AddHeaders(ElfCaseList& list) {
  const std::string ordinary = ElfBuilder().Build();
  const std::string loader = ElfBuilder(ET_DYN).Build();
  list.Add("ordinary", ordinary, {});
  list.Add("static pie", loader, {});
  list.Add("empty file", "", Refused(ENOEXEC));
  list.Add("one byte", "\x7f", Refused(ENOEXEC));
  list.Add("magic only", ordinary.substr(0, 4), Refused(ENOEXEC));
  list.Add("cut in the header", ordinary.substr(0, sizeof(Elf64_Ehdr) - 1), Refused(ENOEXEC));
  list.Add("cut in the program headers", ordinary.substr(0, sizeof(Elf64_Ehdr) + 20),
           Refused(ENOEXEC));
  list.Changed("another machine", Refused(ENOEXEC),
               [](auto& e) { e.header.e_machine = EM_AARCH64; });
  list.Changed("another class", {}, [](auto& e) { e.header.e_ident[EI_CLASS] = ELFCLASS32; });
  list.Changed("another byte order", {}, [](auto& e) { e.header.e_ident[EI_DATA] = ELFDATA2MSB; });
  list.Changed("another version", {}, [](auto& e) { e.header.e_version = 9; });
  list.Changed("relocatable", Refused(ENOEXEC), [](auto& e) { e.header.e_type = ET_REL; });
  list.Changed("core", Refused(ENOEXEC), [](auto& e) { e.header.e_type = ET_CORE; });
  list.Changed("no program headers", Refused(ENOEXEC), [](auto& e) { e.no_segments = true; });
  list.Changed("too many program headers", Refused(ENOEXEC),
               [](auto& e) { e.header.e_phnum = 1171; });
  list.Changed("as many as there may be", {}, [](auto& e) { e.segments.resize(1170); });
  list.Changed("the most that a number holds", Refused(ENOEXEC),
               [](auto& e) { e.header.e_phnum = 0xffff; });
  list.Changed("small program headers", Refused(ENOEXEC),
               [](auto& e) { e.header.e_phentsize = sizeof(Elf64_Phdr) - 1; });
  list.Changed("large program headers", Refused(ENOEXEC),
               [](auto& e) { e.header.e_phentsize = sizeof(Elf64_Phdr) + 1; });
  list.Changed("program headers behind the file", Refused(ENOEXEC),
               [](auto& e) { e.header.e_phoff = 1 << 20; });
  list.Changed("program headers at a negative offset", Refused(ENOEXEC),
               [](auto& e) { e.header.e_phoff = ~uint64_t{0}; });
  list.Changed("program headers that wrap", Refused(ENOEXEC),
               [](auto& e) { e.header.e_phoff = uint64_t{1} << 63; });
}

// Segments.
inline void AddSegments(ElfCaseList& list) {
  list.Changed("a file part larger than its memory", Killed(),
               [](auto& e) { e.segments[0].p_memsz = kElfPage; });
  list.Changed("memory that wraps", Killed(),
               [](auto& e) { e.segments[0].p_memsz = ~uint64_t{0}; });
  list.Changed("memory beyond the address space", Killed(),
               [](auto& e) { e.segments[0].p_memsz = kElfTop; });
  list.Changed("an address beyond the address space", Killed(),
               [](auto& e) { e.segments[0].p_vaddr = kElfTop + kElfPage; });
  list.Changed("a second one at the end of the address space", Killed(),
               [](auto& e) { e.Add(ElfBuilder::Load(kElfTop, 0, kElfPage, PF_R)); });
  list.Changed("an address out of step with its offset", Killed(),
               [](auto& e) { e.segments[0].p_vaddr += 0x100; });
  list.Changed("a segment without bytes", {},
               [](auto& e) { e.Add(ElfBuilder::Load(0x500000, 0, 0, PF_R | PF_W)); });
  list.Changed("only zeros", {}, [](auto& e) {
    e.Add(ElfBuilder::Load(0x500000, 0, 0, PF_R | PF_W)).p_memsz = 3 * kElfPage;
  });
  list.Changed("one over the other, the same", {}, [](auto& e) { e.Add(e.segments[0]); });
  list.Changed("one over the other, not executable", Faults(),
               [](auto& e) { e.Add(e.segments[0]).p_flags = PF_R; });
  list.Changed("in descending order", {}, [](auto& e) {
    e.segments[0] = ElfBuilder::Load(0x600000, 0, kElfPage, PF_R | PF_W);
    e.Add(ElfBuilder::Load(kElfBase, 0, 2 * kElfPage, PF_R | PF_X));
  });
  list.Changed("bytes that the file does not have", {},
               [](auto& e) { e.Add(ElfBuilder::Load(0x500000, 1 << 20, kElfPage, PF_R | PF_W)); });
  list.Changed("zeros to write after bytes that the file does not have", Killed(), [](auto& e) {
    e.Add(ElfBuilder::Load(0x500000, 0x100000, 0x100, PF_R | PF_W)).p_memsz = 0x2000;
  });
  list.Changed("zeros after bytes that the file does not have", {}, [](auto& e) {
    e.Add(ElfBuilder::Load(0x500000, 0x100000, 0x100, PF_R)).p_memsz = 0x2000;
  });
  list.Changed("an entry that is not executable", Faults(),
               [](auto& e) { e.segments[0].p_flags = PF_R; });
  list.Changed("an entry that is nowhere", Faults(), [](auto& e) { e.header.e_entry = 0x10000; });
  list.Changed("an entry in the kernel's half", Faults(),
               [](auto& e) { e.header.e_entry = 0xffff'ffff'8000'0000; });
  list.Changed("an alignment that is no power of two", {},
               [](auto& e) { e.segments[0].p_align = 3; });
  list.Changed("a huge alignment", {}, [](auto& e) { e.segments[0].p_align = uint64_t{1} << 40; });
  list.Changed("nothing to load", Faults(), [](auto& e) { e.segments[0].p_type = PT_NOTE; });
}

// Position independent ones.
inline void AddPies(ElfCaseList& list) {
  list.Changed(
      "a pie with a base of its own", {},
      [](auto& e) {
        e.segments[0].p_vaddr += 0x10000;
        e.header.e_entry += 0x10000;
      },
      ET_DYN);
  list.Changed(
      "a pie that is larger than the address space", Killed(),
      [](auto& e) { e.segments[0].p_memsz = kElfTop - kElfPage; }, ET_DYN);
  list.Changed(
      "a pie that wants the end of the address space", Killed(),
      [](auto& e) { e.segments[0].p_vaddr = ~uint64_t{0} - 2 * kElfPage + 1; }, ET_DYN);
  list.Changed(
      "a pie with a hole", {},
      [](auto& e) { e.Add(ElfBuilder::Load(0x40000000, 0, kElfPage, PF_R)); }, ET_DYN);
}

// Interpreters.
inline void AddInterpreters(ElfCaseList& list) {
  const std::string loader = ElfBuilder(ET_DYN).Build();
  list.WithInterpreter("an interpreter", loader, {});
  list.ChangedInterpreter(
      "an interpreter at an address of its own", {},
      [](auto& elf) {
        elf.segments[0].p_vaddr = 0x800000;
        elf.header.e_entry = 0x800000 + kElfCode;
      },
      ET_EXEC);
  list.ChangedInterpreter("an interpreter that wants one", {},
                          [](auto& elf) { elf.Interpreter("/nowhere"); });
  list.WithInterpreter("a missing interpreter", "", Refused(ENOENT));
  list.WithInterpreter("an interpreter that is text", std::string(100, 'x'), Refused(ELIBBAD));
  list.WithInterpreter("an interpreter that is a script", "#!/bin/sh\n" + std::string(100, '\n'),
                       Refused(ELIBBAD));
  list.WithInterpreter("a short interpreter", "x", Refused(EIO));
  list.ChangedInterpreter("an interpreter without program headers", Refused(ELIBBAD),
                          [](auto& elf) { elf.no_segments = true; });
  list.ChangedInterpreter("an interpreter of another machine", Refused(ELIBBAD),
                          [](auto& elf) { elf.header.e_machine = EM_AARCH64; });
  list.ChangedInterpreter("a relocatable interpreter", Killed(),
                          [](auto& elf) { elf.header.e_type = ET_REL; });
  list.ChangedInterpreter("an interpreter with nothing to load", Killed(),
                          [](auto& elf) { elf.segments[0].p_type = PT_NOTE; });
}

// Names of interpreters.
inline void AddInterpreterNames(ElfCaseList& list) {
  const std::string loader = ElfBuilder(ET_DYN).Build();
  const std::string& interpreter = list.interpreter;
  list.Changed("an interpreter's name without an end", Refused(ENOEXEC), [&](auto& e) {
    Elf64_Phdr& segment = e.Interpreter(interpreter);
    --segment.p_filesz;
  });
  list.Changed("an interpreter's name of one byte", Refused(ENOEXEC),
               [](auto& e) { e.Interpreter(""); });
  list.Changed("an empty interpreter's name", Refused(EACCES),
               [](auto& e) { e.Interpreter(std::string_view("\0", 1)); });
  list.Changed("a long interpreter's name", Refused(ENOEXEC),
               [](auto& e) { e.Interpreter(std::string(4096, 'x')); });
  list.Changed("an interpreter's name behind the file", Refused(EIO),
               [](auto& e) { e.Interpreter("/nowhere").p_offset = 1 << 20; });
  list.Changed("an interpreter's name at a negative offset", Refused(EINVAL),
               [](auto& e) { e.Interpreter("/nowhere").p_offset = ~uint64_t{0} - 4; });
  list.Changed("an interpreter that is a directory", Refused(EACCES),
               [](auto& e) { e.Interpreter("/"); });
  {
    ElfBuilder elf;
    elf.Interpreter(interpreter);
    elf.Add(elf.segments.back()).p_filesz = 1;  // nobody looks at a second one
    list.Add("two interpreters", elf.Build(), {}, loader);
  }
}

// Scripts. Linux looks at 256 bytes.
inline void AddScripts(ElfCaseList& list) {
  const std::string ordinary = ElfBuilder().Build();
  const std::string& interpreter = list.interpreter;
  list.Script("a script", "#!" + interpreter + "\n", {});
  list.Script("a script with blanks and an argument",
              "#! \t" + interpreter + " \t an argument \t\n", {});
  list.Script("a script without a line's end", "#!" + interpreter, {});
  list.Script("a script with a NUL in its line", "#!" + interpreter + std::string("\0x y\n", 5),
              {});
  list.Script("a script without an interpreter", "#!", Refused(EACCES));
  list.Script("a script with an empty line", "#!\n" + interpreter, Refused(ENOEXEC));
  list.Script("a script with a blank line", "#! \t \n", Refused(ENOEXEC));
  list.Script("a script whose line does not end", "#!" + interpreter + " " + std::string(300, 'x'),
              {});
  list.Script("a script with a name that is cut", "#!/" + std::string(300, 'x'), Refused(ENOEXEC));
  list.Script("a script with the longest name", "#!/" + std::string(252, 'x') + "\n",
              Refused(ENOENT));
  list.Script("a script with a name that just does not fit", "#!/" + std::string(254, 'x') + "\n",
              Refused(ENOEXEC));
  list.Script("a script of a directory", "#!/\n", Refused(EACCES));
  list.Script("a script of nothing", "#!/nowhere\n", Refused(ENOENT));
  list.Add("a script of a script of itself", "#!" + interpreter + "\n", Refused(ELOOP),
           "#!" + interpreter + "\n");
  list.Add("a script of a bad program", "#!" + interpreter + "\n", Refused(ENOEXEC), "text");
}

// `interpreter`: the absolute path that the second file of a case will have, at most 200 bytes.
inline std::vector<ElfCase> ElfCases(const std::string& interpreter) {
  ElfCaseList list(interpreter);
  AddHeaders(list);
  AddSegments(list);
  AddPies(list);
  AddInterpreters(list);
  AddInterpreterNames(list);
  AddScripts(list);
  return std::move(list.cases);
}

}  // namespace skep::test
