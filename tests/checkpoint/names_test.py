#!/usr/bin/env python3
"""What a sandbox needs of the outside is found by its name when it is restored, not by its place.

usage: tests/checkpoint/names_test.py --skep FILE
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

SKEP = "build/release/skep"

# It sleeps while it has files of both volumes open, and one as its working directory.
GUEST = ("exec 3< /x/file 4< /y/file; cd /y; : > /x/ready; "
         "while [ ! -e /x/go ]; do sleep 0.05; done; "
         "cat <&3; cat <&4; cat file; cat /x/file; cat /y/sub/deep; echo new > /y/new; "
         "echo err >&2")
SAYS = b"of x\nof y\nof y\nof x\ndeep y\n"


class Names(unittest.TestCase):
    def setUp(self):
        self.top = tempfile.mkdtemp(prefix="skep-names-")
        self.addCleanup(shutil.rmtree, self.top)
        self.image = f"{self.top}/image"
        for name in ("x", "y"):
            os.makedirs(f"{self.top}/{name}/sub")
            self.write(f"{name}/file", f"of {name}\n")
            self.write(f"{name}/sub/deep", f"deep {name}\n")

    def write(self, name, text=""):
        with open(f"{self.top}/{name}", "w", encoding="ascii") as file:
            file.write(text)

    def volume(self, name, end=""):
        return ("-v", f"{self.top}/{name}:/{name}{end}")

    def run_skep(self, *words, **more):
        more.setdefault("stdin", subprocess.DEVNULL)
        if "stdout" not in more:
            more["capture_output"] = True
        return subprocess.run([SKEP, *words], timeout=60, check=False, **more)

    def checkpoint(self, *words, before=()):
        """Of a guest that has opened its files; a slow machine needs more than one try."""
        for after in (500, 1000, 2000, 5000, 10000):
            run = self.run_skep(*before, "do", *words, "--checkpoint-after", str(after),
                                "--checkpoint-only", "--image", self.image, "--", "sh", "-c", GUEST)
            if b"holds the host's" in run.stderr:  # numbers may look like pointers
                continue
            self.assertEqual((run.returncode, run.stdout, run.stderr), (0, b"", b""))
            if os.path.exists(f"{self.top}/x/ready"):
                break
        self.assertTrue(os.path.exists(f"{self.top}/x/ready"))
        self.write("x/go")

    def restore(self, *words, before=(), **more):
        return self.run_skep(*before, "do", *words, "--from-image", "--image", self.image, "--",
                             "sh", "-c", GUEST, **more)

    def test_volumes_in_another_order(self):
        self.checkpoint(*self.volume("x"), *self.volume("y"))
        run = self.restore(*self.volume("y"), *self.volume("x"))
        self.assertEqual((run.stdout, run.stderr, run.returncode), (SAYS, b"err\n", 0))
        with open(f"{self.top}/y/new", encoding="ascii") as file:
            self.assertEqual(file.read(), "new\n")

    def test_the_same_order(self):
        self.checkpoint(*self.volume("x"), *self.volume("y"))
        run = self.restore(*self.volume("x"), *self.volume("y"))
        self.assertEqual((run.stdout, run.stderr, run.returncode), (SAYS, b"err\n", 0))

    def test_a_tree_that_was_moved(self):
        """Where the host has it is the restorer's matter."""
        self.checkpoint(*self.volume("x"), *self.volume("y"))
        os.rename(f"{self.top}/y", f"{self.top}/elsewhere")
        run = self.restore("-v", f"{self.top}/elsewhere:/y", *self.volume("x"))
        self.assertEqual((run.stdout, run.stderr, run.returncode), (SAYS, b"err\n", 0))

    def refused(self, run, *texts):
        self.assertEqual((run.returncode, run.stdout), (125, b""), run.stderr)
        for text in texts:
            self.assertIn(text, run.stderr)
        self.assertEqual(run.stderr.count(b"\n"), 1)

    def test_what_is_missing_is_named(self):
        self.checkpoint(*self.volume("x"), *self.volume("y"))
        self.refused(self.restore(*self.volume("x")), b"mount /y", b"missing")
        self.refused(self.restore(*self.volume("y")), b"mount /x", b"missing")
        self.write("z")
        self.refused(self.restore(*self.volume("x"), *self.volume("y"),
                                  "-v", f"{self.top}/z:/z"), b"does not know", b"mount /z")
        run = self.restore(*self.volume("x"), *self.volume("y"), stdin=subprocess.DEVNULL,
                           stdout=None, stderr=subprocess.PIPE,
                           preexec_fn=lambda: os.close(1))
        self.assertIn(b"standard output", run.stderr)
        self.assertEqual(run.returncode, 125)
        # Nothing of that has spoilt it.
        run = self.restore(*self.volume("y"), *self.volume("x"))
        self.assertEqual((run.stdout, run.returncode), (SAYS, 0), run.stderr)

    def test_what_has_changed_is_named(self):
        self.checkpoint(*self.volume("x"), *self.volume("y"))
        self.refused(self.restore(*self.volume("x"), *self.volume("y", ":ro")),
                     b"mount /y was writable")
        os.unlink(f"{self.top}/y/file")
        self.refused(self.restore(*self.volume("x"), *self.volume("y")), b"mount /y", b"changed")

    def test_strace_is_a_name_too(self):
        trace = ("--strace", f"{self.top}/trace")
        self.checkpoint(*self.volume("x"), *self.volume("y"), before=trace)
        self.refused(self.restore(*self.volume("x"), *self.volume("y")), b"--strace")
        run = self.restore(*self.volume("y"), *self.volume("x"), before=trace)
        self.assertEqual((run.stdout, run.returncode), (SAYS, 0), run.stderr)

    def test_other_files_are_no_images(self):
        self.write("image", "x" * 10000)
        self.refused(self.restore(*self.volume("x"), *self.volume("y")), b"not the image")
        self.write("image", "skepimg2" + "\x7f" * 10000)
        self.refused(self.restore(*self.volume("x"), *self.volume("y")), b"damaged")
        self.write("image", "skepimg2")
        self.refused(self.restore(*self.volume("x"), *self.volume("y")), b"cut short")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--skep", required=True)
    known, rest = parser.parse_known_args()
    SKEP = os.path.abspath(known.skep)
    unittest.main(argv=[sys.argv[0], *rest])
