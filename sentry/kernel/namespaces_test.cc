// Two of each namespace in one kernel: nothing that one holds today shows in the other.
#include "sentry/kernel/namespaces.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/socket.h>
#include <algorithm>

#include "sentry/arena/arena_test_environment.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/job_control.h"
#include "sentry/kernel/signals.h"
#include "sentry/net/unix_endpoint.h"
#include "sentry/vfs/test_caller.h"

namespace skep::kernel {
namespace {

using vfs::CodeOf;

struct NamespacesTest : ::testing::Test {
  std::unique_ptr<Kernel> kernel;
  Ref<Container> one, two;
  std::vector<Ref<Task>> made;

  void SetUp() override {
    const arena::ArenaScope arena;
    kernel = std::make_unique<Kernel>(KernelConfig{.workers = 1});
    kernel->anon_fs = MakeRef<vfs::AnonFs>(9u);
    one = Container::Make(*kernel, {.id = "one", .hostname = "first"}).value();
    two = Container::Make(*kernel, {.id = "two", .hostname = "second"}).value();
  }

  void TearDown() override {
    for (const Ref<Task>& task : made) Remove(*task);
    made.clear();
    EXPECT_TRUE(one->Remove());
    EXPECT_TRUE(two->Remove());
    one = two = {};
    kernel->anon_fs = {};
    kernel.reset();
  }

  // A process without a fiber; `parent`: null: the outside's.
  Task& NewProcess(const Ref<Container>& container, Task* parent = nullptr) {
    auto task = MakeRef<Task>(*kernel);
    task->group = MakeRef<ThreadGroup>(*kernel, container);
    ThreadGroup& group = *task->group;
    auto creds = std::make_shared<auth::Credentials>();
    creds->permitted = creds->effective = auth::kAllCapabilities;
    creds->user_namespace = container->user_namespace();
    TasksLock lock(*kernel);
    group.handlers = MakeRef<SignalHandlers>();
    group.limits.SetAll(Limits::Default());
    task->namespaces.Set(container->namespaces());
    task->credentials.Set(std::move(creds));
    const Ref<Pid> pid = Pid::Allocate(container->pids()).value();
    EXPECT_TRUE(container->AddTask());
    PublishLeader(*task, pid);
    if (parent == nullptr) {
      group.JoinProcessGroup(ProcessGroup::Make(pid, Session::Make(pid)));
      if (container->pids().reaper() == nullptr) container->pids().SetReaper(group);
    } else {
      group.JoinProcessGroup(parent->group->process_group);
      group.parent = parent->group.get();
    }
    made.push_back(task);
    return *task;
  }

  void Remove(Task& task) {
    const Ref<ThreadGroup> group = task.group;
    TasksLock lock(*kernel);
    group->LeaveProcessGroup();
    group->pid->SetTask(nullptr);
    group->pid->SetGroup(nullptr);
    group->container->RemoveTask();
    group->leader = {};
  }

  int Number(const Task& of, const Task& seen_by) { return seen_by.NumberOf(*of.group->pid); }
  bool Exiting(const Task& task) {
    TasksLock lock(*kernel);
    return task.group->exiting;
  }
};

TEST_F(NamespacesTest, ProcessesHaveNumbersInTheirOwnNamespaceOnly) {
  Task& a = NewProcess(one);
  Task& b = NewProcess(two);
  Task& child = NewProcess(two, &b);
  EXPECT_EQ(a.group->tgid, 1);
  EXPECT_EQ(b.group->tgid, 1);
  EXPECT_EQ(Number(child, b), 2);
  EXPECT_EQ(Number(a, b), 0);
  EXPECT_EQ(Number(b, a), 0);
  TasksLock lock(*kernel);
  EXPECT_EQ(one->pids().FindGroup(1), a.group.get());
  EXPECT_EQ(two->pids().FindGroup(1), b.group.get());
  EXPECT_EQ(one->pids().Find(2), nullptr);
  // The kernel itself sees them all, each with a number of its own.
  EXPECT_EQ(kernel->pid_namespace->FindGroup(a.group->pid->global_number()), a.group.get());
  EXPECT_EQ(kernel->pid_namespace->FindGroup(child.group->pid->global_number()), child.group.get());
  EXPECT_NE(a.group->pid->global_number(), b.group->pid->global_number());
}

TEST_F(NamespacesTest, ANumberIsTakenBackWhenNobodyBearsIt) {
  Task& a = NewProcess(one);
  Task& child = NewProcess(one, &a);
  EXPECT_EQ(NewSession(child).value(), 2);
  Task& member = NewProcess(one, &child);
  const Ref<Pid> pid = child.group->pid;
  Remove(child);
  std::erase_if(made, [&](const Ref<Task>& t) { return t.get() == &child; });
  {
    TasksLock lock(*kernel);
    // A process group and a session bear it still.
    EXPECT_EQ(one->pids().Find(2), pid.get());
    EXPECT_EQ(pid->group(), nullptr);
    EXPECT_NE(pid->process_group(), nullptr);
    member.group->LeaveProcessGroup();
    EXPECT_EQ(one->pids().Find(2), nullptr);
    EXPECT_EQ(pid->session(), nullptr);
    EXPECT_EQ(kernel->pid_namespace->Find(pid->global_number()), nullptr);
  }
  EXPECT_EQ(pid->number(), 2);  // what remembers it still has an identity
}

TEST_F(NamespacesTest, ProcessGroupsListTheirMembers) {
  Task& a = NewProcess(one);
  Task& b = NewProcess(one, &a);
  Task& c = NewProcess(one, &a);
  const auto members = [&](const Task& of) {
    std::vector<int> numbers;
    TasksLock lock(*kernel);
    of.group->process_group->ForEach([&](ThreadGroup& g)
                                         REQUIRES(tasks) { numbers.push_back(g.tgid); });
    std::sort(numbers.begin(), numbers.end());
    return numbers;
  };
  EXPECT_EQ(members(a), (std::vector{1, 2, 3}));
  EXPECT_TRUE(SetProcessGroup(b, 0, 0));
  EXPECT_EQ(members(a), (std::vector{1, 3}));
  EXPECT_EQ(members(b), (std::vector{2}));
  EXPECT_TRUE(SetProcessGroup(c, 0, 2));
  EXPECT_EQ(members(b), (std::vector{2, 3}));
  EXPECT_EQ(CodeOf(SetProcessGroup(c, 0, 77)), EPERM);
  EXPECT_EQ(CodeOf(SetProcessGroup(c, 77, 0)), ESRCH);
  EXPECT_EQ(CodeOf(SetProcessGroup(a, 0, 0)), EPERM);  // it leads the session
  EXPECT_EQ(CodeOf(NewSession(b)), EPERM);             // it leads a group
  EXPECT_EQ(NewSession(c).value(), 3);
  EXPECT_EQ(members(b), (std::vector{2}));
  EXPECT_EQ(CodeOf(SetProcessGroup(b, 0, 3)), EPERM);  // of another session
}

TEST_F(NamespacesTest, AnInitsEndEndsItsOwnNamespace) {
  Task& a = NewProcess(one);
  Task& a_child = NewProcess(one, &a);
  Task& b = NewProcess(two);
  {
    TasksLock lock(*kernel);
    one->pids().Zap();
    EXPECT_EQ(CodeOf(Pid::Allocate(one->pids())), ENOMEM);
    EXPECT_TRUE(Pid::Allocate(two->pids()).value()->number() == 2);
  }
  EXPECT_TRUE(Exiting(a));
  EXPECT_TRUE(Exiting(a_child));
  EXPECT_FALSE(Exiting(b));
}

TEST_F(NamespacesTest, KillingAContainerLeavesTheOtherInASharedPidNamespace) {
  const Ref<Container> pod =
      Container::Make(*kernel, {.id = "pod", .pids = Ref<PidNamespace>(&one->pids())}).value();
  Task& a = NewProcess(one);
  Task& b = NewProcess(pod);
  EXPECT_EQ(Number(b, a), 2);
  {
    TasksLock lock(*kernel);
    pod->KillAll();
  }
  EXPECT_FALSE(Exiting(a));
  EXPECT_TRUE(Exiting(b));
  Remove(b);
  std::erase_if(made, [&](const Ref<Task>& t) { return t.get() == &b; });
  EXPECT_TRUE(pod->Remove());
}

TEST_F(NamespacesTest, HostnamesAreApart) {
  UtsNamespace& first = *one->namespaces()->uts;
  UtsNamespace& second = *two->namespaces()->uts;
  EXPECT_EQ(first.hostname(), "first");
  EXPECT_EQ(second.hostname(), "second");
  first.SetHostname("changed");
  first.SetDomainname("domain");
  EXPECT_EQ(second.hostname(), "second");
  EXPECT_EQ(second.domainname(), "(none)");
  EXPECT_EQ(first.hostname(), "changed");
}

TEST_F(NamespacesTest, AbstractNamesOfSocketsAreApart) {
  net::UnixNamespace& first = one->namespaces()->net->sockets().unix_names();
  net::UnixNamespace& second = two->namespaces()->net->sockets().unix_names();
  const auto a = MakeRef<net::UnixEndpoint>(first, SOCK_STREAM);
  const auto b = MakeRef<net::UnixEndpoint>(second, SOCK_STREAM);
  EXPECT_TRUE(first.Bind(SOCK_STREAM, "name", *a));
  EXPECT_FALSE(second.Find(SOCK_STREAM, "name"));
  EXPECT_TRUE(second.Bind(SOCK_STREAM, "name", *b));
  EXPECT_EQ(first.Find(SOCK_STREAM, "name"), a);
  EXPECT_EQ(second.Find(SOCK_STREAM, "name"), b);
  first.Unbind(SOCK_STREAM, "name");
  second.Unbind(SOCK_STREAM, "name");
}

TEST_F(NamespacesTest, CapabilitiesHoldInTheOwnUserNamespaceAndBelow) {
  const Ref<auth::UserNamespace>& first = kernel->user_namespace;
  const auto below = MakeRef<auth::UserNamespace>(first, 1000u, kernel->NextNamespaceNumber());
  const auto beside = MakeRef<auth::UserNamespace>(first, 2000u, kernel->NextNamespaceNumber());
  auth::Credentials root;
  root.effective = auth::kAllCapabilities;
  root.user_namespace = first;
  auth::Credentials inside = root;
  inside.user_namespace = below;
  EXPECT_TRUE(root.HasIn(*first, CAP_KILL));
  EXPECT_TRUE(root.HasIn(*below, CAP_KILL));
  EXPECT_TRUE(inside.HasIn(*below, CAP_KILL));
  EXPECT_FALSE(inside.HasIn(*first, CAP_KILL));
  EXPECT_FALSE(inside.HasIn(*beside, CAP_KILL));
  // Whoever made a namespace has all in it, without having any outside.
  auth::Credentials owner;
  owner.user_namespace = first;
  owner.euid = 1000;
  EXPECT_FALSE(owner.HasIn(*first, CAP_KILL));
  EXPECT_TRUE(owner.HasIn(*below, CAP_KILL));
  EXPECT_FALSE(owner.HasIn(*beside, CAP_KILL));
}

TEST_F(NamespacesTest, SignalsAskForCapabilitiesInTheReceiversUserNamespace) {
  const auto below =
      MakeRef<auth::UserNamespace>(kernel->user_namespace, 1000u, kernel->NextNamespaceNumber());
  const Ref<Container> jailed = Container::Make(*kernel, {.id = "jailed", .user = below}).value();
  Task& outside = NewProcess(one);
  Task& inside = NewProcess(jailed);
  {
    TasksLock lock(*kernel);
    auth::Credentials creds = *inside.credentials.Get();
    creds.uid = creds.euid = creds.suid = 5;
    inside.credentials.Set(std::make_shared<const auth::Credentials>(creds));
    EXPECT_TRUE(MayKill(outside, *inside.group, SIGTERM));
    EXPECT_EQ(CodeOf(MayKill(inside, *outside.group, SIGTERM)), EPERM);
  }
  Remove(inside);
  std::erase_if(made, [&](const Ref<Task>& t) { return t.get() == &inside; });
  EXPECT_TRUE(jailed->Remove());
}

TEST_F(NamespacesTest, NumbersOfNamespacesDiffer) {
  const Namespaces& a = *one->namespaces();
  const Namespaces& b = *two->namespaces();
  std::vector<uint64_t> numbers = {a.uts->number(),
                                   b.uts->number(),
                                   a.ipc->number(),
                                   b.ipc->number(),
                                   a.net->number(),
                                   b.net->number(),
                                   a.cgroup->number(),
                                   b.cgroup->number(),
                                   a.pids_of_children->number(),
                                   b.pids_of_children->number()};
  std::sort(numbers.begin(), numbers.end());
  EXPECT_EQ(std::adjacent_find(numbers.begin(), numbers.end()), numbers.end());
}

TEST_F(NamespacesTest, AContainersTasksAreLimited) {
  const Ref<Container> small = Container::Make(*kernel, {.id = "small", .pids_limit = 2}).value();
  EXPECT_EQ(CodeOf(Container::Make(*kernel, {.id = "small"})), EEXIST);
  {
    TasksLock lock(*kernel);
    EXPECT_TRUE(small->AddTask());
    EXPECT_TRUE(small->AddTask());
    EXPECT_EQ(CodeOf(small->AddTask()), EAGAIN);
    EXPECT_TRUE(one->AddTask());  // the other's own business
    one->RemoveTask();
  }
  EXPECT_EQ(CodeOf(small->Remove()), EBUSY);
  {
    TasksLock lock(*kernel);
    small->RemoveTask();
    small->RemoveTask();
  }
  EXPECT_TRUE(small->Remove());
}

[[maybe_unused]] const auto* const kArena =
    ::testing::AddGlobalTestEnvironment(new arena::ArenaTestEnvironment);

}  // namespace
}  // namespace skep::kernel
