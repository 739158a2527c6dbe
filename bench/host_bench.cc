// What the host itself takes for the mechanisms that engines stand on: the least that a guest's
// system call can cost here. Runs natively only.
#include <benchmark/benchmark.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstring>

#include "base/missing_defs.h"
#include "bench/host.h"

namespace skep::bench {
namespace {

// Both sides on one CPU, as an engine has them.
void PinToOneCpu() {
  cpu_set_t cpus;
  Must(sched_getaffinity(0, sizeof cpus, &cpus), "sched_getaffinity");
  for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &cpus)) continue;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    break;
  }
  Must(sched_setaffinity(0, sizeof cpus, &cpus), "sched_setaffinity");
}

class Pinned {
 public:
  Pinned() {
    Must(sched_getaffinity(0, sizeof before_, &before_), "sched_getaffinity");
    PinToOneCpu();
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { sched_setaffinity(0, sizeof before_, &before_); }

 private:
  cpu_set_t before_;
};

[[noreturn]] void CallForEver() {
  for (;;) syscall(SYS_getpid);
}

void SendFd(int socket, int fd) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  char byte = 0;
  iovec part = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &part, message.msg_iovlen = 1;
  message.msg_control = control, message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  Must(sendmsg(socket, &message, 0), "sendmsg");
}

int ReceiveFd(int socket) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  char byte = 0;
  iovec part = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &part, message.msg_iovlen = 1;
  message.msg_control = control, message.msg_controllen = sizeof control;
  Must(recvmsg(socket, &message, 0), "recvmsg");
  int fd = -1;
  if (const cmsghdr* header = CMSG_FIRSTHDR(&message)) {
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  }
  return Must(fd, "a descriptor");
}

[[noreturn]] void CallUnderAFilter(int socket) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  sock_filter rows[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpid, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {sizeof rows / sizeof rows[0], rows};
  const long listener =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
              SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
  SendFd(socket, static_cast<int>(Must(listener, "seccomp")));
  CallForEver();
}

void SeccompNotification(benchmark::State& state) {
  const Pinned pinned;
  int sockets[2];
  Must(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), "socketpair");
  const pid_t child = Must(fork(), "fork");
  if (child == 0) CallUnderAFilter(sockets[1]);
  const int listener = ReceiveFd(sockets[0]);
  Must(ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP), "flags");
  for (auto _ : state) {
    seccomp_notif call = {};
    Must(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call), "NOTIF_RECV");
    seccomp_notif_resp answer = {};
    answer.id = call.id;
    Must(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer), "NOTIF_SEND");
  }
  Must(kill(child, SIGKILL), "kill");
  Must(waitpid(child, nullptr, 0), "waitpid");
  for (const int fd : {listener, sockets[0], sockets[1]}) close(fd);
}
BENCHMARK(SeccompNotification)->UseRealTime();

void PtraceSysemu(benchmark::State& state) {
  const Pinned pinned;
  const pid_t child = Must(fork(), "fork");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    CallForEver();
  }
  Must(waitpid(child, nullptr, 0), "waitpid");
  for (auto _ : state) {
    Must(ptrace(PTRACE_SYSEMU, child, 0, 0), "PTRACE_SYSEMU");
    Must(waitpid(child, nullptr, __WALL), "waitpid");
  }
  Must(kill(child, SIGKILL), "kill");
  Must(waitpid(child, nullptr, 0), "waitpid");
}
BENCHMARK(PtraceSysemu)->UseRealTime();

}  // namespace
}  // namespace skep::bench

BENCHMARK_MAIN();
