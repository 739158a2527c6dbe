// What /proc/<pid> tells of a task's memory: cmdline, environ, auxv, maps, smaps, mem.
#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <optional>

#include "base/limits.h"
#include "sentry/fs/proc/process.h"
#include "sentry/sched/fiber.h"

namespace skep::fs {
namespace {

using mm::MemoryManager;
using mm::UserAddr;

constexpr size_t kStep = 16 << 10;

// Copies guest bytes [from, from + size) of `mm` to `to`, as far as they can be read.
Result<size_t> CopyAcross(MemoryManager& mm, uint64_t from, uint64_t size, mm::IoSequence& to) {
  std::vector<std::byte> buffer(std::min<uint64_t>(size, kStep));
  size_t done = 0;
  while (done < size && !to.empty()) {
    const size_t part = std::min({buffer.size(), static_cast<size_t>(size) - done, to.size()});
    const mm::CopyResult in = mm.ForceCopyIn(UserAddr{from + done}, std::span(buffer).first(part));
    if (in.bytes == 0) break;
    const mm::CopyResult out = to.CopyOut(std::span<const std::byte>(buffer).first(in.bytes));
    done += out.bytes;
    if (out.fault != 0) return done != 0 ? Result<size_t>(done) : Fail(out.fault);
    if (in.fault != 0 || !sched::YieldIfLong()) break;
  }
  return done;
}

// A file that is a view of a task's memory.
class MemoryViewFile : public vfs::File {
 public:
  MemoryViewFile(const Subject& subject, const vfs::Path& path, uint32_t flags)
      : File(path, flags), subject_(subject) {
    if (Result<Ref<MemoryManager>> found = subject_.Memory()) opened_ = std::move(*found);
    if (opened_) program_ = opened_->program.load();
  }

  Result<uint64_t> Seek(int64_t offset, int whence) override REQUIRES(position_lock()) {
    if (whence != SEEK_SET && whence != SEEK_CUR) return Fail(EINVAL);
    return File::Seek(offset, whence);
  }

 protected:
  // What is the task's now; null: nothing.
  Ref<MemoryManager> Current() const {
    Result<Ref<MemoryManager>> found = subject_.Memory();
    return found ? std::move(*found) : Ref<MemoryManager>();
  }
  // What was the task's when the file was opened, and whoever may have opened it may go on looking
  // at (Linux: proc_mem_open). Null: nobody runs in it any more, or another program does.
  Ref<MemoryManager> Opened() const {
    if (!opened_ || opened_->users.load() == 0 || opened_->program.load() != program_) return {};
    return opened_;
  }

 private:
  const Subject subject_;
  Ref<MemoryManager> opened_;
  uint64_t program_ = 0;
};

// Linux: get_mm_cmdline and get_mm_proctitle.
class CmdlineFile final : public MemoryViewFile {
 public:
  using MemoryViewFile::MemoryViewFile;

  Result<size_t> Read(vfs::Caller&, mm::IoSequence& to, uint64_t offset) override {
    const Ref<MemoryManager> mm = Current();
    if (!mm) return size_t{0};
    const MemoryManager::Layout at = mm->layout;
    if (at.arg_start >= at.arg_end) return size_t{0};
    // setproctitle(3) may have overwritten the strings, and run over into the environment.
    const bool adjacent = at.env_start == at.arg_end && at.env_end >= at.env_start;
    if (offset >= (adjacent ? at.env_end : at.arg_end) - at.arg_start) return size_t{0};
    std::byte last{};
    const mm::CopyResult probed = mm->ForceCopyIn(UserAddr{at.arg_end - 1}, {&last, 1});
    if (probed.bytes == 1 && last != std::byte{0}) return Title(*mm, at.arg_start, to, offset);
    const uint64_t size = at.arg_end - at.arg_start;
    if (offset >= size) return size_t{0};
    return CopyAcross(*mm, at.arg_start + offset, size - offset, to);
  }

 private:
  static Result<size_t> Title(MemoryManager& mm, uint64_t start, mm::IoSequence& to,
                              uint64_t offset) {
    std::vector<std::byte> page(kPageSize);
    const size_t got = mm.ForceCopyIn(UserAddr{start}, page).bytes;
    const void* end = std::memchr(page.data(), 0, got);
    const size_t size =
        end == nullptr ? got
                       : static_cast<size_t>(static_cast<const std::byte*>(end) - page.data()) + 1;
    if (offset >= size) return size_t{0};
    const size_t part = std::min(to.size(), size - static_cast<size_t>(offset));
    return to.CopyOut(std::span<const std::byte>(page).subspan(offset, part)).OrFault();
  }
};

class EnvironFile final : public MemoryViewFile {
 public:
  using MemoryViewFile::MemoryViewFile;
  Result<size_t> Read(vfs::Caller&, mm::IoSequence& to, uint64_t offset) override {
    const Ref<MemoryManager> mm = Opened();
    if (!mm) return size_t{0};
    const MemoryManager::Layout at = mm->layout;
    if (at.env_end <= at.env_start || offset >= at.env_end - at.env_start) return size_t{0};
    return CopyAcross(*mm, at.env_start + offset, at.env_end - at.env_start - offset, to);
  }
};

// The address space itself; the position is the address.
class MemFile final : public MemoryViewFile {
 public:
  using MemoryViewFile::MemoryViewFile;
  Result<size_t> Read(vfs::Caller&, mm::IoSequence& to, uint64_t offset) override {
    const Ref<MemoryManager> mm = Opened();
    if (!mm || to.empty()) return size_t{0};
    const size_t done = TRY(CopyAcross(*mm, offset, to.size(), to));
    if (done == 0) return Fail(EIO);
    return done;
  }

  Result<size_t> Write(vfs::Caller&, mm::IoSequence& from, uint64_t* offset) override {
    const Ref<MemoryManager> mm = Opened();
    if (!mm || from.empty()) return size_t{0};
    std::vector<std::byte> buffer(std::min(from.size(), kStep));
    size_t done = 0;
    while (!from.empty()) {
      const size_t size = std::min(buffer.size(), from.size());
      const std::span<std::byte> part = std::span(buffer).first(size);
      const mm::CopyResult in = from.CopyIn(part);
      const mm::CopyResult out = mm->ForceCopyOut(UserAddr{*offset + done}, part.first(in.bytes));
      done += out.bytes;
      if (out.fault != 0) return done != 0 ? Result<size_t>(done) : Fail(EIO);
      if (in.fault != 0) return done != 0 ? Result<size_t>(done) : Fail(in.fault);
    }
    return done;
  }
};

template <class FileType>
class MemoryViewInode final : public OfSubject<PseudoInode> {
 public:
  MemoryViewInode(const Subject& subject, ProcFs& fs, uint64_t ino, uint32_t mode, bool inspectors)
      : OfSubject(subject, fs, ino, S_IFREG | mode), inspectors_(inspectors) {}
  Result<Ref<vfs::File>> Open(vfs::Caller& caller, const vfs::Path& path, uint32_t flags) override {
    Ref<vfs::File> file = MakeRef<FileType>(subject(), path, flags);
    // Only now: what execve replaces from here on is not what the file has.
    if (inspectors_) {
      const Result<void> may = subject().MayInspect(caller);
      if (!may) return Fail(may.error() == Errno(EPERM) ? EACCES : ESRCH);
    }
    return file;
  }

 private:
  const bool inspectors_;
};

// One mapping's line of maps, and how many of its bytes are there.
struct Mapping {
  std::string_view line;
  uint64_t start = 0, end = 0, resident = 0;
  bool anonymous = false, shared = false, writable = false;
  std::string_view permissions;
};

std::optional<Mapping> ParseMapping(std::string_view line) {
  Mapping mapping{.line = line};
  const auto hex = [&](uint64_t* value) {
    while (!line.empty()) {
      const char c = line[0];
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
      if (digit < 0) return;
      *value = *value << 4 | static_cast<uint64_t>(digit);
      line.remove_prefix(1);
    }
  };
  hex(&mapping.start);
  if (line.empty()) return std::nullopt;
  line.remove_prefix(1);
  hex(&mapping.end);
  if (line.size() < 5) return std::nullopt;
  mapping.permissions = line.substr(1, 4);
  mapping.writable = mapping.permissions[1] == 'w';
  mapping.shared = mapping.permissions[3] == 's';
  mapping.anonymous = line.find(" 00:00 0 ") != line.npos && !mapping.shared;
  return mapping;
}

struct Rollup {
  uint64_t rss = 0, shared_clean = 0, shared_dirty = 0, private_clean = 0, private_dirty = 0;
  uint64_t anonymous = 0;
  void Add(const Mapping& m) {
    rss += m.resident;
    if (m.anonymous) anonymous += m.resident;
    (m.shared ? (m.writable ? shared_dirty : shared_clean)
              : (m.writable ? private_dirty : private_clean)) += m.resident;
  }
};

// Linux: __show_smap. What the host does not tell is 0.
void AppendRollup(std::string& text, const Rollup& r, bool whole) {
  const auto line = [&](std::string_view name, uint64_t bytes) {
    fmt::format_to(std::back_inserter(text), "{:<15} {:>8} kB\n", name, bytes >> 10);
  };
  line("Rss:", r.rss);
  line("Pss:", r.rss);
  line("Pss_Dirty:", r.shared_dirty + r.private_dirty);
  if (whole) {
    line("Pss_Anon:", r.anonymous);
    line("Pss_File:", r.rss - r.anonymous);
    line("Pss_Shmem:", 0);
  }
  line("Shared_Clean:", r.shared_clean);
  line("Shared_Dirty:", r.shared_dirty);
  line("Private_Clean:", r.private_clean);
  line("Private_Dirty:", r.private_dirty);
  line("Referenced:", r.rss);
  line("Anonymous:", r.anonymous);
  for (const char* name : {"LazyFree:", "AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:",
                           "Shared_Hugetlb:", "Private_Hugetlb:", "Swap:", "SwapPss:", "Locked:"}) {
    line(name, 0);
  }
}

template <class Each>
void ForEachMapping(MemoryManager& mm, std::string_view maps, Each each) {
  while (!maps.empty()) {
    const std::string_view line = maps.substr(0, maps.find('\n'));
    maps.remove_prefix(std::min(maps.size(), line.size() + 1));
    std::optional<Mapping> mapping = ParseMapping(line);
    if (!mapping) continue;
    mapping->resident = mm.ResidentIn({mapping->start, mapping->end});
    each(*mapping);
  }
}

// For a text whose opener was allowed to look: null once it is somebody else's.
Result<Ref<MemoryManager>> InspectedMemory(const TaskView& view) {
  if (!view.subject.MayInspect(view.opener(), TaskOf(view.caller))) return Ref<MemoryManager>();
  return view.subject.Memory();
}

}  // namespace

Result<std::string> AuxvText(const TaskView& view) {
  const Ref<MemoryManager> mm = TRY(InspectedMemory(view));
  if (!mm) return std::string();
  TasksLock lock(*view.subject.kernel);
  const kernel::Task* task = view.subject.Find();
  if (task == nullptr) return std::string();
  const kernel::Task* leader = task->group->leader.get();
  const std::vector<uint64_t>& words =
      task->auxv.empty() && leader != nullptr ? leader->auxv : task->auxv;
  return std::string(reinterpret_cast<const char*>(words.data()), words.size() * sizeof(uint64_t));
}

Result<std::string> MapsText(const TaskView& view) {
  const Ref<MemoryManager> mm = TRY(InspectedMemory(view));
  return mm ? mm->MapsText() : std::string();
}

Result<std::string> SmapsText(const TaskView& view) {
  const Ref<MemoryManager> mm = TRY(InspectedMemory(view));
  if (!mm) return std::string();
  std::string text;
  const std::string maps = mm->MapsText();
  ForEachMapping(*mm, maps, [&](const Mapping& m) {
    fmt::format_to(std::back_inserter(text),
                   "{}\nSize:           {:>8} kB\nKernelPageSize:        4 kB\n"
                   "MMUPageSize:           4 kB\n",
                   m.line, (m.end - m.start) >> 10);
    Rollup rollup;
    rollup.Add(m);
    AppendRollup(text, rollup, false);
    text += "THPeligible:           0\nVmFlags:";
    constexpr const char* kFlags[] = {" rd", " wr", " ex", " sh"};
    for (size_t i = 0; i < std::size(kFlags); ++i) {
      if (m.permissions[i] != '-' && m.permissions[i] != 'p') text += kFlags[i];
    }
    text += " mr mw me \n";
  });
  return text;
}

Result<std::string> SmapsRollupText(const TaskView& view) {
  const Ref<MemoryManager> mm = TRY(InspectedMemory(view));
  if (!mm) return Fail(ESRCH);
  Rollup rollup;
  uint64_t first = 0, last = 0;
  const std::string maps = mm->MapsText();
  ForEachMapping(*mm, maps, [&](const Mapping& m) {
    if (last == 0) first = m.start;
    last = m.end;
    rollup.Add(m);
  });
  std::string text = fmt::format("{:08x}-{:08x} ---p 00000000 00:00 0 ", first, last);
  text.append(text.size() < 73 ? 73 - text.size() : 1, ' ');
  text += "[rollup]\n";
  AppendRollup(text, rollup, true);
  return text;
}

Ref<PseudoInode> MakeCmdline(ProcFs& fs, const Subject& subject, uint64_t ino) {
  return MakeRef<MemoryViewInode<CmdlineFile>>(subject, fs, ino, 0444u, false);
}
Ref<PseudoInode> MakeEnviron(ProcFs& fs, const Subject& subject, uint64_t ino) {
  return MakeRef<MemoryViewInode<EnvironFile>>(subject, fs, ino, 0400u, true);
}
Ref<PseudoInode> MakeMem(ProcFs& fs, const Subject& subject, uint64_t ino) {
  return MakeRef<MemoryViewInode<MemFile>>(subject, fs, ino, 0600u, true);
}

}  // namespace skep::fs
