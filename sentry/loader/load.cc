// execve's second step: segments, stack and auxiliary vector.
#include <sys/auxv.h>
#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "base/missing_defs.h"
#include "sentry/loader/elf.h"
#include "sentry/sched/fiber.h"

namespace skep::loader {
namespace {

constexpr uint64_t kStackGap = uint64_t{128} << 20;  // Linux: MIN_GAP without its random part
constexpr uint64_t kStackGuardGap = uint64_t{1} << 20;
constexpr uint64_t kPieBase = 0x5555'5555'4000;  // Linux: ELF_ET_DYN_BASE, 2/3 of TASK_SIZE

// A few pseudo-random bits from the seed (splitmix64); 0 stays 0: no randomisation.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed), on_(seed != 0) {}
  uint64_t Pages(int bits) {
    if (!on_) return 0;
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return ((z ^ z >> 31) & ((uint64_t{1} << bits) - 1)) * kPageSize;
  }

 private:
  uint64_t state_;
  bool on_;
};

int ProtOf(const Elf64_Phdr& p) {
  return ((p.p_flags & PF_R) != 0 ? PROT_READ : 0) | ((p.p_flags & PF_W) != 0 ? PROT_WRITE : 0) |
         ((p.p_flags & PF_X) != 0 ? PROT_EXEC : 0);
}

struct Mapped {
  uint64_t bias = 0;
  uint64_t entry = 0;
  uint64_t phdr = 0;  // address of the program headers in the guest
  uint64_t end = 0;   // end of the highest segment
  uint64_t start = ~uint64_t{0};
};

bool WantsExecutableStack(const ElfFile& elf) {
  for (const Elf64_Phdr& p : elf.segments) {
    if (p.p_type == PT_GNU_STACK) return (p.p_flags & PF_X) != 0;
  }
  return false;
}

class Loader {
 public:
  Loader(mm::MemoryManager& mm, const LoadContext& context) : mm_(mm), random_(context.random) {}

  Result<Mapped> MapElf(const ElfFile& elf, bool is_interpreter, bool has_interpreter) {
    TRY(CheckSegments(elf, is_interpreter));
    Ref<mm::Mappable> file = TRY(elf.file->Mappable());
    uint64_t low = ~uint64_t{0}, high = 0, align = kPageSize;
    for (const Elf64_Phdr& p : elf.segments) {
      if (p.p_type != PT_LOAD) continue;
      low = std::min(low, PageFloor(p.p_vaddr));
      high = std::max(high, p.p_vaddr + p.p_memsz);
      if (p.p_align > align && (p.p_align & (p.p_align - 1)) == 0 && p.p_align <= (2u << 20)) {
        align = p.p_align;
      }
    }
    Mapped out;
    if (low > high) {  // nothing to load
      out.start = 0;
      out.entry = elf.header.e_entry;
      if (!is_interpreter) mm_.layout = {};
      return out;
    }
    if (elf.header.e_type == ET_DYN) {
      uint64_t base = 0;
      if (!is_interpreter && has_interpreter) base = kPieBase + random_.Pages(28);
      const uint64_t span = PageCeil(high - low);
      if (base == 0) {
        // Room for the whole object, found by mmap's own rule, given back at once.
        base = TRY(mm_.Mmap({.size = span + align,
                             .prot = PROT_NONE,
                             .flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE},
                            limits_));
        TRY(mm_.Munmap(base, span + align));
        base += align - kPageSize;
      }
      base &= ~(align - 1);
      out.bias = base - low;
    }
    for (const Elf64_Phdr& p : elf.segments) {
      if (p.p_type == PT_LOAD) TRY(MapSegment(p, out.bias, file));
    }
    out.entry = elf.header.e_entry + out.bias;
    out.start = low + out.bias;
    out.end = high + out.bias;
    out.phdr = PhdrAddress(elf, out.bias);
    if (!is_interpreter) NoteLayout(elf, out.bias);
    return out;
  }

  Result<void> MapStack(uint64_t top, const Program& program) {
    size_t strings = program.execfn.size() + 64;
    for (const auto* list : {&program.argv, &program.envp}) {
      for (const std::string& s : *list) strings += s.size() + 1 + 8;
    }
    const uint64_t size = PageCeil(strings + 4096) + (uint64_t{128} << 10);
    const int prot = PROT_READ | PROT_WRITE | (WantsExecutableStack(program.main) ? PROT_EXEC : 0);
    TRY(mm_.Mmap({.address = top - size,
                  .size = size,
                  .prot = prot,
                  .flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN,
                  .name = "[stack]"},
                 limits_));
    return {};
  }

  // The address of the vDSO; 0: there is none.
  Result<uint64_t> MapVdso(mm::Mappable* vdso) {
    if (vdso == nullptr) return 0;
    const uint64_t size = kPageSize + VdsoPages::ImageSize();
    const uint64_t at = TRY(
        mm_.Mmap({.size = size, .prot = PROT_NONE, .flags = MAP_PRIVATE | MAP_ANONYMOUS}, limits_));
    const Ref<mm::Mappable> pages(vdso);
    TRY(mm_.Mmap({.address = at,
                  .size = kPageSize,
                  .prot = PROT_READ,
                  .flags = MAP_SHARED | MAP_FIXED,
                  .file = pages,
                  .max_prot = PROT_READ,
                  .name = "[vvar]"},
                 limits_));
    TRY(mm_.Mmap({.address = at + kPageSize,
                  .size = VdsoPages::ImageSize(),
                  .prot = PROT_READ | PROT_EXEC,
                  .flags = MAP_SHARED | MAP_FIXED,
                  .file = pages,
                  .offset = kPageSize,
                  .max_prot = PROT_READ | PROT_EXEC,
                  .name = "[vdso]"},
                 limits_));
    return at + kPageSize;
  }

  mm::MemoryManager& mm() { return mm_; }
  Random& random() { return random_; }
  const mm::MemoryLimits& limits() const { return limits_; }

 private:
  // What Linux finds when it maps them.
  static Result<void> CheckSegments(const ElfFile& elf, bool is_interpreter) {
    bool any = false;
    for (const Elf64_Phdr& p : elf.segments) {
      if (p.p_type != PT_LOAD) continue;
      any = true;
      if (p.p_filesz > p.p_memsz || p.p_memsz > kGuestAddressEnd ||
          p.p_vaddr > kGuestAddressEnd - p.p_memsz ||
          (p.p_filesz != 0 && (p.p_vaddr - p.p_offset) % kPageSize != 0)) {
        return Fail(EINVAL);
      }
    }
    const bool is_program = elf.header.e_type == ET_EXEC || elf.header.e_type == ET_DYN;
    if (!is_program || (is_interpreter && !any)) return Fail(EINVAL);
    return {};
  }

  Result<void> MapSegment(const Elf64_Phdr& p, uint64_t bias, const Ref<mm::Mappable>& file) {
    const uint64_t start = PageFloor(p.p_vaddr + bias);
    const uint64_t file_end = p.p_vaddr + bias + p.p_filesz;
    const uint64_t memory_end = PageCeil(p.p_vaddr + bias + p.p_memsz);
    const int prot = ProtOf(p);
    uint64_t mapped_end = start;
    if (p.p_filesz != 0) {
      mapped_end = PageCeil(file_end);
      TRY(mm_.Mmap({.address = start,
                    .size = mapped_end - start,
                    .prot = prot,
                    .flags = MAP_PRIVATE | MAP_FIXED | MAP_DENYWRITE,
                    .file = file,
                    .offset = PageFloor(p.p_offset)},
                   limits_));
    }
    if (memory_end > mapped_end) {
      TRY(mm_.Mmap({.address = mapped_end,
                    .size = memory_end - mapped_end,
                    .prot = prot,
                    .flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS},
                   limits_));
    }
    // The tail of the last file page belongs to bss: zeros (Linux: padzero). Only where it is
    // writable, as there.
    if (p.p_memsz > p.p_filesz && p.p_filesz != 0 && file_end < mapped_end &&
        (prot & PROT_WRITE) != 0) {
      const mm::CopyResult zeroed = mm_.ZeroOut(mm::UserAddr{file_end}, mapped_end - file_end);
      if (zeroed.fault != 0) return Fail(EFAULT);  // there are no such bytes in the file
    }
    return {};
  }

  static uint64_t PhdrAddress(const ElfFile& elf, uint64_t bias) {
    for (const Elf64_Phdr& p : elf.segments) {
      if (p.p_type == PT_PHDR) return p.p_vaddr + bias;
    }
    const uint64_t offset = elf.header.e_phoff;
    for (const Elf64_Phdr& p : elf.segments) {
      if (p.p_type == PT_LOAD && p.p_offset <= offset && offset < p.p_offset + p.p_filesz) {
        return offset - p.p_offset + p.p_vaddr + bias;
      }
    }
    return 0;
  }

  void NoteLayout(const ElfFile& elf, uint64_t bias) {
    auto& layout = mm_.layout;
    layout = {};
    layout.start_code = ~uint64_t{0};
    for (const Elf64_Phdr& p : elf.segments) {
      if (p.p_type != PT_LOAD) continue;
      const uint64_t start = p.p_vaddr + bias, end = start + p.p_filesz;
      if ((p.p_flags & PF_X) != 0) {
        layout.start_code = std::min(layout.start_code, start);
        layout.end_code = std::max(layout.end_code, end);
      } else if ((p.p_flags & PF_W) != 0) {
        layout.start_data = start;
        layout.end_data = std::max(layout.end_data, end);
      }
    }
    if (layout.start_code == ~uint64_t{0}) layout.start_code = 0;
  }

  mm::MemoryManager& mm_;
  Random random_;
  mm::MemoryLimits limits_;  // the image itself is not held to RLIMIT_DATA here
};

// Fills a new stack from its top downwards, then the argument block.
class StackBuilder {
 public:
  StackBuilder(mm::MemoryManager& mm, uint64_t top) : mm_(mm), sp_(top) {}

  Result<uint64_t> PushBytes(std::span<const std::byte> bytes) {
    sp_ -= bytes.size();
    if (mm_.CopyOut(mm::UserAddr{sp_}, bytes).fault != 0) return Fail(ENOMEM);
    return sp_;
  }
  Result<uint64_t> PushString(std::string_view text) {
    sp_ -= text.size() + 1;
    if (mm_.CopyOut(mm::UserAddr{sp_}, std::as_bytes(std::span(text))).fault != 0)
      return Fail(ENOMEM);
    return sp_;  // fresh pages are zero: the NUL is there
  }
  // All strings of a list at once, in ascending order; returns the first one's address.
  Result<uint64_t> PushStrings(const std::vector<std::string>& list) {
    std::string block;
    size_t total = 0;
    for (const std::string& s : list) total += s.size() + 1;
    block.reserve(total);
    for (const std::string& s : list) block.append(s.c_str(), s.size() + 1);
    return PushBytes(std::as_bytes(std::span(block)));
  }
  void Align(uint64_t to) { sp_ &= ~(to - 1); }
  uint64_t sp() const { return sp_; }

 private:
  mm::MemoryManager& mm_;
  uint64_t sp_;
};

void AddAddresses(std::vector<uint64_t>& words, const std::vector<std::string>& list,
                  uint64_t first) {
  for (const std::string& s : list) {
    words.push_back(first);
    first += s.size() + 1;
  }
  words.push_back(0);
}

std::vector<uint64_t> MakeAuxv(const Program& program, const LoadContext& context,
                               const Mapped& main, const Mapped* interpreter, uint64_t vdso) {
  std::vector<uint64_t> v;
  const auto add = [&](uint64_t type, uint64_t value) {
    v.push_back(type);
    v.push_back(value);
  };
  if (vdso != 0) add(AT_SYSINFO_EHDR, vdso);
  add(AT_MINSIGSTKSZ, context.minsigstksz);
  add(AT_HWCAP, context.hwcap);
  add(AT_PAGESZ, kPageSize);
  add(AT_CLKTCK, 100);
  add(AT_PHDR, main.phdr);
  add(AT_PHENT, sizeof(Elf64_Phdr));
  add(AT_PHNUM, program.main.header.e_phnum);
  add(AT_BASE, interpreter != nullptr ? interpreter->bias : 0);
  add(AT_FLAGS, 0);
  add(AT_ENTRY, main.entry);
  add(AT_UID, context.uid);
  add(AT_EUID, context.euid);
  add(AT_GID, context.gid);
  add(AT_EGID, context.egid);
  add(AT_SECURE, context.secure ? 1 : 0);
  add(AT_HWCAP2, context.hwcap2);
  return v;
}

// The lowest part of the stack: argc, the addresses of arguments and environment, the auxiliary
// vector. Returns the first stack pointer.
Result<uint64_t> PushWords(mm::MemoryManager& mm, uint64_t below, const Program& program,
                           const std::vector<uint64_t>& auxv) {
  std::vector<uint64_t> words;
  words.push_back(program.argv.size());
  AddAddresses(words, program.argv, mm.layout.arg_start);
  AddAddresses(words, program.envp, mm.layout.env_start);
  words.insert(words.end(), auxv.begin(), auxv.end());
  const uint64_t sp = (below - words.size() * 8) & ~uint64_t{15};
  if (mm.CopyOut(mm::UserAddr{sp}, std::as_bytes(std::span(words))).fault != 0) return Fail(ENOMEM);
  return sp;
}

}  // namespace

Result<Loaded> Load(mm::MemoryManager& mm, const Program& program, const LoadContext& context) {
  Loader loader(mm, context);
  // The stack first: mmap's search starts below it.
  const uint64_t stack_top = kGuestAddressEnd - kPageSize - loader.random().Pages(22);
  const uint64_t room =
      std::clamp<uint64_t>(context.stack_limit, kStackGap, kGuestAddressEnd / 6 * 5);
  mm.SetMmapTop(PageFloor(stack_top - room - kStackGuardGap - loader.random().Pages(28)));
  TRY(loader.MapStack(stack_top, program));

  const bool has_interpreter = static_cast<bool>(program.interpreter.file);
  const Mapped main = TRY(loader.MapElf(program.main, false, has_interpreter));
  Mapped interpreter;
  if (has_interpreter) interpreter = TRY(loader.MapElf(program.interpreter, true, false));

  uint64_t brk = PageCeil(main.end);
  if (context.random != 0) brk += loader.random().Pages(13);
  mm.SetBrkStart(brk);

  const uint64_t vdso = TRY(loader.MapVdso(context.vdso));

  StackBuilder stack(mm, stack_top - 8);
  const uint64_t execfn = TRY(stack.PushString(program.execfn));
  const uint64_t env_start = TRY(stack.PushStrings(program.envp));
  const uint64_t arg_start = TRY(stack.PushStrings(program.argv));
  mm.layout.env_start = env_start;
  mm.layout.env_end = execfn;
  mm.layout.arg_start = arg_start;
  mm.layout.arg_end = env_start;
  mm.layout.vdso = vdso;
  stack.Align(16);
  const uint64_t platform = TRY(stack.PushString(context.platform_name));
  stack.Align(16);
  const uint64_t random = TRY(stack.PushBytes(context.random_bytes));

  Loaded out;
  out.auxv = MakeAuxv(program, context, main, has_interpreter ? &interpreter : nullptr, vdso);
  for (uint64_t word : {uint64_t{AT_RANDOM}, random, uint64_t{AT_EXECFN}, execfn,
                        uint64_t{AT_PLATFORM}, platform, uint64_t{AT_NULL}, uint64_t{0}}) {
    out.auxv.push_back(word);
  }
  const uint64_t sp = TRY(PushWords(mm, stack.sp(), program, out.auxv));
  mm.layout.start_stack = sp;
  out.stack_pointer = sp;
  out.entry = has_interpreter ? interpreter.entry : main.entry;
  return out;
}

}  // namespace skep::loader
