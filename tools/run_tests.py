#!/usr/bin/env python3
"""Runs ctest; gives what failed a second try, and writes down what then passed.

usage: tools/run_tests.py [--test-dir DIR] [--new-allowed N] [CTEST ARGUMENT...]

A test that fails and then passes is flaky: it is printed, and written to build/flaky.txt. Flaky
tests that are known are in tests/flaky.txt, each with its issue and a reason; more than N (0) that
are not fail the run. A test that fails twice fails the run.
"""

import argparse
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def read_known(path):
    """NAME -> the rest of its line; exits on a malformed one."""
    known = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = re.fullmatch(r"(\S+)\s+(#\d+\s+\S.*)", line.strip())
            if not match:
                sys.exit(f"{path}:{number}: want 'TEST  #issue  reason'")
            known[match.group(1)] = match.group(2)
    return known


def failed_tests(test_dir):
    """The names in ctest's list of the tests that failed in its last run."""
    path = os.path.join(test_dir, "Testing/Temporary/LastTestsFailed.log")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as lines:
        return [line.strip().split(":", 1)[1] for line in lines if ":" in line]


def run(options, arguments):
    command = [options.ctest, "--test-dir", options.test_dir, "--output-on-failure", *arguments]
    return subprocess.run(command, check=False).returncode


def forget(test_dir):
    """Removes the list of the run before: ctest leaves it alone when nothing fails."""
    path = os.path.join(test_dir, "Testing/Temporary/LastTestsFailed.log")
    if os.path.exists(path):
        os.remove(path)


def second_try(options, failed):
    """Runs these tests again, alone; the names of those that fail once more."""
    print(f"run_tests: {len(failed)} failed; once more: {' '.join(failed)}", flush=True)
    forget(options.test_dir)
    pattern = "^(" + "|".join(re.escape(name) for name in failed) + ")$"
    code = run(options, ["--no-tests=error", "-R", pattern])
    again = failed_tests(options.test_dir)
    return failed if code != 0 and not again else again


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test-dir", default="build/release")
    parser.add_argument("--ctest", default="ctest", help=argparse.SUPPRESS)
    parser.add_argument("--known", default=os.path.join(ROOT, "tests/flaky.txt"))
    parser.add_argument("--write", default=os.path.join(ROOT, "build/flaky.txt"))
    parser.add_argument("--new-allowed", type=int, default=0)
    options, arguments = parser.parse_known_args()
    known = read_known(options.known)
    forget(options.test_dir)
    code = run(options, ["--no-tests=error", *arguments])
    failed = failed_tests(options.test_dir)
    if code == 0:
        return 0
    if not failed:
        return code  # ctest itself: no tests, bad arguments
    again = second_try(options, failed)
    flaky = [name for name in failed if name not in again]
    with open(options.write, "a", encoding="utf-8") as out:
        for name in flaky:
            out.write(f"flaky: {name}\n")
    new = [name for name in flaky if name not in known]
    for name in flaky:
        print(f"flaky: {name}" + (f" ({known[name]})" if name in known else ""))
    for name in new:
        print(f"run_tests: {name} is not in {options.known}: mend it, or list it with its issue")
    for name in again:
        print(f"run_tests: {name} failed twice")
    return 1 if again or len(new) > options.new_allowed else 0


if __name__ == "__main__":
    sys.exit(main())
