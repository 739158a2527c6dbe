#include "sentry/sched/scheduler.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <algorithm>
#include <deque>

#include "base/check.h"
#include "base/host_call.h"
#include "base/last_words.h"
#include "base/limits.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/worker_internal.h"

namespace skep::sched {

struct WorkerStart {
  const Scheduler::MakeEngine& make_engine;
  WorkerHost* host = nullptr;
  HostResult<void> result = {};
  HostEvent done = {};
};

namespace {

constexpr size_t kWorkerStackSize = 512 << 10;
[[maybe_unused]] constexpr size_t kWorkerStride = 1 << 20;  // in the arena

// What a worker's system fiber does for ever.
void SystemLoop(Worker& worker) {
  for (;;) {
    while (RunDueTimer(worker) || DeliverWatches(worker)) {
    }
    WorkerAccess::State& w = WorkerAccess::StateOf(worker);
    std::unique_ptr<PostedWork> posted;
    {
      MutexLock lock(w.post_lock);
      posted.reset(w.first_posted);
      if (posted != nullptr) w.first_posted = posted->next;
      if (w.first_posted == nullptr) w.last_posted = nullptr;
    }
    if (posted != nullptr) {
      posted->work();
    } else {
      Suspend(std::nullopt, Sleep::kUninterruptible);
    }
  }
}

HostResult<void> PrepareWorker(WorkerHost& host, const Scheduler::MakeEngine& make_engine) {
  (void)host::LeaveRseq();  // what it costs at each stop of a guest is all that is at stake
  // Short waits end in time: the host's default slack is 50 us.
  (void)host::Call(SYS_prctl, PR_SET_TIMERSLACK, 1);
  if (host.cpu >= 0) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(static_cast<size_t>(host.cpu), &cpus);
    const Result<void> pinned = host::SetAffinity(0, cpus);
    if (!pinned) return HostFail("cannot pin a worker to its CPU", pinned.error().code());
  }
  host.engine = TRY(make_engine(host.worker.index()));
  return {};
}

void RunWorker(WorkerStart& args) {
  WorkerHost& host = *args.host;
  const std::string name = "skep-worker/" + std::to_string(host.worker.index());
  pthread_setname_np(pthread_self(), name.c_str());
  GiveSignalStack();  // that of a fiber may be what is full
  SetThreadWorker(&host);
  arena::SetThreadCache(host.worker.index());
  args.result = PrepareWorker(host, args.make_engine);
  const bool ready = args.result.has_value();
  args.done.Signal();  // `args` is gone from here on
  if (ready) {
    SchedulerHost& scheduler = host.scheduler;
    scheduler.AwaitEndOf(Phase::kStarting);
    host.Loop();
    scheduler.left.fetch_add(1, std::memory_order_seq_cst);
    scheduler.news.Signal();
    scheduler.AwaitEndOf(Phase::kStopping);
  }
  host.engine.reset();
  arena::SetThreadCache(-1);
  SetThreadWorker(nullptr);
}

// Code on fibers looks for the arena's canary, whichever process they were frozen in. This function
// has none of its own, so it may change the thread's.
[[gnu::no_stack_protector]] void* WorkerMain(void* args) {
#ifdef SKEP_NO_ARENA
  RunWorker(*static_cast<WorkerStart*>(args));
#else
  uint64_t own = 0;
  // SAFETY: x86-64's psABI keeps the canary at %fs:0x28.
  asm volatile("mov %%fs:0x28, %0" : "=r"(own));
  asm volatile("mov %0, %%fs:0x28" : : "r"(arena::StackCanary()));
  RunWorker(*static_cast<WorkerStart*>(args));
  asm volatile("mov %0, %%fs:0x28" : : "r"(own));
#endif
  return nullptr;
}

// Fixed, so that stacks and TLS of workers are where they were before a checkpoint.
Result<void*> MapWorkerStack(int index) {
#ifdef SKEP_NO_ARENA
  (void)index;
  return nullptr;
#else
  auto* at =
      reinterpret_cast<void*>(arena::kWorkersBase + static_cast<size_t>(index) * kWorkerStride);
  void* stack =
      TRY(host::Mmap(at, kWorkerStackSize, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0));
  TRY(host::Mprotect(stack, kPageSize, PROT_NONE));
  return stack;
#endif
}

std::vector<int> AllowedCpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (!host::Call(SYS_sched_getaffinity, 0, sizeof set, &set)) return cpus;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(static_cast<size_t>(i), &set)) cpus.push_back(i);
  }
  return cpus;
}

}  // namespace

Worker::Worker(Scheduler& scheduler, int index) : scheduler_(&scheduler), index_(index) {
  state_ = new State;
  Result<Ref<Fiber>> system = FiberAccess::Make(*this, [this] { SystemLoop(*this); });
  CHECK(system.has_value());
  state_->system = *system;
  WorkerAccess::Push(*this, **system);
}

Worker::~Worker() {
  // Stop has been called: the system fiber waits, or never ran. Other fibers were said to be gone.
  FiberAccess::Abandon(*state_->system);
  delete state_;
}

platform::Engine& Worker::engine() {
  SchedulerHost* host = RunningHost();
  CHECK(host != nullptr);
  return *host->workers[static_cast<size_t>(index_)]->engine;
}

int Worker::Load() const {
  return state_->ready_count.load(std::memory_order_relaxed) +
         state_->guest_count.load(std::memory_order_relaxed);
}

void Worker::Post(std::move_only_function<void()> work) {
  const arena::ArenaHeapScope arena;
  auto* posted = new PostedWork{std::move(work)};
  {
    MutexLock lock(state_->post_lock);
    (state_->last_posted != nullptr ? state_->last_posted->next : state_->first_posted) = posted;
    state_->last_posted = posted;
  }
  state_->system->Unpark();
}

Scheduler::Scheduler(int workers) {
  CHECK(workers > 0);
  const arena::ArenaHeapScope arena;
  state_ = new State;
  for (int i = 0; i < workers; ++i) state_->workers.push_back(new Worker(*this, i));
  state_->generation = arena::Contains(this) ? arena::Generation() : 0;
}

Scheduler::~Scheduler() {
  SchedulerHost* host = RunningHost();
  CHECK(host == nullptr || &host->scheduler != this);
  for (Worker* worker : state_->workers) delete worker;
  delete state_;
}

void Scheduler::SetGuestWatch(GuestWatch* watch) { state_->guest_watch = watch; }

int Scheduler::worker_count() const { return static_cast<int>(state_->workers.size()); }
Worker& Scheduler::worker(int index) { return *state_->workers[static_cast<size_t>(index)]; }

Worker& Scheduler::LeastLoaded() {
  return **std::min_element(state_->workers.begin(), state_->workers.end(),
                            [](Worker* a, Worker* b) { return a->Load() < b->Load(); });
}

HostResult<void> SchedulerHost::StartWorker(Worker& worker, int cpu, WorkerStart& start) {
  Result<OwnedFd> epoll = host::EpollCreate();
  if (!epoll) return HostFail("epoll_create", epoll.error().code());
  auto host = std::make_unique<WorkerHost>(*this, worker, std::move(*epoll));
  host->cpu = cpu;
  Result<void*> stack = MapWorkerStack(worker.index());
  if (!stack) return HostFail("cannot map a worker's stack", stack.error().code());
  host->stack = *stack;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  if (host->stack != nullptr) pthread_attr_setstack(&attributes, host->stack, kWorkerStackSize);
  start.host = host.get();
  const int error = pthread_create(&host->thread, &attributes, &WorkerMain, &start);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    if (host->stack != nullptr) (void)host::Munmap(host->stack, kWorkerStackSize);
    return HostFail("cannot start a worker", error);
  }
  workers.push_back(std::move(host));
  return {};
}

void SchedulerHost::AwaitEndOf(Phase waited_out) {
  for (;;) {
    const uint32_t seen = orders.Now();
    if (phase.load(std::memory_order_seq_cst) != waited_out) break;
    orders.WaitPast(seen);
  }
}

void SchedulerHost::JoinAll() {
  for (const std::unique_ptr<WorkerHost>& host : workers) {
    pthread_join(host->thread, nullptr);
    if (host->stack != nullptr) CHECK(host::Munmap(host->stack, kWorkerStackSize));
  }
  workers.clear();
}

HostResult<void> Scheduler::Start(const MakeEngine& make_engine, bool pin, StartAs as) {
  const arena::HostHeapScope scope;
  CHECK(RunningHost() == nullptr && "one started scheduler for each process");
  const uint64_t generation = arena::Contains(this) ? arena::Generation() : 0;
  if (state_->generation != generation) clock_.ContinueFrom(state_->quiesced_at_ns);
  state_->generation = generation;
  state_->guest_watch_due = 0;  // another host's clock may have set it
  auto host = std::make_unique<SchedulerHost>(*this);
  host->first_ticks = TicksNow();
  host->first_ns = host::MonotonicNs();
  host->moves_for_test = moves_for_test_;
  const std::vector<int> cpus = pin ? AllowedCpus() : std::vector<int>();
  HostResult<void> started;
  std::deque<WorkerStart> starts;
  for (Worker* worker : state_->workers) {
    const int cpu = cpus.empty() ? -1 : cpus[static_cast<size_t>(worker->index()) % cpus.size()];
    starts.emplace_back(make_engine);
    started = host->StartWorker(*worker, cpu, starts.back());
    if (!started) {
      starts.pop_back();
      break;
    }
  }
  for (WorkerStart& start : starts) {
    start.done.WaitPast(0);
    if (started) started = start.result;
  }
  if (started) started = host->offload.Start();
  if (!started) {
    host->phase.store(Phase::kStopped);
    host->orders.Signal();
    host->JoinAll();
    return started;
  }
  SetRunningHost(host.get());
  ArmAllWatches(*host);
  host->phase.store(as == StartAs::kFrozen ? Phase::kFrozen : Phase::kRunning);
  host->orders.Signal();
  (void)host.release();  // Stop's
  return {};
}

void Scheduler::Stop() {
  const arena::HostHeapScope scope;
  std::unique_ptr<SchedulerHost> host(RunningHost());
  CHECK(host != nullptr && &host->scheduler == this && ThreadWorker() == nullptr);
  host->phase.store(Phase::kStopping, std::memory_order_seq_cst);
  host->orders.Signal();
  for (Worker* worker : state_->workers) WorkerAccess::WakeUp(*worker);
  for (;;) {
    const uint32_t seen = host->news.Now();
    if (host->left.load(std::memory_order_seq_cst) == host->workers.size()) break;
    host->news.WaitPast(seen);
  }
  host->offload.Stop();
  host->phase.store(Phase::kStopped, std::memory_order_seq_cst);
  host->orders.Signal();
  host->JoinAll();
  SetRunningHost(nullptr);
}

// Two equal snapshots of the epochs prove that all workers rested at one common moment: only a
// running fiber, a guest or an Offload can make another fiber ready.
bool SchedulerHost::AllAtRest(std::vector<uint32_t>& epochs) {
  epochs.clear();
  for (const std::unique_ptr<WorkerHost>& host : workers) {
    epochs.push_back(host->rest_epoch.load(std::memory_order_seq_cst));
    if (!host->resting.load(std::memory_order_seq_cst)) return false;
    if (WorkerAccess::StateOf(host->worker).inbox.load(std::memory_order_seq_cst) != nullptr) {
      return false;
    }
  }
  return offload.in_progress() == 0 && host_calls.load() == 0;
}

// Workers are frozen.
bool SchedulerHost::AllIdle() {
  for (const std::unique_ptr<WorkerHost>& host : workers) {
    WorkerAccess::State& w = WorkerAccess::StateOf(host->worker);
    if (w.first_ready != nullptr || w.first_late != nullptr || w.guests != nullptr ||
        host->has_died.load())
      return false;
    if (w.inbox.load(std::memory_order_seq_cst) != nullptr) return false;
  }
  return offload.in_progress() == 0 && host_calls.load() == 0;
}

bool Scheduler::Quiesce(uint64_t timeout_ns) {
  const arena::HostHeapScope scope;
  SchedulerHost& host = *RunningHost();
  CHECK(&host.scheduler == this && ThreadWorker() == nullptr);
  const uint64_t deadline = host::MonotonicNs() + timeout_ns;
  const auto set_phase = [&](Phase phase) {
    host.phase.store(phase, std::memory_order_seq_cst);
    host.orders.Signal();
    for (Worker* worker : state_->workers) WorkerAccess::WakeUp(*worker);
  };
  const auto count_frozen = [&] {
    MutexLock lock(host.order_lock);
    return std::count_if(host.workers.begin(), host.workers.end(),
                         [](const auto& w) { return w->frozen; });
  };
  for (;;) {
    set_phase(Phase::kQuiescing);
    std::vector<uint32_t> first, second;
    for (;;) {
      const uint32_t seen = host.news.Now();
      if (host.AllAtRest(first) && host.AllAtRest(second) && first == second) break;
      if (!host.news.WaitPast(seen, deadline)) {
        set_phase(Phase::kRunning);
        return false;
      }
    }
    set_phase(Phase::kFrozen);
    for (;;) {
      const uint32_t seen = host.news.Now();
      if (count_frozen() == worker_count()) break;
      host.news.WaitPast(seen);
    }
    // A host descriptor may have become ready in between, and started something.
    if (host.AllIdle()) {
      state_->quiesced_at_ns = clock_.MonotonicNs();
      return true;
    }
    set_phase(Phase::kQuiescing);
    for (;;) {
      const uint32_t seen = host.news.Now();
      if (count_frozen() == 0) break;
      host.news.WaitPast(seen, host::MonotonicNs() + 1'000'000);
    }
  }
}

void Scheduler::Thaw() {
  SchedulerHost& host = *RunningHost();
  CHECK(host.phase.load() == Phase::kFrozen);
  host.phase.store(Phase::kRunning, std::memory_order_seq_cst);
  host.orders.Signal();
}

void Scheduler::OnEachWorker(const std::function<void(Worker&)>& work) {
  SchedulerHost& host = *RunningHost();
  CHECK(host.phase.load() == Phase::kFrozen && ThreadWorker() == nullptr);
  for (const std::unique_ptr<WorkerHost>& worker : host.workers) {
    const auto order_of = [&]() {
      MutexLock lock(host.order_lock);
      return worker->order;
    };
    {
      MutexLock lock(host.order_lock);
      worker->order = &work;
    }
    host.orders.Signal();
    for (;;) {
      const uint32_t seen = host.news.Now();
      if (order_of() == nullptr) break;
      host.news.WaitPast(seen);
    }
  }
}

}  // namespace skep::sched
