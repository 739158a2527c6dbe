"""Bundles of busybox to run, and what a run may not leave behind."""
import copy
import ctypes
import glob
import json
import os
import shutil
import subprocess
import tempfile
import time

BUSYBOX = "/bin/busybox"
PR_SET_CHILD_SUBREAPER = 36

CONFIG = {
    "ociVersion": "1.0.2",
    "process": {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": ["true"],
        "env": ["PATH=/bin:/sbin"],
        "cwd": "/",
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs"},
    "hostname": "box",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
    ],
    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
}


def become_subreaper():
    """Processes that a command leaves behind become our children, and are seen."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError("prctl")


def children():
    pids = []
    for path in glob.glob("/proc/self/task/*/children"):
        with open(path, encoding="ascii") as file:
            pids += [int(pid) for pid in file.read().split()]
    return pids


class Bundle:
    """A directory with a root of busybox, a config.json, and a state directory of its own."""

    def __init__(self, skep):
        self.skep = skep
        self.top = tempfile.mkdtemp(prefix="skep-oci-")
        self.state = os.path.join(self.top, "state")
        self.root = os.path.join(self.top, "rootfs")
        self.config = copy.deepcopy(CONFIG)
        for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "data"):
            os.makedirs(os.path.join(self.root, name))
        shutil.copy(BUSYBOX, os.path.join(self.root, "bin/busybox"))
        applets = subprocess.run([BUSYBOX, "--list"], stdout=subprocess.PIPE, text=True, check=True)
        for applet in applets.stdout.split():
            if applet != "busybox":
                os.symlink("busybox", os.path.join(self.root, "bin", applet))

    def remove(self):
        shutil.rmtree(self.top)

    def command(self, container="box", flags=(), run_flags=()):
        with open(os.path.join(self.top, "config.json"), "w", encoding="utf-8") as file:
            json.dump(self.config, file)
        return [self.skep, "--root", self.state, *flags, "run", "--bundle", self.top, *run_flags,
                container]

    def start(self, *args, **kwargs):
        return subprocess.Popen(self.command(*args, **kwargs), stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                start_new_session=True)

    def verb(self, *words):
        return subprocess.run([self.skep, "--root", self.state, *words], capture_output=True,
                              text=True, timeout=60, check=False)

    def run(self, *process_args, stdin="", timeout=60, **kwargs):
        """Runs to the end; an object with returncode, stdout, stderr and the pid it had."""
        if process_args:
            self.config["process"]["args"] = list(process_args)
        process = self.start(**kwargs)
        try:
            process.out, process.err = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.out, process.err = process.communicate()
            raise AssertionError(f"it hangs; so far: {process.out!r} {process.err!r}") from None
        return process

    def leftovers(self, pid):
        """What is still there of a run whose CLI had this pid."""
        deadline = time.monotonic() + 2
        while children() and time.monotonic() < deadline:
            while True:  # reap what was ours to reap
                try:
                    if os.waitpid(-1, os.WNOHANG)[0] == 0:
                        break
                except ChildProcessError:
                    break
            time.sleep(0.01)
        left = [f"process {pid}" for pid in children()]
        left += glob.glob(f"/sys/fs/cgroup/**/skep-sandbox-{pid}-*", recursive=True)
        if os.path.isdir(self.state):
            left += [os.path.join(self.state, name) for name in os.listdir(self.state)]
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            left += [line for line in file if self.top in line]
        return left
