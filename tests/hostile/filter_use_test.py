#!/usr/bin/env python3
"""Fails on rows of the jails' filters that no test uses.

usage: tests/hostile/filter_use_test.py --skep FILE --build DIR [--select REGEX]

Runs tests of DIR again, those whose names match, with sandboxes that count which row let each host
call through (`skep --filter-use`). A row of `skep help filters` that stays at 0 allows what nobody
needs, or a test is missing. Rows that only a rare event of the host needs are named below, each
with what it would take. Whether the tests pass is not looked at here: ctest does that.
"""

import argparse
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import time

PART = 256  # jail::kCountsOfPart
SELECT = (r"^(conformance\..*\.(notify|ptrace)\.w2|hostile\.(gofer|descriptors|crash|root|roles).*"
          r"|e2e\.(lifecycle|streams|terminal|cli|checkpoint).*|oci\.run)$")

# Cannot be made to happen here at will: a pattern of a row's name, and what it would take.
RARE = {
    r".*: restart_syscall: .*": "a stop of the process in the middle of a host call with a timeout",
    r".*: clock_gettime: .*": "a host whose clock the vDSO cannot tell",
}


def tests_of(build, select):
    """(name, command, properties) of each."""
    listed = json.loads(subprocess.run(
        ["ctest", "--test-dir", build, "--show-only=json-v1", "-R", select], check=True,
        capture_output=True, text=True).stdout)
    return [(test["name"], test["command"],
             {entry["name"]: entry["value"] for entry in test.get("properties", [])})
            for test in listed["tests"]]


def run_counted(test, skep, wrapper):
    name, command, properties = test
    counted = [wrapper if word == skep else word for word in command]
    if counted == command:
        return f"{name} has no sandbox"
    environment = dict(os.environ)
    for entry in properties.get("ENVIRONMENT", []):
        key, _, value = entry.partition("=")
        environment[key] = value
    start = time.monotonic()
    try:
        outcome = subprocess.run(counted, cwd=properties.get("WORKING_DIRECTORY"), env=environment,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, timeout=150, check=False).returncode
    except subprocess.TimeoutExpired:
        outcome = "timeout"
    return f"{name}: {outcome} in {time.monotonic() - start:.1f} s"


def unused_rows(skep, counts):
    filters = json.loads(subprocess.run([skep, "help", "filters", "--json"], check=True,
                                        capture_output=True, text=True).stdout)
    unused = []
    rows = 0
    for part, table in enumerate(filters):
        for i, row in enumerate(table["rows"]):
            rows += 1
            if counts[part * PART + i] == 0:
                unused.append(f"{table['process']}: {row['call']}: {row['why']}")
    return rows, unused


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    parser.add_argument("--build", required=True)
    parser.add_argument("--select", default=SELECT)
    options = parser.parse_args()
    tests = tests_of(options.build, options.select)
    if not tests:
        sys.exit("FAILED: no test matches")
    with tempfile.TemporaryDirectory(prefix="skep-use.") as scratch:
        os.chmod(scratch, 0o755)  # some tests are another user
        use, wrapper = pathlib.Path(scratch, "use"), pathlib.Path(scratch, "skep")
        use.touch()
        use.chmod(0o666)
        wrapper.write_text(f'#!/bin/sh\nexec {options.skep} --filter-use={use} "$@"\n',
                           encoding="utf-8")
        wrapper.chmod(0o755)
        for test in tests:
            print(run_counted(test, options.skep, str(wrapper)), flush=True)
        data = use.read_bytes()
    counts = struct.unpack(f"{len(data) // 8}Q", data)
    if sum(counts) == 0:
        sys.exit("FAILED: nothing was counted")
    rows, unused = unused_rows(options.skep, counts)
    missed = [row for row in unused if not any(re.fullmatch(rare, row) for rare in RARE)]
    if missed:
        sys.exit(f"FAILED: {len(missed)} of {rows} rows were not used:\n" + "\n".join(missed))
    print(f"{rows - len(unused)} of {rows} rows were used, {len(unused)} are for rare events")


if __name__ == "__main__":
    main()
