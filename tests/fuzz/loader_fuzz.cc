// Programs: ELF files, their interpreters, #! lines. An input is written to /program (and its
// second half to /interpreter) and executed.
#include <elf.h>
#include <fcntl.h>

#include "sentry/vfs/walk.h"
#include "tests/fuzz/kernel.h"

namespace skep::fuzz {
namespace {

void WriteProgram(kernel::Task& task, std::string_view path, std::string_view bytes) {
  vfs::Walker walker(task, *task.fs);
  const auto file = walker.Open(path, {.flags = O_WRONLY | O_CREAT | O_TRUNC, .mode = 0755});
  if (!file) Fail("cannot write the program");
  mm::IoSequence from = mm::IoSequence::FromKernel(std::as_bytes(std::span(bytes)));
  uint64_t offset = 0;
  (void)(*file)->Write(task, from, &offset);
}

std::string ElfFile(uint16_t type, const std::string& interpreter) {
  Elf64_Ehdr header = {};
  memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = type;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_entry = 0x401000;
  header.e_phoff = header.e_ehsize = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 4;
  Elf64_Phdr segments[4] = {};
  segments[0].p_type = PT_LOAD;
  segments[0].p_flags = PF_R | PF_X;
  segments[0].p_vaddr = 0x400000;
  segments[0].p_filesz = segments[0].p_memsz = 0x2000;
  segments[0].p_align = kPageSize;
  segments[1] = segments[0];
  segments[1].p_flags = PF_R | PF_W;
  segments[1].p_vaddr = 0x402100;
  segments[1].p_offset = 0x100;
  segments[1].p_filesz = 0x100;
  segments[1].p_memsz = 0x5000;
  segments[2].p_type = interpreter.empty() ? PT_NOTE : PT_INTERP;
  segments[2].p_offset = sizeof header + sizeof segments;
  segments[2].p_filesz = segments[2].p_memsz = interpreter.size() + 1;
  segments[3].p_type = PT_GNU_STACK;
  std::string file = Bytes(header) + Bytes(segments) + interpreter + '\0';
  file.resize(0x2000);
  return file;
}

std::vector<std::string> Seeds() {
  return {ElfFile(ET_EXEC, ""),
          ElfFile(ET_DYN, "/interpreter") + ElfFile(ET_DYN, ""),
          "#!/interpreter an argument\n",
          "#! /program\n",
          "#!" + std::string(300, 'x'),
          "\x7f"
          "ELF"};
}

int TestOneInput(const uint8_t* data, size_t size) {
  syscalls::TestKernel& kernel = fuzz::TheKernel();
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  kernel.OnFiber([&] {
    fuzz::WriteProgram(kernel.init().task(), "/program", bytes);
    fuzz::WriteProgram(kernel.init().task(), "/interpreter", bytes.substr(size / 2));
  });
  syscalls::TestKernel::Guest child = kernel.init().Fork();
  const uint64_t path = child.Text("/program");
  child.Begin(SYS_execve, {path, 0, 0});
  // It answers an errno, runs the program, or dies of a program that cannot be set up.
  if (!kernel.WaitFor([&] { return !child.alive() || child.IsDone() || child.HasNewProgram(); })) {
    fuzz::Fail("execve hangs");
  }
  EndAll();
  return 0;
}

const Target kTarget("loader", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
