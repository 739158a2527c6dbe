"""What tests of named sandboxes have in common: a state directory of their own, and a look at what
is left. The test's arguments are SKEP, PLATFORM and those of unittest.
"""

import ctypes
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

TIMEOUT = 60


def children(process="self"):
    found = []
    for path in glob.glob(f"/proc/{process}/task/*/children"):
        with open(path, encoding="ascii") as file:
            found += [int(pid) for pid in file.read().split()]
    return found


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        pass


def ended(pid):
    """Also a zombie, which is ours to reap."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Named(unittest.TestCase):
    def setUp(self):
        self.top = tempfile.mkdtemp(prefix="skep-life-")
        self.addCleanup(shutil.rmtree, self.top)
        self.state = f"{self.top}/state"
        self.pids = []
        self.addCleanup(self.clean)

    def clean(self):
        names = self.skep("list", "-q").stdout.split()
        if names:
            self.skep("delete", "--force", *names)
        self.assert_nothing_is_left()

    def assert_nothing_is_left(self):
        end = time.monotonic() + 10
        while children() and time.monotonic() < end:
            reap()
            time.sleep(0.01)
        self.assertEqual(children(), [])
        if os.path.isdir(self.state):
            self.assertEqual(os.listdir(self.state), [])
        for pid in self.pids:
            self.assertEqual(
                glob.glob(f"/sys/fs/cgroup/**/skep-sandbox-{pid}-*", recursive=True), [])

    def words(self, *words):
        return [sys.argv[1], "--root", self.state, f"--platform={sys.argv[2]}", *words]

    def skep(self, *words, stdin=b"", **more):
        with subprocess.Popen(self.words(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, **more) as process:
            self.pids.append(process.pid)
            out, err = process.communicate(stdin, TIMEOUT)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def detach(self, script, *flags, name="box"):
        run = self.skep("do", "--name", name, "--detach", *flags, "--", "sh", "-c", script)
        self.assertEqual((run.returncode, run.stdout, run.stderr), (0, b"", b""))

    def exec(self, script, *flags, stdin=b"", name="box"):
        return self.skep("exec", *flags, name, "--", "sh", "-c", script, stdin=stdin)

    def listed(self):
        return {entry["id"]: entry for entry in
                json.loads(self.skep("list", "--format", "json").stdout)}

    def wait_for(self, what):
        end = time.monotonic() + 20
        while not what():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)


def become_subreaper():
    """Processes that a command leaves behind become our children, and are seen."""
    pr_set_child_subreaper = 36
    if ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0) != 0:
        raise OSError("prctl")


def main():
    become_subreaper()
    sys.argv[1] = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
