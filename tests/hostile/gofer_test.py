#!/usr/bin/env python3
"""What a gofer that hangs, and one that dies, do to a sandbox.

A file of a volume hangs: this program holds a lease on it, so that the gofer's open waits until the
lease is given up. Who asked waits and can be killed; everybody else on the same worker goes on; the
answers that come too late harm nobody.

The gofer is killed: the sandbox ends and says why.

usage: tests/hostile/gofer_test.py --skep FILE --engine NAME
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time

WAITERS = 8

# Runs in the sandbox, on one worker. Says "ok WHAT" for what held.
GUEST = r"""
import os, signal, sys, threading, time

WAITERS = int(sys.argv[1])

def judge(what, held, detail=""):
    print("ok" if held else "FAILED", what, detail, flush=True)

def spawn(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(7)
    return child

def ended(pid, seconds):
    '''How it ended, or None if it has not.'''
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None

def late(rounds, ms):
    '''By how much the worst of some sleeps was late, in ms.'''
    worst = 0
    for _ in range(rounds):
        start = time.monotonic()
        time.sleep(ms / 1000)
        worst = max(worst, (time.monotonic() - start) * 1000 - ms)
    return worst

def read(path):
    with open(path) as file:
        return file.read()

os.listdir("/slow")
waiting = [spawn(lambda: read("/slow/file")) for _ in range(WAITERS)]
changing = spawn(lambda: os.truncate("/slow2/file", 0))
time.sleep(0.5)
judge("they wait", all(ended(pid, 0.01) is None for pid in (*waiting, changing)))
judge("timers go on", late(50, 2) < 100, late(50, 2))
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
start = time.monotonic()
while len(ticks) < 10 and time.monotonic() - start < 20:
    pass
signal.setitimer(signal.ITIMER_REAL, 0)
judge("signals go on", len(ticks) >= 10, (len(ticks), time.monotonic() - start))
start = time.monotonic()
texts = [read(f"/vol/{i}") for i in range(100)]
judge("other files of the host are read", texts == ["x"] * 100)
names = sorted(os.listdir("/vol"))
with open("/vol/new", "w") as file:
    file.write("new")
judge("and listed and made", len(names) == 100 and read("/vol/new") == "new")
judge("in no time", time.monotonic() - start < 5, time.monotonic() - start)
child = spawn(lambda: os._exit(0 if read("/vol/5") == "x" else 1))
judge("another process, too", ended(child, 10) == 0)
for pid in (*waiting, changing):
    os.kill(pid, signal.SIGKILL)
ends = [ended(pid, 2) for pid in (*waiting, changing)]
judge("SIGKILL ends who waits", ends == [-signal.SIGKILL] * (WAITERS + 1), ends)
again = spawn(lambda: os._exit(0 if read("/slow/file") == "slow" else 1))
judge("who asks again waits again", ended(again, 0.2) is None)
print("release", flush=True)
sys.stdin.readline()
judge("and gets the file in the end", ended(again, 10) == 0)
judge("as does everybody", read("/slow/file") == "slow")
until = time.monotonic() + 10
while os.stat("/slow2/file").st_size != 0 and time.monotonic() < until:
    time.sleep(0.05)
judge("a change that was under way is seen", os.stat("/slow2/file").st_size == 0)
"""

WANTED = 12


class Lease:
    """Keeps others from opening a file; they wait."""

    def __init__(self, path, text):
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        self.fd = os.open(path, os.O_RDWR)
        fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def give_up(self):
        fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def hanging_file(options, scratch):
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # the host's word that somebody wants the file
    for name in ("vol", "slow", "slow2"):
        os.mkdir(os.path.join(scratch, name))
    for i in range(100):
        with open(os.path.join(scratch, "vol", str(i)), "w", encoding="ascii") as file:
            file.write("x")
    leases = [Lease(os.path.join(scratch, name, "file"), "slow") for name in ("slow", "slow2")]
    command = [options.skep, f"--platform={options.engine}", "--workers=1", "do"]
    for name in ("vol", "slow", "slow2"):
        command += ["--volume", f"{os.path.join(scratch, name)}:/{name}"]
    command += ["--", "/usr/bin/python3", "-c", GUEST, str(WAITERS)]
    lines = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as sandbox:
        for line in sandbox.stdout:
            print(line, end="", flush=True)
            lines.append(line)
            if line == "release\n":
                for lease in leases:
                    lease.give_up()
                sandbox.stdin.write("go\n")
                sandbox.stdin.flush()
    held = sum(line.startswith("ok ") for line in lines)
    return sandbox.returncode == 0 and held == WANTED and len(lines) == WANTED + 1


def descendants(pid):
    found = [pid]
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="ascii") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if parent == pid:
            found += descendants(int(entry))
    return found


def role(pid):
    """What `skep WORD ...` runs there as."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return (file.read().split(b"\0") + [b"", b""])[1].decode()
    except OSError:
        return ""


def dead_gofer(options):
    """The sandbox ends, with a message, whatever its guests do meanwhile."""
    for command in ("sleep 60", "while :; do :; done",
                    "while cat /etc/passwd > /dev/null; do :; done"):
        words = [options.skep, f"--platform={options.engine}", "do", "--", "/bin/bash", "-c",
                 f"echo up; {command}"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL, text=True) as sandbox:
            sandbox.stdout.readline()
            family = descendants(sandbox.pid)
            gofers = [pid for pid in family if role(pid) == "gofer"]
            if not gofers:
                print("FAILED: no gofer to kill")
                sandbox.kill()
                return False
            start = time.monotonic()
            os.kill(gofers[-1], signal.SIGKILL)
            try:
                _, errors = sandbox.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                print(f"FAILED: '{command}' goes on without a gofer")
                sandbox.kill()
                return False
        took = time.monotonic() - start
        time.sleep(0.2)
        left = [pid for pid in family if os.path.exists(f"/proc/{pid}")]
        print(f"'{command}': exit {sandbox.returncode} after {took:.2f} s: {errors.strip()}")
        if sandbox.returncode == 0 or "gofer" not in errors or left:
            print(f"FAILED: {left} are left")
            return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    parser.add_argument("--engine", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skep-gofer.") as scratch:
        held = hanging_file(options, scratch)
    held = dead_gofer(options) and held
    if not held:
        sys.exit("FAILED")


if __name__ == "__main__":
    main()
