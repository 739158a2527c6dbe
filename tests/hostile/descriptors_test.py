#!/usr/bin/env python3
"""A guest user opens the host's files until it fails, in a sandbox whose processes may have few
descriptors. Afterwards, and meanwhile, everybody else still opens files; those who hold the files
can fork; and the attacker opens again what it has closed.

usage: tests/hostile/descriptors_test.py --skep FILE --engine NAME
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile

LIMIT = 200
FILES = 600

# Runs in the sandbox. Says "ok WHAT" for what held; whatever else it prints is a failure.
GUEST = r"""
import errno, os, resource, subprocess, sys

FILES = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))

def judge(what, held, detail=""):
    print("ok" if held else "FAILED", what, detail, flush=True)

def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)

def run_as(uid, work):
    '''The exit status of `work` in a child of that user.'''
    child = os.fork()
    if child == 0:
        status = 99
        try:
            become(uid)
            status = work() or 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def open_some(first, count):
    fds = []
    for i in range(first, first + count):
        fds.append(os.open(f"/vol/f{i}", os.O_RDONLY))
    return fds

def open_files_of_ones_own():
    for fd in open_some(0, 3):
        os.close(fd)
    done = subprocess.run(["/bin/true"])
    return done.returncode

def attacker(first, told, go):
    '''Opens until it fails; says how many, and why; waits; forks; ends.'''
    become(65534)
    fds, why = [], 0
    try:
        for i in range(first, FILES):
            fds.append(os.open(f"/vol/f{i}", os.O_RDONLY))
    except OSError as error:
        why = error.errno
    os.write(told, f"{len(fds)} {why}\n".encode())
    os.read(go, 1)
    child = os.fork()
    if child == 0:
        # What the parent holds can be read in the child too.
        os._exit(0 if not fds or os.pread(fds[-1], 1, 0) == b"x" else 1)
    os.write(told, f"{os.waitpid(child, 0)[1]} 0\n".encode())
    os.read(go, 1)
    os._exit(0)

def lines(fd, count):
    text = b""
    while text.count(b"\n") < count:
        text += os.read(fd, 4096)
    return [tuple(map(int, line.split())) for line in text.decode().splitlines()]

def main():
    open_files_of_ones_own()  # what python itself needs is loaded
    told_here, told = os.pipe()
    go, go_here = os.pipe()
    pids = []
    answers = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            attacker(number * FILES // 4, told, go)
        pids.append(pid)
        answers += lines(told_here, 1)
    opened = [count for count, _ in answers]
    # The attack had a target: it met a limit, which is not RLIMIT_NOFILE of one process.
    judge("the attack runs into a limit", any(why for _, why in answers), answers)
    known = (0, errno.ENFILE, errno.EMFILE)
    judge("and is told so", all(why in known for _, why in answers), answers)
    judge("the first one opens some", opened[0] > 10, answers)
    judge("another user opens meanwhile", run_as(1234, open_files_of_ones_own) == 0)
    judge("root opens meanwhile", run_as(0, open_files_of_ones_own) == 0)
    os.write(go_here, b"x" * len(pids))
    forks = lines(told_here, len(pids))
    judge("those who hold files can fork", all(status == 0 for status, _ in forks), forks)
    os.write(go_here, b"x" * len(pids))
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    judge("nobody was killed", ends == [0] * len(pids), ends)
    judge("another user opens afterwards", run_as(1234, open_files_of_ones_own) == 0)
    judge("the attacker opens afterwards", run_as(65534, lambda: len(open_some(0, 10)) - 10) == 0)
    judge("root opens afterwards", run_as(0, open_files_of_ones_own) == 0)
    # More files one after the other than there are descriptors: idle ones are closed.
    for i in range(FILES):
        fd = os.open(f"/vol/f{i}", os.O_RDONLY)
        if os.read(fd, 2) != b"x":
            judge("files one after the other", False, i)
        os.close(fd)
    judge("files one after the other", True)

main()
"""

WANTED = 11


def lower_limit():
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))


def attack(skep, engine, volume):
    command = [skep, f"--platform={engine}", "--workers=2", "do",
               "--volume", f"{volume}:/vol", "--",
               "/usr/bin/python3", "-c", GUEST, str(FILES)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False,
                         stdin=subprocess.DEVNULL, preexec_fn=lower_limit)
    lines = run.stdout.splitlines()
    held = [line for line in lines if line.startswith("ok ")]
    print(f"-- {engine}: exit {run.returncode}\n{run.stdout}{run.stderr}")
    return run.returncode == 0 and len(held) == len(lines) == WANTED


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    parser.add_argument("--engine", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skep-files.") as volume:
        os.chmod(volume, 0o755)
        for i in range(FILES):
            with open(os.path.join(volume, f"f{i}"), "w", encoding="ascii") as file:
                file.write("x")
        if not attack(options.skep, options.engine, volume):
            sys.exit("FAILED")


if __name__ == "__main__":
    main()
