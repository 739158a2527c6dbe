#!/usr/bin/env python3
"""Kills processes of sandboxes at random moments: nothing is left, whichever it was.

usage: tests/hostile/kill_test.py --skep FILE [--rounds N] [--seed N]

The command line, its janitors, the gofer, the sentry and stubs are killed while a sandbox starts,
runs and ends. Each time all of it must be gone soon, with its control groups, its state, its mounts
and its files. A process that is left on purpose must be found: a search that finds nothing says
nothing.
"""

import argparse
import ctypes
import glob
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

END_S = 20  # on a busy machine


def children_of(pid):
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            text = pathlib.Path(path).read_text(encoding="utf-8")
        except OSError:
            continue  # gone meanwhile
        found += [int(child) for child in text.split()]
    return found


def family_of(pid):
    return [pid] + [member for child in children_of(pid) for member in family_of(child)]


def is_alive(pid):
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return fields.rpartition(")")[2].split()[0] != "Z"


def name_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return "?"


class Traces:
    """What a sandbox may leave on the host, beside processes."""

    def __init__(self, state):
        self.state = state
        self.before = self.now()

    def now(self):
        found = set(glob.glob("/tmp/*skep*") + glob.glob("/dev/shm/*"))
        found |= set(glob.glob("/sys/fs/cgroup/**/skep-*", recursive=True))
        found |= set(glob.glob(f"{self.state}/*"))
        mounts = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        return found | set(mounts.splitlines())

    def left(self):
        return sorted(self.now() - self.before)


def wait_until_gone(pids, traces):
    deadline = time.monotonic() + END_S
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:  # orphans come to us
                pass
        except ChildProcessError:
            pass
        left = [f"{pid} ({name_of(pid)})" for pid in pids if is_alive(pid)] + traces.left()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


def play(skep, rng, traces):
    engine = rng.choice(("notify", "ptrace"))
    command = [skep, f"--platform={engine}", "--root", traces.state, "do", "--memory", "64M", "--",
               "sh", "-c", "for i in 1 2 3; do (sleep 0.05; ls /etc) & wait; done"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as cli:
        time.sleep(rng.choice((0, 0.005, 0.02, 0.1, 0.3)) * rng.random())
        family = family_of(cli.pid)
        victim = rng.choice(family)
        name = name_of(victim)
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            cli.wait(END_S)
        except subprocess.TimeoutExpired:
            cli.kill()
            return name, ["the command line, which did not end"]
    return name, wait_until_gone(family, traces)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    rng = random.Random(seed)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans are ours to reap
    killed = {}
    with tempfile.TemporaryDirectory(prefix="kill-test.") as state:
        traces = Traces(state)
        for number in range(options.rounds):
            name, left = play(options.skep, rng, traces)
            killed[name] = killed.get(name, 0) + 1
            if left:
                sys.exit(f"FAILED: seed {seed}, round {number}: after the end of {name} there is "
                         f"left: {left}")
        with subprocess.Popen(["sleep", "60"]) as stray:
            pathlib.Path(f"{state}/file").touch()
            deadline_free = [pid for pid in [stray.pid] if is_alive(pid)] + traces.left()
            os.unlink(f"{state}/file")
            stray.kill()
        if len(deadline_free) != 2:
            sys.exit("FAILED: the search does not find a process and a file that are left")
    print(f"seed {seed}: nothing was left of " +
          ", ".join(f"{count} {name}" for name, count in sorted(killed.items())))


if __name__ == "__main__":
    main()
