#!/usr/bin/env python3
"""Tests of tools/run_tests.py, over a ctest that fails as it is told."""

import os
import subprocess
import sys
import tempfile
import unittest

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_tests.py")

# A ctest whose rounds are lines of the file "plan": the names that fail in that round.
FAKE = """#!/usr/bin/env python3
import os, sys
here = os.path.dirname(os.path.abspath(__file__))
rounds = open(here + "/plan").read().split("\\n")
done = here + "/done"
index = os.path.getsize(done) if os.path.exists(done) else 0
open(done, "a").write("x")
open(here + "/arguments", "a").write(" ".join(sys.argv[1:]) + "\\n")
names = rounds[index].split()
if names == ["broken"]:
    sys.exit(8)
if names:
    folder = here + "/Testing/Temporary"
    os.makedirs(folder, exist_ok=True)
    with open(folder + "/LastTestsFailed.log", "w") as log:
        log.writelines(f"{i}:{name}\\n" for i, name in enumerate(names, 1))
sys.exit(8 if names else 0)
"""


class RunTests(unittest.TestCase):
    def run_plan(self, *rounds, known=""):
        """Runs with these failures; (exit code, output, what was written, arguments of ctest)."""
        with tempfile.TemporaryDirectory() as root:
            def path(name):
                return os.path.join(root, name)
            for name, text in (("ctest", FAKE), ("plan", "\n".join(rounds)), ("known", known)):
                with open(path(name), "w", encoding="utf-8") as file:
                    file.write(text)
            os.chmod(path("ctest"), 0o755)
            done = subprocess.run(
                [sys.executable, PROGRAM, "--ctest", path("ctest"), "--test-dir", root,
                 "--known", path("known"), "--write", path("flaky"), "-L", "unit"],
                capture_output=True, text=True, check=False)
            texts = []
            for name in ("flaky", "arguments"):
                texts.append("")
                if os.path.exists(path(name)):
                    with open(path(name), encoding="utf-8") as file:
                        texts[-1] = file.read()
            return done.returncode, done.stdout + done.stderr, *texts

    def test_all_pass(self):
        code, _, written, arguments = self.run_plan("")
        self.assertEqual((code, written, arguments.count("\n")), (0, "", 1))
        self.assertIn("-L unit", arguments)

    def test_a_test_that_fails_twice_fails_the_run(self):
        code, output, written, _ = self.run_plan("unit.a unit.b", "unit.b",
                                                 known="unit.a  #1  race\n")
        self.assertEqual((code, written), (1, "flaky: unit.a\n"))
        self.assertIn("unit.b failed twice", output)

    def test_an_unlisted_flaky_test_fails_the_run(self):
        code, output, written, arguments = self.run_plan("unit.a", "")
        self.assertEqual((code, written), (1, "flaky: unit.a\n"))
        self.assertIn("unit.a is not in", output)
        self.assertIn(r"-R ^(unit\.a)$", arguments)

    def test_a_listed_flaky_test_is_written_down_and_forgiven(self):
        code, output, written, _ = self.run_plan("unit.a", "", known="# x\n\nunit.a  #12  race\n")
        self.assertEqual((code, written), (0, "flaky: unit.a\n"))
        self.assertIn("flaky: unit.a (#12  race)", output)

    def test_trouble_of_ctest_is_no_second_try(self):
        code, _, written, arguments = self.run_plan("broken")
        self.assertEqual((code, written, arguments.count("\n")), (8, "", 1))

    def test_a_second_try_that_does_not_run_is_a_failure(self):
        self.assertEqual(self.run_plan("unit.a", "broken")[0], 1)

    def test_malformed_list(self):
        code, output, _, arguments = self.run_plan("", known="unit.a race\n")
        self.assertEqual((code, arguments), (1, ""))
        self.assertIn("want 'TEST  #issue  reason'", output)


if __name__ == "__main__":
    unittest.main()
