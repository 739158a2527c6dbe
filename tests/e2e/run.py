#!/usr/bin/env python3
"""Runs real programs natively and in the sandbox, and compares what they print and how they end.

usage: tests/e2e/run.py [--root host|debian] [--skep FILE] [--flags "..."] [AREA|AREA.CASE ...]

An area is a file cases/AREA.sh. In it, each case starts with a line
    ### NAME [shell=bash] [timeout=SECONDS] [stdin=TEXT]
and is a script that must be deterministic; it starts in an empty directory. The native run is the
oracle: where the kernel lets us, it sees the same root under an overlay of its own and its own pid
namespace, so that it leaves nothing behind either.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
# In a mount and pid namespace of its own: an overlay over root $1, then the command in it.
ISOLATED = r"""
set -e
root=$1; scratch=$2; shift 2
mount -t tmpfs none "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
layers=lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work
mount -t overlay none -o "$layers" "$scratch/root"
mount -t proc none "$scratch/root/proc"
mount --rbind /sys "$scratch/root/sys"
mount --rbind /dev "$scratch/root/dev"
mount -t tmpfs none "$scratch/root/tmp"
exec chroot "$scratch/root" "$@"
"""


class Case:
    def __init__(self, area, heading, body):
        words = shlex.split(heading)
        options = dict(word.split("=", 1) for word in words[1:])
        self.name = f"{area}.{words[0]}"
        self.shell = options.pop("shell", "bash")
        self.timeout = int(options.pop("timeout", 60))
        self.stdin = options.pop("stdin", "")
        if options:
            raise ValueError(f"{self.name}: unknown option {options}")
        directory = f"/tmp/skep-e2e-{os.getpid()}-{words[0]}"
        self.directory = directory
        self.command = [*shlex.split(self.shell), "-c",
                        f"mkdir -p {directory} && cd {directory} || exit 99\n{body}"]


class Outcome:
    def __init__(self, stdout, stderr, code, seconds):
        self.stdout, self.stderr, self.code, self.seconds = stdout, stderr, code, seconds

    def matches(self, other):
        return self.stdout == other.stdout and self.code == other.code


def load(area):
    with open(os.path.join(HERE, "cases", area + ".sh"), encoding="utf-8") as file:
        parts = re.split(r"^### (.*)\n", file.read(), flags=re.M)
    return [Case(area, parts[i], parts[i + 1]) for i in range(1, len(parts), 2)]


def environment():
    return {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/tmp",
            "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", "TERM": "dumb",
            "USER": "root", "COLUMNS": "80",
            "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.com",
            "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.com",
            "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
            "GIT_CONFIG_NOSYSTEM": "1"}


def run(command, case):
    """Runs it in a session of its own; on a timeout the whole session is killed."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=environment(), cwd="/",
                               start_new_session=True)
    try:
        stdout, stderr = process.communicate(case.stdin.encode(), timeout=case.timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        code = f"timeout after {case.timeout} s"
    if isinstance(code, int) and code < 0:
        code = 128 - code
    return Outcome(stdout.decode(errors="backslashreplace"),
                   stderr.decode(errors="backslashreplace"), code, time.monotonic() - start)


class Native:
    """The oracle."""

    def __init__(self, root):
        self.root = root
        with tempfile.TemporaryDirectory(prefix="skep-e2e-") as scratch:
            probe = run(self.wrap(["true"], scratch), Case("probe", "true", ""))
        self.isolated = probe.code == 0
        if not self.isolated and root != "/":
            raise SystemExit("e2e: cannot make a mount namespace for the native run: "
                             + probe.stderr.strip())

    def wrap(self, command, scratch):
        flags = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", *flags, "--mount", "--pid", "--fork", "--kill-child", "--propagation",
                "private", "sh", "-c", ISOLATED, "sh", self.root, scratch, *command]

    def run(self, case):
        if self.isolated:
            with tempfile.TemporaryDirectory(prefix="skep-e2e-") as scratch:
                return run(self.wrap(case.command, scratch), case)
        try:
            return run(case.command, case)
        finally:
            subprocess.run(["rm", "-rf", case.directory], check=False)


class Sandbox:
    def __init__(self, skep, flags, root):
        self.start = [skep, *flags, "do"]
        if root != "/":
            self.start += ["--rootfs", root]
        for name, value in environment().items():
            self.start += ["--env", f"{name}={value}"]

    def run(self, case):
        outcome = run([*self.start, "--cwd", "/", "--", *case.command], case)
        if os.path.exists(case.directory):
            outcome.stderr += f"\ne2e: the sandbox left {case.directory} on the host\n"
            outcome.code = "changed the host"
        return outcome


def show(name, outcome):
    print(f"  --- {name}: exit code {outcome.code}, {outcome.seconds:.2f} s")
    for kind, text in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
        lines = text.splitlines()
        if lines:
            print(f"  {kind}:")
        for line in lines[:15] + (["..."] if len(lines) > 30 else []) + lines[15:][-15:]:
            print("    " + line[:200])


def expected_failures(root):
    names = {}
    with open(os.path.join(HERE, "expected_failures.txt"), encoding="utf-8") as file:
        for line in file:
            words = line.split(None, 3)
            if not words or line.startswith("#"):
                continue
            if len(words) < 4 or not re.fullmatch(r"#\d+", words[2]):
                raise SystemExit(f"e2e: write ROOT AREA.CASE #ISSUE reason, not: {line}")
            if words[0] in (root, "*"):
                names[words[1]] = words[3].strip()
    return names


def select(wanted):
    every = sorted(name[:-3] for name in os.listdir(os.path.join(HERE, "cases"))
                   if name.endswith(".sh"))
    cases = []
    for word in wanted or every:
        area, _, name = word.partition(".")
        found = [case for case in load(area) if not name or case.name == word]
        if not found:
            raise SystemExit(f"e2e: no case {word}")
        cases += found
    return cases


def debian_root():
    made = subprocess.run([os.path.join(TOP, "tools/rootfs.sh")], stdout=subprocess.PIPE, text=True,
                          check=True)
    return made.stdout.strip()


def judge(case, native, sandbox, expected, verbose):
    """Prints the case's line; returns whether it is as it should be."""
    oracle = native.run(case)
    if oracle.code != 0:
        print(f"FAIL {case.name}: it does not pass natively")
        show("native", oracle)
        return False
    if sandbox is None:
        again = native.run(case)
        same = again.matches(oracle)
        print(f"{'ok  ' if same else 'FAIL'} {case.name:34} native {oracle.seconds:6.2f} s")
        if verbose or not same:
            show("native", oracle)
            show("native again", again)
        return same
    outcome = sandbox.run(case)
    good = outcome.matches(oracle)
    times = f"native {oracle.seconds:6.2f} s, sandbox {outcome.seconds:6.2f} s"
    if case.name in expected:
        if good:
            print(f"FAIL {case.name}: passes, but is in expected_failures.txt: remove it")
        else:
            print(f"xfail {case.name}: {expected[case.name]}")
        return not good
    print(f"{'ok  ' if good else 'FAIL'} {case.name:34} {times}")
    if not good:
        show("native", oracle)
        show("sandbox", outcome)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", default=os.path.join(TOP, "build/release/skep"))
    parser.add_argument("--root", choices=("host", "debian"), default="host")
    parser.add_argument("--flags", default=os.environ.get("SKEP_FLAGS", ""),
                        help="global flags of skep, as in --platform=ptrace")
    parser.add_argument("--native-only", action="store_true",
                        help="only check that two native runs agree")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    options.skep = os.path.abspath(options.skep)
    root = "/" if options.root == "host" else debian_root()
    expected = expected_failures(options.root)
    sandbox = None
    if not options.native_only:
        if not os.access(options.skep, os.X_OK):
            raise SystemExit(f"e2e: {options.skep} does not exist: run tools/dev build")
        sandbox = Sandbox(options.skep, shlex.split(options.flags), root)
    native = Native(root)
    cases = select(options.cases)
    failed = [case.name for case in cases
              if not judge(case, native, sandbox, expected, options.verbose)]
    sys.stdout.flush()
    print(f"e2e ({options.root}): {len(cases) - len(failed)} of {len(cases)} as they should be; "
          f"{len(expected)} expected failures listed")
    if failed:
        print("failed: " + " ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
