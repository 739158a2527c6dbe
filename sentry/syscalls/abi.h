// x86-64 Linux structures that cross the boundary and that libc's headers spell differently or with
// padding. Each is declared safe to copy because its maker zeroes it first.
#pragma once

#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <utime.h>
#include <csignal>
#include <cstdint>
#include <ctime>

#include "sentry/kernel/signal.h"
#include "sentry/mm/user_memory.h"

namespace skep::syscalls {

struct AbiSigaction {
  uint64_t handler, flags, restorer, mask;
};
struct AbiStack {
  uint64_t sp;
  int32_t flags;
  uint32_t pad;
  uint64_t size;
};
struct AbiCapHeader {
  uint32_t version;
  int32_t pid;
};
struct AbiCapData {
  uint32_t effective, permitted, inheritable;
};
struct AbiSysinfo {
  int64_t uptime;
  uint64_t loads[3], totalram, freeram, sharedram, bufferram, totalswap, freeswap;
  uint16_t procs, pad;
  uint32_t pad2;
  uint64_t totalhigh, freehigh;
  uint32_t mem_unit, pad3;
};
struct __attribute__((packed)) AbiEpollEvent {
  uint32_t events;
  uint64_t data;
};
struct AbiMsghdr {
  uint64_t name;
  uint32_t name_size, pad;
  uint64_t iov, iov_count, control, control_size;
  int32_t flags;
  uint32_t pad2;
};
struct AbiMmsghdr {
  AbiMsghdr header;
  uint32_t length, pad;
};

}  // namespace skep::syscalls

namespace skep::mm {

template <>
inline constexpr bool kAbiSafe<timespec> = true;
template <>
inline constexpr bool kAbiSafe<struct stat> = true;
template <>
inline constexpr bool kAbiSafe<struct statfs> = true;
template <>
inline constexpr bool kAbiSafe<struct statx> = true;
template <>
inline constexpr bool kAbiSafe<sigevent> = true;
template <>
inline constexpr bool kAbiSafe<rusage> = true;

}  // namespace skep::mm
