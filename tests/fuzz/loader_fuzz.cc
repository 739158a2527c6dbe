// Programs: ELF files, their interpreters, #! lines. An input is written to /program (and its
// second half to /interpreter) and executed.
#include <fcntl.h>

#include "sentry/vfs/name_ops.h"
#include "tests/fuzz/kernel.h"
#include "tests/util/elf_cases.h"

namespace skep::fuzz {
namespace {

void WriteProgram(kernel::Task& task, std::string_view path, std::string_view bytes) {
  vfs::NameOps walker(task, *task.fs);
  const auto file = walker.Open(path, {.flags = O_WRONLY | O_CREAT | O_TRUNC, .mode = 0755});
  if (!file) Fail("cannot write the program");
  mm::IoSequence from = mm::IoSequence::FromKernel(std::as_bytes(std::span(bytes)));
  uint64_t offset = 0;
  (void)(*file)->Write(task, from, &offset);
}

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds = {"#!" + std::string(300, 'x')};
  for (const test::ElfCase& each : test::ElfCases("/interpreter")) {
    seeds.push_back(each.program.size() < 2 ? each.program + each.interpreter : each.program);
  }
  test::ElfBuilder dynamic(ET_DYN);
  dynamic.Interpreter("/interpreter");
  seeds.push_back(dynamic.Build() + test::ElfBuilder(ET_DYN).Build());
  return seeds;
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
