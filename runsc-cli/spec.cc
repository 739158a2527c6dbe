// `skep spec`: a config.json to start from, of what this version supports.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cstdio>
#include <span>

#include "base/host_call.h"
#include "runsc-cli/spec.h"
#include "runsc-cli/verbs.h"

namespace skep::cli {
namespace {

constexpr std::string_view kProcess = R"({
  "ociVersion": "1.0.2",
  "process": {
    "terminal": true,
    "user": { "uid": 0, "gid": 0 },
    "args": [ "sh" ],
    "env": [
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      "TERM=xterm"
    ],
    "cwd": "/",
    "capabilities": {
      "bounding": [ "CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE" ],
      "effective": [ "CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE" ],
      "permitted": [ "CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE" ],
      "ambient": [ "CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE" ]
    },
    "rlimits": [ { "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 } ],
    "noNewPrivileges": true
  },
  "root": { "path": "rootfs", "readonly": true },
  "hostname": "skep",
  "mounts": [
    { "destination": "/proc", "type": "proc", "source": "proc" },
    { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
      "options": [ "nosuid", "strictatime", "mode=755", "size=65536k" ] },
    { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
      "options": [ "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"@PTS_GID@ ] },
    { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
      "options": [ "nosuid", "noexec", "nodev", "mode=1777", "size=65536k" ] },
    { "destination": "/sys", "type": "sysfs", "source": "sysfs",
      "options": [ "nosuid", "noexec", "nodev", "ro" ] }
  ],
  "linux": {
    "namespaces": [
      { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
      { "type": "mount" }@USER_NAMESPACE@
    ],
    "maskedPaths": [
      "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
      "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
    ],
    "readonlyPaths": [
      "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"
    ]
  }
}
)";

// All of it or nothing, and nothing that was there before is lost. EEXIST.
Result<void> WriteNewFile(const std::string& path, const std::string& text) {
  if (faccessat(AT_FDCWD, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0) return Fail(EEXIST);
  const std::string beside = fmt::format("{}.{}.new", path, getpid());
  const OwnedFd file =
      TRY(host::Open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  Result<void> done = host::WriteAll(file.get(), std::as_bytes(std::span(text)));
  if (done) {
    const Result<int64_t> synced = host::Call(SYS_fsync, file.get());
    if (!synced) done = std::unexpected(synced.error());
  }
  if (done) {
    const Result<int64_t> moved = host::Call(SYS_renameat2, AT_FDCWD, beside.c_str(), AT_FDCWD,
                                             path.c_str(), RENAME_NOREPLACE);
    if (!moved) done = std::unexpected(moved.error());
  }
  if (!done) unlink(beside.c_str());
  return done;
}

void Replace(std::string& text, std::string_view what, std::string_view with) {
  text.replace(text.find(what), what.size(), with);
}

}  // namespace

std::string DefaultSpec(SpecKind kind) {
  std::string text(kProcess);
  const bool rootless = kind == SpecKind::kRootless;
  Replace(text, "@PTS_GID@", rootless ? "" : ", \"gid=5\"");
  Replace(text, "@USER_NAMESPACE@", rootless ? ", { \"type\": \"user\" }" : "");
  return text;
}

int WriteSpec(const SpecOptions& options, const Reporter& reporter) {
  const std::string path = options.bundle + "/config.json";
  const std::string text = DefaultSpec(options.rootless ? SpecKind::kRootless : SpecKind::kRoot);
  const Result<void> written = WriteNewFile(path, text);
  if (written) return 0;
  reporter.Error(written.error() == Errno(EEXIST)
                     ? fmt::format("{} exists: remove it first", path)
                     : HostFail("cannot write " + path, written.error().code()).error().message);
  return 1;
}

}  // namespace skep::cli
