#include "sentry/boot/checkpoint.h"

#include <fmt/format.h>
#include <algorithm>
#include <ctime>
#include <map>

#include "base/host_call.h"
#include "base/log.h"
#include "base/range.h"
#include "sentry/arena/arena.h"
#include "sentry/boot/image.h"
#include "sentry/boot/mounts.h"
#include "sentry/kernel/freeze.h"
#include "sentry/kernel/vdso_clock.h"

namespace skep::boot {
namespace {

constexpr uint64_t kPagesStart = kPageSize;
constexpr int kTries = 20;  // while guests die at the wrong moment

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

// Writes the file's pages from `at` on. Returns where the image goes on.
HostResult<uint64_t> WritePages(mm::MemoryFile& memory, int fd, uint64_t at,
                                std::vector<PageRun>& runs) {
  const std::vector<Range> ranges = TRY(memory.DataRanges());
  for (const Range& range : ranges) {
    TRY(WriteAt(fd, at, memory.Window(range.start), range.size()));
    runs.push_back({range.start, range.size(), at});
    at += PageCeil(range.size());
  }
  return at;
}

HostResult<void> ReadPages(mm::MemoryFile& memory, int fd, const std::vector<PageRun>& runs) {
  for (const PageRun& run : runs) {
    if (run.size > arena::kWindowSize || run.offset > arena::kWindowSize - run.size) {
      return HostFail("the image is damaged");
    }
    TRY(ReadAt(fd, run.at, memory.Window(run.offset), run.size));
  }
  return {};
}

HostResult<ImageHead> ReadHead(int fd) {
  std::string bytes(kImageStartSize, '\0');
  TRY(ReadAt(fd, 0, bytes.data(), bytes.size()));
  const ImageStart start = TRY(DecodeImageStart(bytes));
  bytes.resize(start.head_size);
  TRY(ReadAt(fd, start.head_offset, bytes.data(), bytes.size()));
  return DecodeImageHead(bytes);
}

using Kind = ResourceName::Kind;

// What of the outside the container uses.
void AppendResources(const ContainerHost& host, std::vector<ImageResource>& resources) {
  const std::string& id = host.id();
  const std::vector<std::string> trees = NamesOfTrees(host.config.mounts);
  size_t next = 0;
  for (const MountConfig& mount : host.config.mounts) {
    if (mount.kind != MountConfig::Kind::kGofer) continue;
    resources.push_back({{Kind::kTree, id, trees[next++]}, static_cast<uint32_t>(mount.attach)});
  }
  for (size_t i = 0; i < host.stdio.fds.size(); ++i) {
    const arena::HostFd fd = host.stdio.fds[i];
    if (fd) resources.push_back({{Kind::kStdio, id, std::to_string(i)}, fd.index()});
  }
  if (host.terminals().has_console()) resources.push_back({{Kind::kTerminal, id, ""}, 0});
}

// What a plan gives to the image's container of that id.
std::vector<ResourceName> NamesGiven(const BootConfig& config, const std::string& id) {
  std::vector<ResourceName> names;
  for (std::string& tree : NamesOfTrees(config.mounts)) {
    names.push_back({Kind::kTree, id, std::move(tree)});
  }
  for (size_t i = 0; i < std::size(config.stdio_fds); ++i) {
    if (config.stdio_fds[i] >= 0) names.push_back({Kind::kStdio, id, std::to_string(i)});
  }
  if (config.terminal) names.push_back({Kind::kTerminal, id, ""});
  if (config.strace_fd >= 0) names.push_back({Kind::kStrace, "", ""});
  return names;
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

HostResult<void> Prepare(Sandbox& sandbox) {
  const arena::ArenaHeapScope arena_heap;
  sandbox.kernel.memory->GiveBackKept();
  for (const Ref<ContainerHost>& host : sandbox.server->Hosts()) {
    for (const Ref<fs::GoferFs>& tree : host->gofer_trees) {
      const Result<void> prepared = tree->PrepareCheckpoint();
      if (!prepared) {
        return HostFail("a file in use has no name any more", prepared.error().code());
      }
    }
  }
  return {};
}

// All workers are frozen.
HostResult<void> Write(Sandbox& sandbox, int fd, const SaveOptions& options) {
  const std::string holder = sandbox.server->WhoHoldsDescriptors();
  if (!holder.empty()) {
    return HostFail(
        fmt::format("{} has descriptors of its client, which no other can give it", holder));
  }
  TRY(Prepare(sandbox));
  sandbox.highest_host_number = arena::HostTable::Get().HighestNumber();
  if (options.scan_maps_fd >= 0) TRY(LookForHostPointers(options.scan_maps_fd));
  ImageHead head;
  head.starters = sandbox.server->starters().id();
  for (const Ref<ContainerHost>& host : sandbox.server->Hosts()) {
    AppendResources(*host, head.resources);
  }
  if (sandbox.strace) {
    head.resources.push_back({{Kind::kStrace, "", ""}, sandbox.strace.index()});
  }
  ImageStart start;
  start.head_offset =
      TRY(WritePages(*sandbox.kernel.memory, fd, kPagesStart, head.memory_files.emplace_back()));
  start.head_size = Encode(head).size();
  head.arena_offset = PageCeil(start.head_offset + start.head_size);
  const std::string bytes = Encode(head);
  TRY(WriteAt(fd, start.head_offset, bytes.data(), bytes.size()));
  TRY(arena::Freeze(fd, head.arena_offset));
  const std::string first = Encode(start);
  return WriteAt(fd, 0, first.data(), first.size());
}

}  // namespace

HostResult<void> SaveSandbox(Sandbox& sandbox, int fd, const SaveOptions& options) {
  const arena::HostHeapScope host;
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

namespace {

// The plan is for the container that the image's starter has started.
HostResult<void> MatchPlan(const ImageHead& head, const BootConfig& config) {
  if (config.listen_fd >= 0 && config.id != head.starters) {
    return HostFail(fmt::format("the image is of a container named '{}'", head.starters));
  }
  return MatchNames(head.resources, NamesGiven(config, head.starters));
}

HostResult<void> RestoreDescriptors(Sandbox& sandbox, const ImageHead& head,
                                    const BootConfig& config) {
  arena::HostTable& table = arena::HostTable::Get();
  table.ResetNumbers(sandbox.highest_host_number);
  for (const ImageResource& resource : head.resources) {
    int given = -1;
    if (resource.name.kind == Kind::kStrace) given = config.strace_fd;
    if (resource.name.kind == Kind::kStdio) {
      given = config.stdio_fds[static_cast<size_t>(resource.name.name[0] - '0')];
    }
    if (given < 0) continue;
    if (resource.number == 0 || resource.number > sandbox.highest_host_number) {
      return HostFail("the image is damaged");
    }
    const arena::HostFd number(resource.number);
    // Those that were of one open file description are one number. 0, 1 and 2 stay taken.
    if (table.Get(number) < 0) {
      table.Restore(number, OwnedFd(given));
    } else if (given > 2) {
      OwnedFd(given).Reset();
    }
  }
  return {};
}

HostResult<void> RestoreTrees(Sandbox& sandbox, ContainerHost& host, const BootConfig& config,
                              OwnedFd gofer) {
  if (!host.gofer) return {};
  if (!gofer) return HostFail("the connection to the gofer is missing");
  host.gofer->Restore(std::move(gofer), TellGoferLost(sandbox, host.number));
  const std::vector<std::string> now = NamesOfTrees(config.mounts);
  std::map<std::string, uint32_t> attach_of;
  for (size_t i = 0, next = 0; i < config.mounts.size(); ++i) {
    if (config.mounts[i].kind != MountConfig::Kind::kGofer) continue;
    attach_of[now[next++]] = static_cast<uint32_t>(config.mounts[i].attach);
  }
  const std::vector<std::string> names = NamesOfTrees(host.config.mounts);
  const arena::ArenaHeapScope arena_heap;
  for (size_t i = 0; i < host.gofer_trees.size(); ++i) {
    const Result<void> found = host.gofer_trees[i]->Reattach(attach_of.at(names[i]));
    if (found) continue;
    const arena::HostHeapScope host_heap;
    if (found.error() == Errno(EROFS)) {
      return HostFail(fmt::format("the mount {} was {}writable at the checkpoint", names[i],
                                  host.gofer_trees[i]->read_only() ? "not " : ""));
    }
    return HostFail(
        fmt::format("the files at the mount {} have changed since the checkpoint", names[i]),
        found.error().code());
  }
  return {};
}

}  // namespace

HostResult<Sandbox*> RestoreSandbox(int fd, const BootConfig& config, OwnedFd gofer) {
  const arena::HostHeapScope host_heap;
  const ImageHead head = TRY(ReadHead(fd));
  TRY(MatchPlan(head, config));
  if (head.memory_files.size() != 1) return HostFail("the image is of more than one memory file");
  TRY(arena::Attach(fd, head.arena_offset));
  auto* sandbox = static_cast<Sandbox*>(arena::Root());
  sandbox->server->ForgetClients();
  TRY(RestoreDescriptors(*sandbox, head, config));
  mm::MemoryFile& memory = *sandbox->kernel.memory;
  OwnedFd pages = TRY(mm::MemoryFile::MakeHostFile());
  TRY(memory.Reattach(std::move(pages)));
  TRY(ReadPages(memory, fd, head.memory_files[0]));
  for (const Ref<ContainerHost>& host : sandbox->server->Hosts()) {
    TRY(RestoreTrees(*sandbox, *host, config, std::move(gofer)));
  }
  sandbox->donated->SetBudget(fs::DonatedFiles::BudgetOfHost());
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
