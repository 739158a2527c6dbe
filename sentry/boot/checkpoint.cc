#include "sentry/boot/checkpoint.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <ctime>

#include "base/host_call.h"
#include "base/log.h"
#include "base/range.h"
#include "sentry/arena/arena.h"
#include "sentry/kernel/freeze.h"
#include "sentry/kernel/vdso_clock.h"

namespace skep::boot {
namespace {

constexpr std::array<char, 8> kMagic = {'s', 'k', 'e', 'p', 'i', 'm', 'g', '1'};
constexpr uint64_t kPagesStart = kPageSize;
constexpr uint64_t kMaxPageRuns = 16 << 20;
constexpr int kTries = 20;  // while guests die at the wrong moment

struct ImageHeader {
  std::array<char, 8> magic;
  uint64_t table_offset, run_count;
  uint64_t arena_offset;
};

struct PageRun {
  uint64_t offset, size;  // in the memory file
  uint64_t at;            // in the image
};

HostResult<void> WriteAt(int fd, uint64_t offset, const void* from, uint64_t size) {
  const auto* bytes = static_cast<const std::byte*>(from);
  while (size > 0) {
    const Result<size_t> n = host::PWrite(fd, {bytes, size}, offset);
    if (!n) return HostFail("cannot write the image", n.error().code());
    bytes += *n, offset += *n, size -= *n;
  }
  return {};
}

HostResult<void> ReadAt(int fd, uint64_t offset, void* to, uint64_t size) {
  auto* bytes = static_cast<std::byte*>(to);
  while (size > 0) {
    const Result<size_t> n = host::PRead(fd, {bytes, size}, offset);
    if (!n) return HostFail("cannot read the image", n.error().code());
    if (*n == 0) return HostFail("the image is cut short");
    bytes += *n, offset += *n, size -= *n;
  }
  return {};
}

// Returns where the image goes on.
HostResult<uint64_t> WritePages(mm::MemoryFile& memory, int fd, ImageHeader& header) {
  std::vector<PageRun> runs;
  uint64_t at = kPagesStart;
  const std::vector<Range> ranges = TRY(memory.DataRanges());
  for (const Range& range : ranges) {
    TRY(WriteAt(fd, at, memory.Window(range.start), range.size()));
    runs.push_back({range.start, range.size(), at});
    at += PageCeil(range.size());
  }
  header.table_offset = at;
  header.run_count = runs.size();
  TRY(WriteAt(fd, at, runs.data(), runs.size() * sizeof(PageRun)));
  return PageCeil(at + runs.size() * sizeof(PageRun));
}

HostResult<void> ReadPages(mm::MemoryFile& memory, int fd, const ImageHeader& header) {
  if (header.run_count > kMaxPageRuns) return HostFail("the image is damaged");
  std::vector<PageRun> runs(header.run_count);
  TRY(ReadAt(fd, header.table_offset, runs.data(), runs.size() * sizeof(PageRun)));
  for (const PageRun& run : runs) {
    if (run.size > arena::kWindowSize || run.offset > arena::kWindowSize - run.size) {
      return HostFail("the image is damaged");
    }
    TRY(ReadAt(fd, run.at, memory.Window(run.offset), run.size));
  }
  return {};
}

// The binary's own heap (brk) lies below 4 GiB, where "cpu1" and inode numbers are addresses too.
// Pointers to objects are aligned, and seldom look like text.
bool LooksLikeNumber(uintptr_t value) {
  if (value >> 32 != 0) return false;
  if (value % alignof(void*) != 0) return true;
  for (; value != 0; value >>= 8) {
    const uintptr_t byte = value & 0xff;
    if (byte < 0x20 || byte > 0x7e) return false;
  }
  return true;
}

bool ReportHit(uintptr_t where, uintptr_t value) {
  if (LooksLikeNumber(value)) return false;
  SKEP_LOG(kError, "checkpoint: {} word {:#x} holds the host's {:#x}",
           where >= arena::kStacksBase ? "stack" : "heap", where, value);
  return true;
}

HostResult<void> LookForHostPointers(int maps_fd) {
  const size_t hits = arena::ScanForHostPointers(&ReportHit, maps_fd);
  if (hits == 0) return {};
  return HostFail(fmt::format("the arena has {} pointers to things of the host", hits));
}

// All workers are frozen.
HostResult<void> Write(Sandbox& sandbox, int fd, const SaveOptions& options) {
  {
    const arena::ArenaScope arena_heap;
    sandbox.kernel.memory->GiveBackKept();
    for (const Ref<ContainerHost>& host : sandbox.server->Hosts())
      for (const Ref<fs::GoferFs>& tree : host->gofer_trees) {
        const Result<void> prepared = tree->PrepareCheckpoint();
        if (!prepared) {
          return HostFail("a file in use has no name any more", prepared.error().code());
        }
      }
  }
  sandbox.highest_host_number = arena::HostTable::Get().HighestNumber();
  if (options.scan_maps_fd >= 0) TRY(LookForHostPointers(options.scan_maps_fd));
  ImageHeader header = {kMagic, 0, 0, 0};
  header.arena_offset = TRY(WritePages(*sandbox.kernel.memory, fd, header));
  TRY(arena::Freeze(fd, header.arena_offset));
  return WriteAt(fd, 0, &header, sizeof header);
}

}  // namespace

HostResult<void> SaveSandbox(Sandbox& sandbox, int fd, const SaveOptions& options) {
  const arena::HostScope host;
  for (int tries = 0;; ++tries) {
    if (!kernel::Freeze(sandbox.kernel, options.timeout_ns)) {
      return HostFail("the guests did not come to rest in time");
    }
    const Result<void> saved = kernel::SaveContexts(sandbox.kernel);
    if (saved) break;
    kernel::Thaw(sandbox.kernel);
    if (tries == kTries) return HostFail("a guest is just dying", saved.error().code());
    const timespec pause = {0, 10'000'000};
    nanosleep(&pause, nullptr);
  }
  HostResult<void> written = Write(sandbox, fd, options);
  if (!written) kernel::Thaw(sandbox.kernel);
  return written;
}

void ResumeSandbox(Sandbox& sandbox) { kernel::Thaw(sandbox.kernel); }

HostResult<Sandbox*> RestoreSandbox(int fd, const BootConfig& config, OwnedFd gofer) {
  const arena::HostScope host_heap;
  ImageHeader header{};
  TRY(ReadAt(fd, 0, &header, sizeof header));
  if (header.magic != kMagic) return HostFail("not the image of a sandbox");
  TRY(arena::Attach(fd, header.arena_offset));
  auto* sandbox = static_cast<Sandbox*>(arena::Root());
  arena::HostTable& table = arena::HostTable::Get();
  table.ResetNumbers(sandbox->highest_host_number);
  sandbox->server->ForgetClients();
  const Ref<ContainerHost> host = sandbox->server->Hosts()[0];
  const std::array<arena::HostFd, 3>& stdio = host->stdio.fds;
  for (size_t i = 0; i < stdio.size(); ++i) {
    // Those of one description are one number.
    if (!stdio[i] || std::find(stdio.begin(), stdio.begin() + i, stdio[i]) != stdio.begin() + i) {
      continue;
    }
    if (config.stdio_fds[i] < 0) return HostFail("a standard descriptor is missing");
    table.Restore(stdio[i], OwnedFd(config.stdio_fds[i]));
  }
  if (sandbox->strace) {
    if (config.strace_fd < 0) return HostFail("the descriptor of --strace is missing");
    table.Restore(sandbox->strace, OwnedFd(config.strace_fd));
  }
  mm::MemoryFile& memory = *sandbox->kernel.memory;
  OwnedFd pages = TRY(mm::MemoryFile::MakeHostFile());
  TRY(memory.Reattach(std::move(pages)));
  TRY(ReadPages(memory, fd, header));
  if (host->gofer) {
    if (!gofer) return HostFail("the connection to the gofer is missing");
    host->gofer->Restore(std::move(gofer), TellGoferLost(*sandbox, host->number));
  }
  sandbox->donated->SetBudget(fs::DonatedFiles::BudgetOfHost());
  const arena::ArenaScope arena_heap;
  for (const Ref<fs::GoferFs>& tree : host->gofer_trees) {
    const Result<void> found = tree->Reattach();
    if (!found)
      return HostFail("the files have changed since the checkpoint", found.error().code());
  }
  return sandbox;
}

HostResult<void> FinishRestore(Sandbox& sandbox) {
  const Result<void> restored = kernel::RestoreContexts(sandbox.kernel);
  if (!restored) return HostFail("cannot make the guests anew", restored.error().code());
  arena::HostTable::Get().FinishRestore();
  sandbox.kernel.vdso_clock->Invalidate();
  kernel::Thaw(sandbox.kernel);
  return {};
}

}  // namespace skep::boot
