// MemoryManager: one guest address space (Linux: struct mm_struct).
//
// The VMA tree says what each address is; the engine's AddressSpace says what the host has mapped.
// kMmap (a SleepLock) is held across a change of the tree and its Apply, so the two never disagree;
// it is never held across guest copies. Readers that do not sleep use kVmas.
#pragma once

#include <sys/mman.h>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/ref.h"
#include "sentry/arena/host_table.h"
#include "sentry/mm/mappable.h"
#include "sentry/mm/memory_file.h"
#include "sentry/mm/user_memory.h"
#include "sentry/sched/scheduler.h"

namespace skep::mm {

// What the limits of the caller allow (RLIMIT_AS, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_MEMLOCK),
// bytes.
struct MemoryLimits {
  uint64_t address_space = ~uint64_t{0};
  uint64_t data = ~uint64_t{0};
  uint64_t stack = 8u << 20;
  uint64_t locked = ~uint64_t{0};
};

struct MmapRequest {
  uint64_t address = 0;  // hint, or exact with MAP_FIXED*
  uint64_t size = 0;     // as the guest gave it
  int prot = 0;
  int flags = 0;       // MAP_*
  Ref<Mappable> file;  // none: anonymous
  uint64_t offset = 0;
  // What mprotect may reach: less for a file that is open read-only.
  int max_prot = PROT_READ | PROT_WRITE | PROT_EXEC;
  std::string name;  // "[stack]", "[vdso]", or the path of `file` as opened: for maps
};

// Who may look into it, beside those with CAP_SYS_PTRACE (Linux: SUID_DUMP_*): whoever has the same
// ids, or nobody.
enum class Dumpable : uint8_t { kNo = 0, kUser = 1 };

// What an access that faulted did, as far as the engine knows. kUnknown: the protection of the VMA,
// and whether it has a page to copy, decide.
enum class Did : uint8_t { kNo, kYes, kUnknown };
struct FaultAccess {
  Did write = Did::kUnknown, fetch = Did::kUnknown;
  bool protection = false;  // the page was there and its protection refused the access
};

// What the fault path decided.
enum class FaultOutcome : uint8_t { kRetry, kSignal, kKilled };
struct FaultResult {
  FaultOutcome outcome;
  // kSignal: SIGSEGV with SEGV_MAPERR or SEGV_ACCERR, or SIGBUS with BUS_ADRERR.
  int signo = 0, code = 0;
  // What is there may be read: only a write (or a fetch) can have been refused.
  bool readable = false;
};

struct MemoryStats {  // /proc/<pid>/status, statm; bytes
  uint64_t virtual_size, resident, shared, data, stack, text, locked, peak_virtual;
};

class MemoryManager final : public UserMemory, public RefCounted<MemoryManager> {
 public:
  // An empty space without an engine half. In the arena.
  static Ref<MemoryManager> Make(MemoryFile& memory);

  // -- The engine half. Called on `worker`'s thread by the fiber that will run there. --
  // Makes the AddressSpace and maps everything into it (fork: the child's first act; restore).
  Result<void> Activate(sched::Worker& worker);
  Result<void> Activate(platform::Engine& engine);  // of this thread's worker
  arena::HostAddressSpace space() const { return space_; }
  // A guest thread in it, of this thread's worker.
  Result<arena::HostContext> NewContext(platform::Engine& engine,
                                        const platform::Registers& registers,
                                        std::span<const std::byte> xsave);
  // Its stub goes at once, whatever its guests are at; the engine reports Died.
  void KillGuests();
  // After a restore or Died: forget the host half; Activate makes a new one.
  void Deactivate();
  // After a restore, on the frozen worker that `engine` is of: a new AddressSpace under the number
  // of the old one.
  Result<void> Reactivate(platform::Engine& engine);
  // The same for a guest thread in it.
  Result<void> RestoreContext(platform::Engine& engine, arena::HostContext ref,
                              const platform::Registers& registers,
                              std::span<const std::byte> xsave);
  // execve by the only user: an empty space again, the same AddressSpace (Reset). The host maps
  // nothing of what is put into it until MapProgram, which maps all at once.
  Result<void> Clear();
  Result<void> MapProgram();

  // fork: a copy whose private pages are shared copy-on-write from now on (not yet Activated).
  Result<Ref<MemoryManager>> Fork();

  // -- Linux's calls. Errors as in their man pages. --
  Result<uint64_t> Mmap(const MmapRequest& request, const MemoryLimits& limits);
  Result<void> Munmap(uint64_t start, uint64_t size);
  Result<void> Mprotect(uint64_t start, uint64_t size, int prot, bool grows_down, bool grows_up);
  Result<uint64_t> Mremap(uint64_t old_start, uint64_t old_size, uint64_t new_size, int flags,
                          uint64_t new_start, const MemoryLimits& limits);
  Result<void> Madvise(uint64_t start, uint64_t size, int advice);
  Result<void> Msync(uint64_t start, uint64_t size, int flags);
  Result<void> Mincore(uint64_t start, uint64_t size,
                       const std::function<Result<void>(std::span<const std::byte>)>& emit);
  Result<void> Mlock(uint64_t start, uint64_t size, bool on_fault, const MemoryLimits& limits);
  Result<void> Munlock(uint64_t start, uint64_t size);
  Result<void> MlockAll(int flags, const MemoryLimits& limits);
  Result<void> MunlockAll();
  // brk(2): the new break, or the old one if it cannot move.
  uint64_t Brk(uint64_t wanted, const MemoryLimits& limits);
  void SetBrkStart(uint64_t start);  // loader: end of bss
  // Where mmap looks first (downwards); set by the loader, with the guest's address randomisation.
  void SetMmapTop(uint64_t top);

  // A page fault of the guest at `address`.
  FaultResult HandleFault(uint64_t address, FaultAccess access, const MemoryLimits& limits);

  // UserMemory
  CopyResult CopyIn(UserAddr from, std::span<std::byte> to) override;
  CopyResult CopyOut(UserAddr to, std::span<const std::byte> from) override;
  CopyResult ZeroOut(UserAddr to, size_t size) override;
  CopyResult WithBlocks(std::span<const iovec> guest, size_t size, bool write,
                        const std::function<Result<size_t>(std::span<const iovec>)>& io) override;
  using UserMemory::CopyIn;
  using UserMemory::CopyOut;
  // As the kernel does for ptrace and loader: ignores the protection of private mappings.
  CopyResult ForceCopyIn(UserAddr from, std::span<std::byte> to);
  CopyResult ForceCopyOut(UserAddr to, std::span<const std::byte> from);

  // Atomic operations on a guest word for futexes: the page is made present (and writable) first.
  // EFAULT, EINVAL if not 4-aligned.
  Result<uint32_t> LoadWord(UserAddr address);
  Result<uint32_t> FetchModifyWord(UserAddr address,
                                   const std::function<uint32_t(uint32_t)>& change);
  // False: `expected` is now what was there.
  Result<bool> CompareExchangeWord(UserAddr address, uint32_t& expected, uint32_t desired);
  // What a futex in shared memory is named by: (file, offset) of the page, stable while mapped; for
  // private anonymous memory (mm, address).
  struct FutexKey {
    uint64_t a = 0, b = 0;  // (this, address) or (identity of the shared object, offset)
    bool shared = false;
    friend bool operator==(const FutexKey&, const FutexKey&) = default;
  };
  Result<FutexKey> KeyOf(UserAddr address, bool process_private);

  // The file shrank or lost pages: those at [addresses) are unmapped, and the next access asks the
  // file again. Only mappings of `file` (null: of any). `private_copies`: of private mappings, too
  // (Linux: truncation takes them, hole punching does not). Called by the file; may sleep.
  void InvalidateMapping(Range addresses, const Mappable* file = nullptr,
                         bool private_copies = true);
  // Whether [addresses) has a shared mapping of `file` that is or may become writable.
  bool MapsWritable(Range addresses, const Mappable& file);

  // /proc/<pid>/maps, line by line (smaps later), and numbers.
  std::string MapsText();
  MemoryStats Stats();
  // Bytes of a range that are resident, as Stats counts them.
  uint64_t ResidentIn(Range addresses);
  // Pages of the memory file that it has: what its end would free, but for what others share.
  uint64_t MemoryBytes();
  // Before anybody dies for lack of memory: pages that the guest was given before it touched them,
  // and that are zeros still, go back.
  void GiveBackUntouched();

  // Where the loader put things, for /proc and prctl(PR_SET_MM): plain words.
  struct Layout {
    uint64_t start_code = 0, end_code = 0, start_data = 0, end_data = 0, start_stack = 0;
    uint64_t arg_start = 0, arg_end = 0, env_start = 0, env_end = 0, vdso = 0;
    uint64_t start_brk = 0;
  };
  Layout layout;

  // How much of space()'s CpuTimeNs its tasks have been charged with (kernel/cpu_time.h, under its
  // lock); Activate starts from what the space has used before.
  uint64_t charged_cpu_ns = 0;

  // Linux: the mode of MMF_DUMPABLE; prctl(PR_SET_DUMPABLE). fork copies it, execve sets it.
  std::atomic<Dumpable> dumpable{Dumpable::kUser};

  // Grows with every Clear: which program's memory it is. Linux makes a new mm_struct then.
  std::atomic<uint64_t> program{0};

  // membarrier(2): which commands its threads have registered for (kernel/membarrier.h).
  std::atomic<uint32_t> membarriers{0};

  // Tasks whose memory this is (Linux: mm_users); kernel/ counts.
  std::atomic<int> users{0};

  ~MemoryManager();

 private:
  friend class RefCounted<MemoryManager>;
  struct State;
  explicit MemoryManager(MemoryFile& memory);
  Result<void> MapAll();
  std::unique_ptr<State> state_;
  arena::HostAddressSpace space_;
};

}  // namespace skep::mm
