// Two of each namespace in one kernel: nothing that one holds today shows in the other.
#include "sentry/kernel/namespaces.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/socket.h>
#include <algorithm>
#include <cstring>
#include <ostream>

#include "sentry/arena/arena_test_environment.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/job_control.h"
#include "sentry/kernel/signals.h"
#include "sentry/net/control.h"
#include "sentry/net/unix_endpoint.h"
#include "sentry/net/unix_socket.h"
#include "sentry/vfs/test_caller.h"

namespace skep::kernel {
namespace {

using vfs::CodeOf;

struct NamespacesTest : ::testing::Test {
  std::unique_ptr<Kernel> kernel;
  Ref<Container> one, two;
  std::vector<Ref<Task>> made;

  void SetUp() override {
    const arena::ArenaHeapScope arena;
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
  EXPECT_TRUE(root.HasIn(first.get(), CAP_KILL));
  EXPECT_TRUE(root.HasIn(below.get(), CAP_KILL));
  EXPECT_TRUE(inside.HasIn(below.get(), CAP_KILL));
  EXPECT_FALSE(inside.HasIn(first.get(), CAP_KILL));
  EXPECT_FALSE(inside.HasIn(beside.get(), CAP_KILL));
  // The user who made a namespace has all capabilities in it, without having any outside.
  auth::Credentials owner;
  owner.user_namespace = first;
  owner.euid = 1000;
  EXPECT_FALSE(owner.HasIn(first.get(), CAP_KILL));
  EXPECT_TRUE(owner.HasIn(below.get(), CAP_KILL));
  EXPECT_FALSE(owner.HasIn(beside.get(), CAP_KILL));
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

// A container below `one`: its processes have numbers in both pid namespaces, and its user 5 is the
// kernel's 1005.
struct NestedTest : NamespacesTest {
  Ref<Container> nested;
  Task* outer = nullptr;
  Task* inner = nullptr;

  void SetUp() override {
    NamespacesTest::SetUp();
    const arena::ArenaHeapScope arena;
    const auth::IdMap map({{0, 1000, 100}});
    const auto users = MakeRef<auth::UserNamespace>(kernel->user_namespace, 0u,
                                                    kernel->NextNamespaceNumber(), map, map);
    const auto pids = MakeRef<PidNamespace>(Ref<PidNamespace>(&one->pids()), users,
                                            kernel->NextNamespaceNumber());
    nested = Container::Make(*kernel, {.id = "nested", .user = users, .pids = pids}).value();
    outer = &NewProcess(one);
    NewProcess(one, outer);
    inner = &NewProcess(nested);
    Become(*inner, 1005);
  }
  void TearDown() override {
    Remove(*inner);
    std::erase_if(made, [&](const Ref<Task>& t) { return t.get() == inner; });
    EXPECT_TRUE(nested->Remove());
    nested = {};
    NamespacesTest::TearDown();
  }
  void Become(Task& task, uint32_t id) {
    TasksLock lock(*kernel);
    auto creds = std::make_shared<auth::Credentials>(*task.credentials.Get());
    creds->uid = creds->euid = creds->suid = creds->fsuid = id;
    creds->gid = creds->egid = creds->sgid = creds->fsgid = id;
    creds->groups = {id, id + 1};
    task.credentials.Set(std::move(creds));
  }
};

struct Seen {
  int pid;
  uint32_t uid, gid;
  friend bool operator==(const Seen&, const Seen&) = default;
  friend void PrintTo(const Seen& seen, std::ostream* out) {
    *out << seen.pid << "/" << seen.uid << "/" << seen.gid;
  }
};
Seen By(const net::Sender& sender, const Task& receiver) {
  const ucred seen = sender.SeenBy(receiver);
  return {seen.pid, seen.uid, seen.gid};
}

TEST_F(NestedTest, CredentialsOfAMessageAreAsTheReceiverSeesThem) {
  Task& stranger = NewProcess(two);
  net::NetNamespace& sockets = one->namespaces()->net->sockets();
  const net::SocketPair pair =
      net::MakeUnixPair(sockets, *outer, SOCK_DGRAM, 0, O_NONBLOCK).value();
  const int on = 1;
  const std::string_view yes(reinterpret_cast<const char*>(&on), sizeof on);
  EXPECT_TRUE(pair.second->SetOption(*outer, SOL_SOCKET, SO_PASSCRED, yes));
  const auto pass = [&](Task& from, net::Control control = {}) {
    std::string text = "x";
    mm::IoSequence data = mm::IoSequence::FromKernel(std::as_bytes(std::span(text)));
    net::SendRequest request{data, {}, std::move(control), 0};
    EXPECT_EQ(pair.first->Send(from, request).value(), 1u);
    mm::IoSequence to = mm::IoSequence::FromKernel(std::as_writable_bytes(std::span(text)));
    return *pair.second->Receive(*outer, to, 0)->control.credentials;
  };
  const net::Sender from_inner = pass(*inner);
  EXPECT_EQ(By(from_inner, *inner), (Seen{1, 5, 5}));
  EXPECT_EQ(By(from_inner, *outer), (Seen{3, 1005, 1005}));
  EXPECT_EQ(By(from_inner, stranger), (Seen{0, 1005, 1005}));
  const net::Sender from_outer = pass(*outer);
  EXPECT_EQ(By(from_outer, *outer), (Seen{1, 0, 0}));
  EXPECT_EQ(By(from_outer, *inner), (Seen{0, auth::kOverflowId, auth::kOverflowId}));
}

TEST_F(NestedTest, ClaimedCredentialsAreTheSendersNumbers) {
  const auto claim = [](Task& task, ucred claimed) {
    std::string bytes(CMSG_SPACE(sizeof claimed), '\0');
    const cmsghdr header{.cmsg_len = CMSG_LEN(sizeof claimed),
                         .cmsg_level = SOL_SOCKET,
                         .cmsg_type = SCM_CREDENTIALS};
    memcpy(bytes.data(), &header, sizeof header);
    memcpy(bytes.data() + sizeof header, &claimed, sizeof claimed);
    return net::ParseControl(task, vfs::FdTable(), bytes);
  };
  EXPECT_EQ(By(*claim(*inner, {1, 5, 5})->credentials, *outer), (Seen{3, 1005, 1005}));
  // With CAP_SETUID in its user namespace: any user that it maps.
  EXPECT_EQ(By(*claim(*inner, {1, 7, 8})->credentials, *outer), (Seen{3, 1007, 1008}));
  EXPECT_EQ(CodeOf(claim(*inner, {1, 100, 5})), EINVAL);
  EXPECT_EQ(CodeOf(claim(*inner, {9, 5, 5})), ESRCH);
  EXPECT_EQ(By(*claim(*outer, {2, 1005, 0})->credentials, *inner), (Seen{0, 5, auth::kOverflowId}));
}

TEST_F(NestedTest, PeersAreAsTheAskerSeesThem) {
  net::NetNamespace& sockets = one->namespaces()->net->sockets();
  const net::SocketPair pair = net::MakeUnixPair(sockets, *inner, SOCK_STREAM, 0, 0).value();
  const auto peer = [&](Task& asker) {
    net::OptionReply reply(sizeof(ucred));
    EXPECT_TRUE(pair.first->GetOption(asker, SOL_SOCKET, SO_PEERCRED, reply));
    ucred seen = {};
    memcpy(&seen, reply.bytes().data(), sizeof seen);
    return Seen{seen.pid, seen.uid, seen.gid};
  };
  EXPECT_EQ(peer(*inner), (Seen{1, 5, 5}));
  EXPECT_EQ(peer(*outer), (Seen{3, 1005, 1005}));
}

TEST_F(NestedTest, SignalsTellTheSenderAsTheReceiverSeesIt) {
  TasksLock lock(*kernel);
  const siginfo_t up = MakeInfoFrom(*inner, *outer->group, SIGTERM, SI_USER);
  EXPECT_EQ(up.si_pid, 3);
  EXPECT_EQ(up.si_uid, 1005u);
  const siginfo_t down = MakeInfoFrom(*outer, *inner->group, SIGTERM, SI_USER);
  EXPECT_EQ(down.si_pid, 0);
  EXPECT_EQ(down.si_uid, auth::kOverflowId);
  const siginfo_t own = MakeInfoFrom(*inner, *inner->group, SIGTERM, SI_USER);
  EXPECT_EQ(own.si_pid, 1);
  EXPECT_EQ(own.si_uid, 5u);
}

TEST_F(NestedTest, ProcessesAreNotFoundFromBelow) {
  EXPECT_EQ(CodeOf(inner->FindProcess(2)), ESRCH);
  EXPECT_EQ(outer->FindProcess(3).value(), Ref<vfs::ProcessId>(inner->group->pid));
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
