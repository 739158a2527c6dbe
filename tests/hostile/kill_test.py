#!/usr/bin/env python3
"""Kills processes of sandboxes at random moments: nothing is left, whichever it was.

usage: tests/hostile/kill_test.py --skep FILE [--rounds N] [--seed N]

The command line, its janitor, the gofer, the sentry and stubs take turns at being killed, while a
sandbox starts, runs and ends. Each time all of it must be gone soon, with its control groups, its
state, its mounts and its files. Each role must have been killed at least twice under each engine. A
process that is left on purpose must be found: a search that finds nothing says nothing.
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

# A stub that is killed while it is made is missed after 20 s (kMaxAnswerNs of platform/notify).
END_S = 60
ROLES = ("skep", "skep-janitor", "skep-gofer", "skep-sentry", "skep-stub")
ENGINES = ("notify", "ptrace")
LEAST = 2  # times that a role is killed under an engine


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


def find_victim(cli, role, rng):
    """A process of this role, and all the sandbox has; None for the first if it ended before."""
    if role == "skep":
        return cli.pid, family_of(cli.pid)
    while cli.poll() is None:
        family = family_of(cli.pid)
        of_role = [pid for pid in family if name_of(pid) == role and is_alive(pid)]
        if of_role:
            return rng.choice(of_role), family
        time.sleep(0.001)
    return None, []


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def play(skep, role, engine, rng, traces):
    """Kills a process of the role once: (whether there was one, what was left in the end)."""
    command = [skep, f"--platform={engine}", "--root", traces.state, "do", "--memory", "64M", "--",
               "sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.05; ls /etc) & wait; done"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as cli:
        # As soon as it is there, a little later, or much later, when all of it may be over.
        _, seen = find_victim(cli, role, rng)
        time.sleep(rng.choice((0, 0.005, 0.02, 0.1, 0.4)) * rng.random())
        victim, family = find_victim(cli, role, rng)
        hit = victim is not None and kill(victim)
        try:
            cli.wait(END_S)
        except subprocess.TimeoutExpired:
            cli.kill()
            return hit, ["the command line, which did not end"]
    return hit, wait_until_gone(set(seen + family), traces)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    rng = random.Random(seed)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans are ours to reap
    killed = {(role, engine): 0 for role in ROLES for engine in ENGINES}
    with tempfile.TemporaryDirectory(prefix="kill-test.") as state:
        traces = Traces(state)
        for number in range(options.rounds):
            role, engine = list(killed)[number % len(killed)]
            hit, left = play(options.skep, role, engine, rng, traces)
            killed[role, engine] += hit
            if left:
                sys.exit(f"FAILED: seed {seed}, round {number}: after the end of {role} under "
                         f"{engine} there is left: {left}")
        with subprocess.Popen(["sleep", "60"]) as stray:
            pathlib.Path(f"{state}/file").touch()
            deadline_free = [pid for pid in [stray.pid] if is_alive(pid)] + traces.left()
            os.unlink(f"{state}/file")
            stray.kill()
        if len(deadline_free) != 2:
            sys.exit("FAILED: the search does not find a process and a file that are left")
    spared = [f"{role} under {engine}" for (role, engine), count in killed.items() if count < LEAST]
    if spared:
        sys.exit(f"FAILED: seed {seed}: hardly ever killed: {', '.join(spared)}")
    print(f"seed {seed}: nothing was left of " +
          ", ".join(f"{count} {role} ({engine})" for (role, engine), count in killed.items()))


if __name__ == "__main__":
    main()
