#!/usr/bin/env python3
"""A sentry that fails by a fault of its own is reported as what it is.

usage: tests/hostile/crash_test.py --skep FILE
"""

import argparse
import re
import subprocess
import sys

WANTED = {
    "check": r"the sandbox's kernel failed: skep: CHECK failed at sentry/boot/\w+\.cc:\d+: kind",
    "stack": r"the sandbox's kernel failed: the stack of a fiber is full: a fault \(SIGSEGV",
    "fault": r"the sandbox's kernel failed: a fault \(SIGSEGV, code 1, address 0x10,",
    "abort": r"the sandbox's kernel failed: abort\(\) was called \(SIGABRT",
    "jail": r"the sandbox's kernel made a system call that its jail forbids",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    options = parser.parse_args()
    for engine in ("notify", "ptrace"):
        for how, wanted in WANTED.items():
            run = subprocess.run([options.skep, f"--platform={engine}", "do", "--crash", how, "--",
                                  "sleep", "20"],
                                 capture_output=True, text=True, timeout=60, check=False)
            if run.returncode != 125 or not re.search(wanted, run.stderr):
                sys.exit(f"FAILED: {how} with {engine}: exit code {run.returncode}\n{run.stderr}")
            if "a test makes the sentry fail" not in run.stderr:
                sys.exit(f"FAILED: {how} with {engine}: no lines of the log\n{run.stderr}")
    print(f"{2 * len(WANTED)} failures were named")


if __name__ == "__main__":
    main()
