#!/usr/bin/env python3
"""Guests that try to pass over limits which only the host can see: memory that one call takes, and
an end that does not come.

usage: tests/hostile/limits_test.py --skep FILE --unstoppable FILE [--engine NAME]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
LIMIT = 256 * MIB
DEADLINE = 60

# One write of memory that was never touched, and of memory that is written while it is read.
WRITE_UNTOUCHED = """
import mmap, os, sys
memory = mmap.mmap(-1, 1 << 30)
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600) if sys.argv[1] != "1" else 1
done = 0
while done < 1 << 30:
    n = os.pwrite(fd, memoryview(memory)[done:], done)
    if n <= 0:
        break
    done += n
os.ftruncate(fd, 0)
"""


def memory_files(pid):
    """Bytes that the host has for the files in memory which this process holds."""
    total, seen = 0, set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            if "memfd:" not in os.readlink(path):
                continue
            status = os.stat(path)
            if status.st_ino not in seen:
                seen.add(status.st_ino)
                total += status.st_blocks * 512
    except OSError:
        pass
    return total


def processes_of(pid):
    """The process and all that descend from it."""
    children = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8") as file:
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(name))
        except (OSError, IndexError):
            pass
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return found


def peak_of(command, stdout):
    """Runs it; the most memory that one of its processes had in files, and how it ended."""
    with subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True) as run:
        peak, deadline = 0, time.monotonic() + DEADLINE
        while run.poll() is None:
            if time.monotonic() > deadline:
                run.kill()
                return None, "did not end"
            peak = max([peak] + [memory_files(pid) for pid in processes_of(run.pid)])
            time.sleep(0.002)
        return peak, f"exit code {run.returncode}: {run.stderr.read()[-500:]}"


def test_memory(skep, scratch):
    """The limit holds for one long call, too, and what it leaves free is enough for that call."""
    failures, seen = [], 0
    volume = os.path.join(scratch, "volume")
    os.mkdir(volume)
    target = os.path.join(scratch, "output")
    for what, arguments, argument in (
            ("a host file", ["--volume", f"{volume}:/volume"], "/volume/file"),
            ("stdout, a regular file", [], "1")):
        with open(target, "wb") as stdout:
            peak, end = peak_of(skep + ["do", "--memory", str(LIMIT)] + arguments +
                                ["--", "python3", "-c", WRITE_UNTOUCHED, argument], stdout)
        print(f"a write of 1 GiB to {what}: at most {(peak or 0) >> 20} MiB, {end}")
        if peak is None or peak > LIMIT * 1.05 or "exit code 0" not in end:
            failures.append(f"{what}: {peak} bytes, {end}")
        seen = max(seen, peak or 0)
    if seen == 0:
        failures.append("no file in memory was seen: nothing was measured")
    return failures


def test_sigterm(skep, unstoppable):
    """A sandbox whose first process cannot be interrupted ends when it is asked to."""
    with subprocess.Popen(skep + ["do", "--", unstoppable, "--helper=unstoppable"],
                          stdout=subprocess.PIPE, text=True) as run:
        line = run.stdout.readline()
        if line != "looping\n":
            run.kill()
            return [f"the guest does not loop: {line!r}"]
        time.sleep(0.2)
        start = time.monotonic()
        run.send_signal(signal.SIGTERM)
        try:
            run.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            run.kill()
            return [f"the sandbox did not end within {DEADLINE} s of SIGTERM"]
        print(f"the sandbox ended {time.monotonic() - start:.2f} s after SIGTERM")
    return []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    parser.add_argument("--unstoppable", required=True)
    parser.add_argument("--engine", default="auto")
    options = parser.parse_args()
    skep = [options.skep, f"--platform={options.engine}"]
    with tempfile.TemporaryDirectory(prefix="skep-limits.") as scratch:
        failures = test_memory(skep, scratch)
        # Under ptrace the frame is the guest's own affair: it blocks SIGTERM as any process may.
        if options.engine != "ptrace":
            failures += test_sigterm(skep, options.unstoppable)
    if failures:
        sys.exit("FAILED: " + "; ".join(failures))


if __name__ == "__main__":
    main()
