// TestKernel: a whole kernel over the fake engine, for unit tests of handlers, signals and
// processes.
//
// Its guests execute nothing: between two calls each is idle, and Run makes it execute a system
// call through the run loop, as a syscall instruction would. What the guest then has in rax is the
// result.
//
//   TestKernel kernel;
//   TestKernel::Guest init = kernel.init();
//   const uint64_t fds = init.Allocate(8);
//   EXPECT_EQ(init.Run(SYS_pipe2, {fds, O_CLOEXEC}), 0);
//
// All of it is used from one thread, the test's. In the end every guest is killed, and nothing may
// be left of them.
#pragma once

#include <elf.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/host_call.h"
#include "platform/fake/fake_engine.h"
#include "sentry/arena/arena_test_environment.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/clone.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/signal_source.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/vdso_clock.h"
#include "sentry/syscalls/syscall_table.h"

namespace skep::syscalls {

class TestKernel {
 public:
  using FakeEngine = platform::fake::FakeEngine;
  using FakeContext = platform::fake::FakeContext;
  static constexpr uint64_t kPatienceNs = 20'000'000'000;
  // Where every guest's program is, and the page of it that guests may use for code addresses.
  static constexpr uint64_t kProgram = 0x400000;

  // A guest thread. A view: it may outlive the thread.
  class Guest {
   public:
    Guest(TestKernel& kernel, Ref<Task> task) : kernel_(&kernel), task_(std::move(task)) {}
    Task& task() const { return *task_; }
    int tid() const { return task_->tid; }
    // Idle: registers can be looked at and changed. Fails the test after kPatienceNs.
    platform::Registers& registers() { return Context().guest(); }
    // The engine's object, for scripts.
    FakeContext& context() { return Context(); }
    bool alive() const {
      kernel::TasksLock lock(kernel_->kernel());
      return !task_->exited;
    }

    // Makes the call and waits for its end; what is in rax then. A call that is to be restarted is.
    int64_t Run(uint64_t number, std::array<uint64_t, 6> args = {}) {
      Begin(number, args);
      return Finish();
    }
    // The call begins; it may block. One at a time.
    void Begin(uint64_t number, std::array<uint64_t, 6> args = {}) {
      FakeContext& context = Context();
      number_ = number;
      args_ = args;
      after_ = context.guest().rip + 2;
      context.Deliver(context.Syscall(number, args));
    }
    // An execve has replaced the context that Begin used.
    bool HasNewProgram() {
      return kernel_->engine().StateOf(context_) == FakeEngine::GuestState::kGone;
    }
    // The guest is idle again: the call has ended, or a handler was entered.
    bool IsDone() { return kernel_->engine().StateOf(context_) == FakeEngine::GuestState::kIdle; }
    int64_t Finish() {
      for (;;) {
        platform::Registers& registers = Context().guest();
        // ERESTART*: back at the instruction.
        if (registers.rip != after_ - 2 || registers.rax != number_) {
          return static_cast<int64_t>(registers.rax);
        }
        Begin(registers.rax, args_);
      }
    }
    // Runs until the thread is gone.
    void WaitForEnd() {
      EXPECT_TRUE(kernel_->WaitFor([&] { return !alive(); })) << "a thread that does not end";
    }

    // Guest memory, anonymous and filled with zeros.
    uint64_t Allocate(size_t size) {
      const int64_t at = Run(SYS_mmap, {0, PageCeil(size), PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, ~uint64_t{0}, 0});
      EXPECT_GT(at, 0) << "mmap: " << at;
      return static_cast<uint64_t>(at);
    }
    void PutBytes(uint64_t address, std::span<const std::byte> bytes) {
      kernel_->OnFiber([&] {
        EXPECT_EQ(task_->mm->CopyOut(mm::UserAddr{address}, bytes).fault, 0) << std::hex << address;
      });
    }
    std::vector<std::byte> GetBytes(uint64_t address, size_t size) {
      std::vector<std::byte> bytes(size);
      kernel_->OnFiber([&] {
        EXPECT_EQ(task_->mm->CopyIn(mm::UserAddr{address}, bytes).fault, 0) << std::hex << address;
      });
      return bytes;
    }
    template <class T>
    void Put(uint64_t address, const T& value) {
      PutBytes(address, std::as_bytes(std::span(&value, 1)));
    }
    template <class T>
    T Get(uint64_t address) {
      T value;
      const std::vector<std::byte> bytes = GetBytes(address, sizeof value);
      memcpy(&value, bytes.data(), sizeof value);
      return value;
    }
    // Memory that holds the text and its NUL.
    uint64_t Text(const std::string& text) {
      const uint64_t at = Allocate(text.size() + 1);
      PutBytes(at, std::as_bytes(std::span(text.c_str(), text.size() + 1)));
      return at;
    }

    // After its execve: the program's new context.
    void Renew() { context_ = nullptr; }
    // fork(2): the child.
    Guest Fork() { return kernel_->Find(static_cast<int>(Run(SYS_fork))); }

   private:
    FakeContext& Context() {
      if (context_ == nullptr) {
        EXPECT_TRUE(kernel_->WaitFor([&] { return kernel_->ContextOf(*task_) != nullptr; }));
        context_ = kernel_->ContextOf(*task_);
      }
      EXPECT_TRUE(kernel_->WaitFor([&] { return IsDone(); }))
          << "the guest of " << tid() << " is not idle";
      CHECK(IsDone());
      return *context_;
    }

    TestKernel* kernel_;
    Ref<Task> task_;
    FakeContext* context_ = nullptr;
    uint64_t number_ = 0, after_ = 0;
    std::array<uint64_t, 6> args_{};
  };

  TestKernel() {
    const arena::ArenaHeapScope arena;
    kernel_ = std::make_unique<kernel::Kernel>(kernel::KernelConfig{.workers = 1});
    HostResult<std::unique_ptr<mm::MemoryFile>> memory = mm::MemoryFile::Make();
    CHECK(memory.has_value());
    kernel_->memory = std::move(*memory);
    auto pages = loader::VdsoPages::Make(*kernel_->memory);
    CHECK(pages.has_value());
    kernel_->vdso_clock =
        std::make_unique<kernel::VdsoClock>(kernel_->scheduler.clock(), std::move(*pages));
    kernel_->anon_fs = MakeRef<vfs::AnonFs>(9u);
    container_ = kernel::Container::Make(*kernel_, {.id = "test"}).value();
    kernel_->hooks.syscall = &Dispatch;
    const HostResult<void> started =
        kernel_->scheduler.Start([this](int) -> HostResult<std::unique_ptr<platform::Engine>> {
          auto engine = std::make_unique<FakeEngine>();
          engine_ = engine.get();
          return engine;
        });
    CHECK(started.has_value());
    StartInit();
  }
  TestKernel(const TestKernel&) = delete;
  TestKernel& operator=(const TestKernel&) = delete;
  ~TestKernel() {
    {
      kernel::TasksLock lock(*kernel_);
      container_->KillAll();
    }
    EXPECT_TRUE(WaitFor([&] {
      kernel::TasksLock lock(*kernel_);
      return kernel_->task_count() == 0;
    })) << "guests that do not die";
    init_ = {};
    OnFiber([] {});
    kernel_->scheduler.Stop();
    const arena::ArenaHeapScope arena;
    mounts_ = {};
    EXPECT_TRUE(container_->Remove());
    container_ = {};
    kernel_->anon_fs = {};
    kernel_.reset();
  }

  kernel::Kernel& kernel() { return *kernel_; }
  FakeEngine& engine() { return *engine_; }
  Guest init() { return Guest(*this, init_); }
  // The thread with this number; fails the test if there is none.
  Guest Find(int tid) {
    Ref<Task> task;
    {
      kernel::TasksLock lock(*kernel_);
      Task* found = container_->pids().FindTask(tid);
      if (found != nullptr) task = Ref<Task>(found);
    }
    CHECK(task);
    return Guest(*this, std::move(task));
  }

  // Runs `body` on a fiber of the kernel's worker, to its end.
  void OnFiber(std::move_only_function<void()> body) {
    Ref<sched::Fiber> fiber;
    {
      const arena::ArenaHeapScope arena;
      fiber = sched::Fiber::Spawn(kernel_->scheduler.worker(0), std::move(body)).value();
    }
    EXPECT_TRUE(WaitFor([&] { return fiber->finished(); }));
  }
  static bool WaitFor(const std::function<bool()>& condition) {
    const uint64_t deadline = host::MonotonicNs() + kPatienceNs;
    while (!condition()) {
      if (host::MonotonicNs() > deadline) return false;
      const timespec pause = {0, 20'000};
      nanosleep(&pause, nullptr);
    }
    return true;
  }

 private:
  friend class Guest;

  // Null: the thread has no context yet.
  FakeContext* ContextOf(Task& task) {
    FakeContext* context = nullptr;
    OnFiber([&] {
      if (!task.start.succeeded() && !task.context_ref) return;
      context = static_cast<FakeContext*>(arena::HostTable::Get().Get(task.context_ref));
    });
    return context;
  }

  // One segment that is never executed.
  static std::string Elf() {
    Elf64_Ehdr header = {};
    memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_entry = kProgram + sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr);
    header.e_phoff = sizeof header;
    header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 1;
    Elf64_Phdr segment = {};
    segment.p_type = PT_LOAD;
    segment.p_flags = PF_R | PF_X;
    segment.p_vaddr = segment.p_paddr = kProgram;
    segment.p_filesz = segment.p_memsz = kPageSize;
    segment.p_align = kPageSize;
    std::string file(kPageSize, '\xf4');
    memcpy(file.data(), &header, sizeof header);
    memcpy(file.data() + sizeof header, &segment, sizeof segment);
    return file;
  }

  void StartInit() {
    const arena::ArenaHeapScope arena;
    kernel::ProcessRequest request;
    auth::Credentials root;
    root.permitted = root.effective = root.bounding = auth::kAllCapabilities;
    request.credentials = std::make_shared<const auth::Credentials>(root);
    request.limits = kernel::Limits::Default();
    request.path = "/init";
    request.argv = {"init"};
    request.prepare = [this](Task& init) -> Result<void> { return MakeRoot(init); };
    request.started = [this](int error, bool) {
      start_error_ = error;
      start_told_ = true;
    };
    const Ref<kernel::StartedProcess> started = container_->StartInit(std::move(request)).value();
    {
      kernel::TasksLock lock(*kernel_);
      init_ = started->group()->leader;
    }
    CHECK(WaitFor([&] { return start_told_.load(); }));
    CHECK(start_error_ == 0);
  }

  Result<void> MakeRoot(Task& init) {
    Ref<vfs::FileSystem> root =
        MakeRef<fs::TmpFs>(*kernel_->memory, fs::TmpFsOptions{.dev_minor = 10, .mode = 0755});
    root->source = "none";
    mounts_ = MakeRef<vfs::MountNamespace>(std::move(root));
    const vfs::Path top = mounts_->root();
    {
      kernel::TasksLock lock(*kernel_);
      init.fs.Set(MakeRef<vfs::FsContext>(mounts_, top, top, 022u));
      init.files.Set(vfs::FdTableHold(MakeRef<vfs::FdTable>()));
    }
    vfs::NameOps walker(init, *init.fs);
    const Ref<vfs::File> file =
        TRY(walker.Open("/init", {.flags = O_WRONLY | O_CREAT, .mode = 0755}));
    const std::string elf = Elf();
    mm::IoSequence from = mm::IoSequence::FromKernel(std::as_bytes(std::span(elf)));
    uint64_t offset = 0;
    const size_t written = TRY(file->Write(init, from, &offset));
    return written == elf.size() ? Result<void>() : Fail(ENOSPC);
  }

  std::unique_ptr<kernel::Kernel> kernel_;
  FakeEngine* engine_ = nullptr;
  Ref<kernel::Container> container_;
  Ref<vfs::MountNamespace> mounts_;
  Ref<Task> init_;
  std::atomic<bool> start_told_{false};
  int start_error_ = 0;
};

}  // namespace skep::syscalls
