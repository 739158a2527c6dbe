#!/usr/bin/env python3
"""Finds rows of the jails' filters that nothing uses.

usage: tests/hostile/filter_use_test.py --skep FILE   (by hand: not yet among the tests)

Programs run in sandboxes that count which row let each host call through (`do --filter-use`). A row
of `skep help filters` that stays at 0 allows what is not needed, or a program is missing here.
Rows that only a rare event of the host needs are named below, each with what it would take.
"""

import argparse
import json
import os
import pathlib
import pty
import struct
import subprocess
import sys
import tempfile

PART = 256  # jail::kCountsOfPart

# Cannot be made to happen here at will.
RARE = {
    "restart_syscall": "a stop of the process in the middle of a host call with a timeout",
    "clock_gettime": "a host whose clock the vDSO cannot tell",
}

# Each a shell script; what it is for is what it uses. They run in a directory of their own.
SCRIPTS = [
    # Processes, pipes, files of the tree and of memory; randomness; clocks.
    "ls -lR /etc > list; wc -l list; cp list copy; mv copy moved; rm moved; ls | sort | head -3",
    "head -c 3000000 /dev/urandom > noise; cat noise | wc -c; "
    "dd if=noise of=n2 conv=fsync status=none",
    "sleep 0.2; date; free; (exit 3); kill -9 $$",
]
PYTHON = [
    "import threading,time\n"
    "t=[threading.Thread(target=lambda: sum(range(300000))) for _ in range(8)]\n"
    "[x.start() for x in t]; [x.join() for x in t]",
]


def run(skep, engine, use, command, **streams):
    words = [skep, f"--platform={engine}", "--workers=2", "do", "--filter-use", use,
             *streams.pop("flags", []), "--", *command]
    return subprocess.run(words, timeout=120, check=False, **streams)


def drive(skep, engine, use, scratch):
    tree = ["--volume", f"{scratch}:/mnt"]
    for script in SCRIPTS:
        run(skep, engine, use, ["sh", "-c", f"cd /mnt && {script}"], flags=tree,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for script in PYTHON:
        run(skep, engine, use, ["python3", "-c", script], flags=tree)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    options = parser.parse_args()
    filters = json.loads(subprocess.run([options.skep, "help", "filters", "--json"], check=True,
                                        capture_output=True, text=True).stdout)
    with tempfile.TemporaryDirectory(prefix="skep-use.") as scratch:
        use = os.path.join(scratch, "use")
        os.mkdir(os.path.join(scratch, "tree"))
        for engine in ("notify", "ptrace"):
            drive(options.skep, engine, use, os.path.join(scratch, "tree"))
        counts = pathlib.Path(use).read_bytes()
    counts = struct.unpack(f"{len(counts) // 8}Q", counts)
    unused = []
    for part, table in enumerate(filters):
        for i, row in enumerate(table["rows"]):
            count = counts[part * PART + i]
            if count == 0 and row["call"] not in RARE:
                unused.append(f"{table['process']}: {row['call']}: {row['why']}")
    rows = sum(len(table["rows"]) for table in filters)
    if unused:
        sys.exit(f"FAILED: {len(unused)} of {rows} rows were not used:\n" + "\n".join(unused))
    print(f"all of {rows} rows were used")


if __name__ == "__main__":
    main()
