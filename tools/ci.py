#!/usr/bin/env python3
"""Runs the parts of tools/ci.txt: what CI does, and `tools/dev ci`.

usage: tools/ci.py [--all] [--list] [--number N] [PART ...]

Without PART, every part that this commit's run has. A part that fails does not keep the others
from running, except where nothing could follow (NEEDED). The end lists each part with its time and
result.
--all runs every slice, and the parts that are too long for a run.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NEEDED = ("setup", "configure", "build")  # without these the rest would only fail too


@dataclasses.dataclass
class Part:
    name: str
    minutes: float
    when: str  # each, beside, wait, slice, all
    slices: int
    command: str


@dataclasses.dataclass
class Outcome:
    name: str
    seconds: float
    code: int


def parse(text):
    """The parts of a table; ValueError names the line that is wrong."""
    parts = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = [word.strip() for word in line.split("|", 3)]
        if len(words) != 4:
            raise ValueError(f"line {number}: want NAME | MINUTES | WHEN | COMMAND")
        name, minutes, when, command = words
        slices = 1
        if when.startswith("slice/"):
            when, slices = "slice", int(when.removeprefix("slice/"))
        if when not in ("each", "beside", "wait", "slice", "all") or slices < 1:
            raise ValueError(f"line {number}: unknown WHEN '{words[2]}'")
        if when == "wait":
            if not any(part.name == name and part.when == "beside" for part in parts):
                raise ValueError(f"line {number}: nothing runs beside that is called '{name}'")
        elif not command:
            raise ValueError(f"line {number}: '{name}' has no command")
        parts.append(Part(name, float(minutes), when, slices, command))
    return parts


def jobs_of(part, number, everything):
    """What of a part is run: (title, environment), none if it is left out."""
    if part.when == "slice":
        chosen = range(part.slices) if everything else [number % part.slices]
        return [(f"{part.name} (slice {slice_ + 1} of {part.slices})",
                 {"SLICE": str(slice_), "SLICES": str(part.slices)}) for slice_ in chosen]
    if part.when == "all" and not everything:
        return []
    return [(part.name, {})]


class Runner:
    """Runs parts, some in the background, and remembers how they ended."""

    def __init__(self, out=sys.stdout):
        self.out = out
        self.outcomes = []
        self.beside = {}  # name -> (title, process, its output, when it began)

    def say(self, text):
        print(text, file=self.out, flush=True)

    def run(self, title, command, environment):
        self.say(f"\n== ci: {title}: {command}")
        start = time.monotonic()
        code = subprocess.run(["bash", "-c", command], cwd=TOP, check=False,
                              env={**os.environ, **environment}).returncode
        self.end(title, time.monotonic() - start, code)
        return code

    def start(self, title, command, name):
        self.say(f"\n== ci: {title} (in the background): {command}")
        output = tempfile.TemporaryFile("w+", errors="replace")
        process = subprocess.Popen(["bash", "-c", command], cwd=TOP, stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=subprocess.STDOUT)
        self.beside[name] = (title, process, output, time.monotonic())

    def wait(self, name):
        title, process, output, start = self.beside.pop(name)
        code = process.wait()
        output.seek(0)
        self.say(f"\n== ci: {title} said:\n{output.read()}")
        self.end(title, time.monotonic() - start, code)

    def end(self, title, seconds, code):
        self.outcomes.append(Outcome(title, seconds, code))
        if code != 0:
            self.say(f"== ci: {title} FAILED with {code}")


def run_parts(parts, number, everything, runner):
    for part in parts:
        if part.when == "wait":
            if part.name in runner.beside:
                runner.wait(part.name)
            continue
        for title, environment in jobs_of(part, number, everything):
            if part.when == "beside":
                runner.start(title, part.command, part.name)
            elif runner.run(title, part.command, environment) != 0 and part.name in NEEDED:
                for name in list(runner.beside):
                    runner.wait(name)
                return
    for name in list(runner.beside):
        runner.wait(name)


def commit_number():
    count = subprocess.run(["git", "rev-list", "--count", "HEAD"], cwd=TOP, capture_output=True,
                           text=True, check=False)
    return int(count.stdout) if count.returncode == 0 else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--list", action="store_true", help="print the table's parts and exit")
    parser.add_argument("--number", type=int, help="choose slices as for this commit number")
    parser.add_argument("parts", nargs="*", metavar="PART")
    options = parser.parse_args()
    with open(os.path.join(TOP, "tools/ci.txt"), encoding="utf-8") as file:
        try:
            parts = parse(file.read())
        except ValueError as error:
            sys.exit(f"tools/ci.txt: {error}")
    unknown = set(options.parts) - {part.name for part in parts}
    if unknown:
        sys.exit(f"ci: no part '{sorted(unknown)[0]}' in tools/ci.txt")
    number = commit_number() if options.number is None else options.number
    if options.list:
        for part in parts:
            for title, _ in jobs_of(part, number, options.all):
                print(f"{part.minutes:5.1f} min  {title}")
        return 0
    chosen = [part for part in parts if not options.parts or part.name in options.parts]
    start = time.monotonic()
    runner = Runner()
    runner.say(f"== ci: commit number {number}")
    run_parts(chosen, number, options.all, runner)
    runner.say("\n== ci: parts and their times")
    failed = [outcome for outcome in runner.outcomes if outcome.code != 0]
    for outcome in runner.outcomes:
        word = "ok" if outcome.code == 0 else f"FAILED ({outcome.code})"
        runner.say(f"{outcome.seconds:7.0f} s  {word:12} {outcome.name}")
    seconds = time.monotonic() - start
    runner.say(f"== ci: {'FAILED' if failed else 'passed'} in {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
