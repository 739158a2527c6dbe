#!/usr/bin/env python3
"""Runs clang's thread-safety analysis (syntax only) over the files of compile_commands.json.

usage: tools/thread_safety.py [--jobs N] COMPILE_COMMANDS

Tests and benchmarks are left out: the rules are for what runs in a sentry. A file that passed is
not analysed again until it, a header it includes or its flags change; what passed is kept beside
COMPILE_COMMANDS.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import shlex
import subprocess
import sys

CLANG = "clang++-19"
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LEFT_OUT = (os.path.join(TOP, "tests/"), os.path.join(TOP, "bench/"))
# As a statement, TRY drops the value of the call.
WARNINGS = ["-Wall", "-Wextra", "-Wthread-safety", "-Werror", "-Wno-missing-field-initializers",
            "-Wno-unknown-warning-option", "-Wno-unused-private-field",
            "-Wno-unused-result", "-Wno-unused-value", "-Wno-deprecated-declarations"]


def flags_of(entry):
    """The include paths, definitions and language flags of a g++ command line."""
    words = entry.get("arguments") or shlex.split(entry["command"])
    kept = []
    takes_value = False
    for word in words:
        if word.endswith("cmake_pch.hxx"):  # g++'s precompiled header
            kept.pop()
            takes_value = False
        elif takes_value or word.startswith(("-I", "-D", "-U", "-std=")):
            kept.append(word)
            takes_value = False
        elif word in ("-isystem", "-include", "-idirafter"):
            kept.append(word)
            takes_value = True
    return kept


def digest(command, files):
    state = hashlib.sha256("\0".join(command).encode())
    for name in sorted(files):
        state.update(name.encode())
        with open(name, "rb") as file:
            state.update(hashlib.sha256(file.read()).digest())
    return state.hexdigest()


def analyse(entry, passed):
    """Returns (source, error text or None, what to remember)."""
    source = os.path.join(entry["directory"], entry["file"])
    command = [CLANG, "-fsyntax-only", *flags_of(entry), *WARNINGS, "-MD", "-MF", "-", source]
    known = passed.get(source)
    try:
        if known and digest(command, known["files"]) == known["digest"]:
            return source, None, known
    except OSError:
        pass  # a header is gone: analyse again
    run = subprocess.run(command, cwd=entry["directory"], capture_output=True, text=True)
    if run.returncode != 0:
        return source, run.stderr, None
    words = run.stdout.replace("\\\n", " ").split(":", 1)[-1].split()
    files = [os.path.join(entry["directory"], word) for word in words
             if not word.startswith("/usr/")] or [source]
    return source, None, {"digest": digest(command, files), "files": files}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("database")
    options = parser.parse_args()
    with open(options.database) as file:
        entries = {entry["file"]: entry for entry in json.load(file)
                   if entry["file"].endswith(".cc") and os.path.exists(entry["file"])
                   and not entry["file"].startswith(LEFT_OUT)
                   and not entry["file"].endswith("_test.cc")}
    memory = os.path.join(os.path.dirname(os.path.abspath(options.database)), "thread_safety.json")
    try:
        with open(memory) as file:
            passed = json.load(file)
    except (OSError, ValueError):
        passed = {}
    failures = 0
    remembered = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for source, error, record in pool.map(lambda entry: analyse(entry, passed),
                                              entries.values()):
            if record:
                remembered[source] = record
            if error is not None:
                failures += 1
                sys.stderr.write(error)
    with open(memory, "w") as file:
        json.dump(remembered, file)
    print(f"thread safety: {len(entries)} files, {failures} with errors")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
