#!/usr/bin/env python3
"""The proof of the arena: runs the guest many times, each time checkpointed at a random moment into
a file and resumed from it in a new sentry, and compares its output with the right one.
"""
import argparse
import os
import random
import re
import subprocess
import sys
import tempfile

MAGIC = b"skepimg2"




HIT = re.compile(r"holds the host's 0x([0-9a-f]+)")


class Attempt:
    """One run: checkpointed `after` so many ms, resumed, and judged."""

    def __init__(self, args, folder, after):
        image, log = os.path.join(folder, "image"), os.path.join(folder, "log")
        for path in (image, log):
            if os.path.exists(path):
                os.unlink(path)
        command = [args.skep, "--workers", args.workers, "--debug-log", log, "do",
                   "--checkpoint-after", str(after), "--image", image, "--", args.guest]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60,
                                  stdin=subprocess.DEVNULL, check=False)
            self.right = done.returncode == 0 and done.stdout == "right\n" and done.stderr == ""
            self.what = f"exit {done.returncode}, {done.stdout!r}, {done.stderr!r}"
        except subprocess.TimeoutExpired as late:
            self.right, self.what = False, f"no end within 60 s, {late.stdout!r}, {late.stderr!r}"
        with open(image, "rb") as file:
            self.taken = file.read(len(MAGIC)) == MAGIC
        self.log = ""
        if os.path.exists(log):
            with open(log, encoding="utf-8", errors="replace") as text:
                self.log = text.read()

    def may_be_chance(self):
        """Whether all that was wrong are words that look like addresses below 4 GiB, where libc's
        first heap is: numbers often do. A pointer would be there the next time, too."""
        hits = [int(value, 16) for value in HIT.findall(self.log)]
        return not self.right and bool(hits) and max(hits) < 1 << 32


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--skep", required=True)
    parser.add_argument("--guest", required=True)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(1 << 30)
    chance = random.Random(seed)
    print(f"seed {seed}")
    wrong = resumed = 0
    with tempfile.TemporaryDirectory() as folder:
        for run in range(args.runs):
            after = chance.randrange(0, 550)
            attempt = Attempt(args, folder, after)
            if attempt.may_be_chance():
                print(f"run {run}: a number looked like a pointer; once more")
                attempt = Attempt(args, folder, after)
            resumed += attempt.taken
            if not attempt.right:
                wrong += 1
                print(f"run {run}, checkpoint after {after} ms (taken: {attempt.taken}): "
                      f"{attempt.what}\n{attempt.log[-4000:]}")
    print(f"{args.runs} runs, {resumed} of them resumed from an image, {wrong} wrong")
    # A guest that ended before its moment proves nothing: most must not have.
    return 1 if wrong or resumed < args.runs * 0.8 else 0


if __name__ == "__main__":
    sys.exit(main())
