#!/usr/bin/env python3
"""A guest tries to leave its root, and a volume, by .., symlinks, renames, magic links and races,
while the host swaps a directory of the volume with a symlink to the outside (root_guest.cc).

usage: tests/hostile/root_test.py --skep FILE --guest FILE
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading

SECRET = "the host's secret\n"


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def plant_links(tree, outside):
    """What a hostile image may bring."""
    for name, target in (("to_secret", os.path.join(outside, "secret")), ("to_outside", outside),
                         ("to_root", "/"), ("up", "../../../../.."), ("loop", "loop")):
        os.symlink(target, os.path.join(tree, name))


class Flipper(threading.Thread):
    """Swaps volume/flip between a directory and a symlink to the outside."""

    def __init__(self, volume, outside):
        super().__init__()
        self.volume, self.outside, self.ended, self.turns = volume, outside, threading.Event(), 0

    def run(self):
        flip, spare = (os.path.join(self.volume, name) for name in ("flip", ".spare"))
        os.mkdir(flip)
        while not self.ended.is_set():
            os.symlink(self.outside, spare)
            os.rename(flip, flip + ".dir")
            os.rename(spare, flip)
            os.rename(flip, spare)
            os.rename(flip + ".dir", flip)
            os.unlink(spare)
            self.turns += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    parser.add_argument("--guest", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skep-root.") as scratch:
        root, volume, outside = (os.path.join(scratch, name) for name in
                                 ("root", "root_volume", "outside"))
        for tree in (root, volume, outside):
            os.mkdir(tree)
        for name in ("proc", "tmp", "volume"):
            os.mkdir(os.path.join(root, name))
        shutil.copy(options.guest, os.path.join(root, "guest"))
        secret = os.path.join(outside, "secret")
        write(secret, SECRET)
        plant_links(root, outside)
        plant_links(volume, outside)
        # The guest must be able to tell: with the secret inside its root it finds it.
        found = subprocess.run([options.skep, "do", "--rootfs", scratch, "--", "/root/guest",
                                secret], capture_output=True, text=True, timeout=120, check=False)
        if found.returncode != 99 or "ESCAPED" not in found.stdout:
            sys.exit(f"FAILED: the guest does not find a secret in its own root\n{found.stdout}"
                     f"{found.stderr}")
        flipper = Flipper(volume, outside)
        flipper.start()
        try:
            run = subprocess.run([options.skep, "do", "--rootfs", root, "--volume",
                                  f"{volume}:/volume", "--", "/guest", secret],
                                 capture_output=True, text=True, timeout=120, check=False)
        finally:
            flipper.ended.set()
            flipper.join()
        with open(secret, encoding="utf-8") as file:
            kept = file.read() == SECRET and os.listdir(outside) == ["secret"]
    tried = re.fullmatch(r"tried (\d+) ways\n", run.stdout)
    if run.returncode != 0 or not tried or not kept:
        sys.exit(f"FAILED: exit code {run.returncode}, outside kept: {kept}\n"
                 f"{run.stdout}{run.stderr}")
    print(f"none of {tried[1]} ways led out, during {flipper.turns} swaps from outside")


if __name__ == "__main__":
    main()
