// How guests run: all that the sentry knows of an engine.
//
// An engine runs guest threads (contexts) in guest address spaces and hands back *stops*: the next
// thing a guest asks of its kernel. Engines know nothing of fibers, tasks or Linux semantics.
//
// Threads: there is one Engine per worker, called by that worker's host thread only, except for the
// methods marked "any thread". A Context belongs to the engine that made it or that it moved to;
// AddressSpace methods may be called from any worker (serialised inside, forwarded if need be).
// Engines allocate from malloc (arena::HostHeapScope is set by their callers' worker loop or by the
// engine itself); kernel objects name engine objects through arena::HostTable only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"

namespace skep {

struct FilterRow;  // base/filter_row.h

namespace platform {

// Plain words, so they may live in the arena. Always the sentry's own copy, sanitised; never a view
// of stub memory.
struct Registers {
  uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, rip, rflags;
  uint64_t rsp, fs_base, gs_base;
};

// A file that guest memory can be mapped from: a memory file or a donated host file. The number is
// the sentry's; an engine asks HostFiles for the descriptor the first time it sees one.
enum class HostFileId : uint32_t {};

class HostFiles {
 public:
  virtual ~HostFiles() = default;
  // The sentry's descriptor (borrowed, O_RDWR or O_RDONLY). Any thread.
  virtual Result<int> DescriptorOf(HostFileId file) = 0;
  // The sentry's own mapping of [offset, offset + size) of the file: for engines whose guests run
  // in address spaces that are made of the sentry's (virtual machines). Writable if it is of a
  // memory file; whoever reads it must expect SIGBUS. nullptr: there is none. Any thread.
  virtual const std::byte* Window(HostFileId, uint64_t /*offset*/, size_t /*size*/) {
    return nullptr;
  }
};

// One change of a guest address space. Addresses, sizes and offsets are multiples of the page size
// and below kGuestAddressEnd. Mappings are MAP_SHARED: copy-on-write is the sentry's.
struct MapOp {
  enum class Kind : uint8_t { kMap, kUnmap, kProtect } kind;
  uint8_t prot;   // PROT_READ | PROT_WRITE | PROT_EXEC
  bool populate;  // kMap: take the host's page faults now
  uint64_t start, size;
  HostFileId file;  // kMap
  uint64_t offset;  // kMap
};

// The guest executed a syscall instruction. ip is the address after it. `args` are rdi, rsi, rdx,
// r10, r8, r9.
struct SyscallStop {
  uint64_t number;
  std::array<uint64_t, 6> args;
  uint64_t ip;
  bool compat;  // int 0x80, sysenter or a 32-bit code segment: not the x86-64 ABI
};
// A hardware exception. signo/code/address are what Linux would put into siginfo; vector and
// error_code are trapno and err of its signal frame (vector 14: page fault).
struct FaultStop {
  int signo;
  int code;
  uint64_t address;
  uint32_t vector, error_code;
};
// Interrupt() took effect: the guest is between two of its instructions.
struct Interrupted {};
using Stop = std::variant<SyscallStop, FaultStop, Interrupted>;

class Context;
class AddressSpace;
class Engine;

struct Stopped {
  Context* context;
};  // its stop() says why
struct Died {
  AddressSpace* space;
  std::string why;
};  // all contexts of the space are gone
struct Woken {};  // kicked, deadline passed, or a watched host descriptor is ready
using Event = std::variant<Stopped, Died, Woken>;

// CLOCK_MONOTONIC nanoseconds of the host; nullopt: none.
using Deadline = std::optional<uint64_t>;

// Host descriptors that end an Engine::Wait. sched/ implements it.
class HostPoller {
 public:
  virtual ~HostPoller() = default;
  virtual int epoll_fd() const = 0;   // readable when a watched descriptor is ready
  virtual bool watching() const = 0;  // false: nothing is watched; epoll_fd need not be looked at
};

enum class LoadXsave : bool { kNo, kYes };

// One guest thread of one AddressSpace; it never moves to another.
class Context {
 public:
  virtual ~Context() = default;

  virtual const Stop& stop() const = 0;
  // After a stop: fills registers() (and xsave()). EIO if the stub is dead. For a syscall stop,
  // rax of registers() is the call's number, and rip is after the instruction.
  virtual Result<void> Load(LoadXsave) = 0;
  // CHECK that Load succeeded since the last stop. Resume writes changes back.
  virtual Registers& registers() = 0;
  // The XSAVE area in the standard (non-compacted) format, as in Linux's signal frames and
  // NT_X86_XSTATE; writing it marks it changed.
  virtual std::span<std::byte> xsave() = 0;
  // The cheap end of a syscall, loaded or not. Loaded: the same as registers().rax = rax.
  virtual void SetReturn(uint64_t rax) = 0;
  // The guest may run from now on; returns at once. Its next stop comes from Engine::Wait.
  virtual void Resume() = 0;
  // Any thread; sticky: on a stopped context the next Resume stops at once, with Interrupted.
  virtual void Interrupt() = 0;
  // At a stop: from now on `engine` delivers this context's stops. ENOTSUP if this engine cannot.
  virtual Result<void> MoveTo(Engine& engine) = 0;

  // The sentry's own: which fiber waits for this context. The engine does not look at it.
  void* cookie = nullptr;
};

// What the guest's page tables are. Destroying it kills its stub; contexts go first.
class AddressSpace {
 public:
  virtual ~AddressSpace() = default;

  // In order, one round trip; stops at the first failure, having done the ones before it.
  // Result: how many were done (== ops.size() on success). Failure to reach the stub: EIO.
  struct Applied {
    size_t done;
    int error;
  };  // error 0: all done; else an errno
  virtual Applied Apply(std::span<const MapOp> ops) = 0;
  // execve by the only user: no guest mapping is left.
  virtual Result<void> Reset() = 0;
  // For a guest that does not answer Interrupt within 100 ms of CPU time. Died follows.
  virtual void Kill() = 0;
  // Whether `engine` can have contexts in it.
  virtual bool Serves(const Engine& engine) const = 0;
  // CPU time its threads have used, in ns (host accounting; 0 if unknown). Any thread.
  virtual uint64_t CpuTimeNs() const { return 0; }

  void* cookie = nullptr;  // the sentry's own
};

class Engine {
 public:
  virtual ~Engine() = default;

  virtual Result<std::unique_ptr<AddressSpace>> NewAddressSpace() = 0;
  // A stopped context (stop() is Interrupted) that starts with these registers and this xsave
  // (empty: the initial state). It is as if loaded.
  virtual Result<std::unique_ptr<Context>> NewContext(AddressSpace& space,
                                                      const Registers& registers,
                                                      std::span<const std::byte> xsave) = 0;
  // Runs guests until something stops; never spins. A context whose Resume was called is reported
  // once, when it stops.
  virtual Event Wait(Deadline deadline, HostPoller& poller) = 0;
  // Any thread; never lost; many may become one Woken.
  virtual void Kick() = 0;
  // The sentry is about to close this file's descriptor and has no mapping of it left. Any thread.
  virtual void Forget(HostFileId file) = 0;

  // Whether contexts of one address space may belong to several engines of this kind: NewContext
  // takes a space that another made, and MoveTo works. NewContext and MoveTo: the worker's thread.
  virtual bool shares_spaces() const { return false; }

  virtual const char* name() const = 0;
  virtual size_t xsave_size() const = 0;  // of the standard format, for this CPU
};

// platform/engines.h has a row for each.
enum class EngineKind : uint8_t { kKvm, kNotify, kPtrace };

// For engines that run guests in stub processes.
struct StubOptions {
  // cgroup.procs of the control group for these processes, borrowed until the engine is made; -1:
  // they stay in the sentry's.
  int cgroup_fd = -1;
};

struct PtraceOptions {
  bool poison_unloaded = false;  // overwrite registers that were not loaded (a test mode)
};

struct EngineOptions {
  int worker = 0;              // for names in logs
  int cpu = -1;                // pin guests to this host CPU; -1: do not
  HostFiles* files = nullptr;  // outlives the engine
  int device_fd = -1;          // the device that its row of kEngines names, borrowed; -1: none
  StubOptions stubs;
  PtraceOptions ptrace;
  // Called once, or not at all, by MakeEngineGroup while it waits for a process to start.
  std::function<void()> meanwhile;
};

// Called on the worker's own thread; the engine belongs to it from then on. Call it before the
// process has other threads' locks to lose: it may fork.
HostResult<std::unique_ptr<Engine>> MakeEngine(EngineKind kind, const EngineOptions& options);

// Starts an engine and has a guest make system calls: what one costs, in ns. Takes some 100 ms.
HostResult<uint64_t> MeasureSyscallNs(EngineKind kind);

}  // namespace platform
}  // namespace skep
