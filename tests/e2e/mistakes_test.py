#!/usr/bin/env python3
"""What skep says of mistakes, its own and its user's.

usage: tests/e2e/mistakes_test.py SKEP [unittest arguments]
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cli_test
from cli_test import TIMEOUT, do, skep


class Mistakes(unittest.TestCase):
    """What skep says of its own errors: once, short, and with the option or the path."""

    def check(self, outcome, code, *parts):
        self.assertEqual(outcome.returncode, code, outcome.stderr)
        for part in parts:
            self.assertIn(part.encode(), outcome.stderr)
        self.assertEqual(outcome.stderr.count(b"\n"), 1, outcome.stderr)
        self.assertLess(len(outcome.stderr), 400)

    def test_exit_codes_of_its_own(self):
        self.check(do("true", flags=["--memory", "much"]), 125, "much")
        self.check(do("true", flags=["--cwd", "/not/there"]), 125, "/not/there")
        self.check(do("/etc/passwd"), 126, "/etc/passwd")
        self.check(do("no-such-command"), 127, "no-such-command: command not found")
        self.check(do("true", flags=["--kill-after", "soon"]), 125, "--kill-after")

    def test_an_empty_value_is_no_default(self):
        for option in ("--rootfs", "--cwd", "--user", "--memory", "--hostname", "--name"):
            self.check(do("true", flags=[option, ""]), 125, option, "empty")
        self.check(skep("--root", "", "list"), 1, "--root", "empty")
        self.check(skep("--root=", "list"), 1, "--root", "empty")

    def test_options_are_named(self):
        self.check(do("true", flags=["--memory", "-5"]), 125, "--memory", "-5")
        self.check(do("true", flags=["-v", "/no/such:/x"]), 125, "--volume", "/no/such")
        self.check(do("true", flags=["--rootfs", "/no/such"]), 125, "--rootfs", "/no/such")

    def test_output_that_cannot_be_written_is_an_error(self):
        for words in (["version"], ["--version"], ["help"], ["help", "syscalls"], ["do", "--help"],
                      ["help", "filters"], ["help", "processes"], ["platforms"], ["list"]):
            with open("/dev/full", "wb") as full:
                outcome = subprocess.run([cli_test.SKEP, *words], stdout=full,
                                         stderr=subprocess.PIPE, timeout=TIMEOUT, check=False)
            self.check(outcome, 1, "standard output", "No space left")

    def test_a_signal_ends_it_while_it_opens_files(self):
        with tempfile.TemporaryDirectory() as directory:
            fifo = f"{directory}/fifo"
            os.mkfifo(fifo)
            os.mkdir(f"{directory}/bundle")
            os.mkfifo(f"{directory}/bundle/config.json")
            for words in (["--strace", fifo, "do", "--", "true"],
                          ["run", "--bundle", f"{directory}/bundle", "box"]):
                command = [cli_test.SKEP, "--root", f"{directory}/state", *words]
                with subprocess.Popen(command) as process:
                    end = time.monotonic() + TIMEOUT
                    while time.monotonic() < end:
                        with open(f"/proc/{process.pid}/wchan", encoding="ascii") as file:
                            if file.read() == "wait_for_partner":
                                break
                        time.sleep(0.01)
                    process.terminate()
                    try:
                        self.assertEqual(process.wait(10), -signal.SIGTERM, words)
                    finally:
                        process.kill()

    def test_a_missing_mount_point_is_named(self):
        with tempfile.TemporaryDirectory() as directory:
            outcome = do("true", flags=["-v", f"{directory}:/proc/no/such"])
            self.check(outcome, 125, directory, "/proc/no/such")

    def test_v_is_a_volume(self):
        with tempfile.TemporaryDirectory() as directory:
            outcome = do("sh", "-c", "echo text > /mnt/file", flags=["-v", f"{directory}:/mnt"])
            self.assertEqual((outcome.returncode, outcome.stdout), (0, b""))
            self.assertEqual(os.listdir(directory), ["file"])

    def test_global_options_stand_before_the_verb(self):
        self.check(skep("do", "--debug", "--", "true"), 125, "before the verb", "--debug")
        self.check(skep("list", "--root", "/tmp"), 1, "before the verb", "--root")

    def test_near_misses(self):
        self.check(skep("do", "--volum", "a:b", "true"), 125, "did you mean --volume?")
        self.check(skep("lst"), 1, "did you mean `skep list`?")
        self.check(skep("help", "exce"), 1, "did you mean `skep help exec`?")
        self.check(skep("--overlay=file", "do", "true"), 1, "memory or none")

    def test_names_and_directories(self):
        self.check(do("true", flags=["--hostname", "x" * 65]), 125, "--hostname", "64")
        with tempfile.TemporaryDirectory() as directory:
            os.mkdir(f"{directory}/gone")
            script = f"cd {directory}/gone && rmdir ../gone && exec {cli_test.SKEP} do -- pwd"
            outcome = subprocess.run(["sh", "-c", script], capture_output=True, timeout=TIMEOUT,
                                     check=False)
            self.assertEqual(outcome.stdout, b"/\n")
            self.assertIn(b"has been removed", outcome.stderr)
            script = ("import os, sys\n"
                      "for _ in range(30): os.mkdir('d' * 200); os.chdir('d' * 200)\n"
                      "os.execv(sys.argv[1], [sys.argv[1], 'do', '--', 'true'])")
            outcome = subprocess.run([sys.executable, "-c", script, cli_test.SKEP], cwd=directory,
                                     capture_output=True, timeout=TIMEOUT, check=False)
            self.check(outcome, 125, "--cwd")

    def test_help_is_one_text(self):
        for verb in ("do", "run", "exec", "list", "kill", "wait", "logs", "delete", "spec"):
            text = skep("help", verb).stdout
            self.assertEqual(text, skep(verb, "--help").stdout)
            self.assertEqual(text.count(b"Usage:"), 1)
        text = skep("help", "do").stdout
        self.assertIn(b"Examples:", text)
        self.assertLess(text.index(b"--volume"), text.index(b"Test modes:"))
        self.assertLess(text.index(b"Test modes:"), text.index(b"--jail-self-test"))
        self.assertEqual(skep("version").stdout, skep("--version").stdout)
        for style in ("man", "bash", "fish"):
            self.assertIn(b"volume", skep("help", "all", "--format", style).stdout)

    def test_completion(self):
        script = (f"source <({cli_test.SKEP} help --format bash); COMP_WORDS=(skep do --vol);"
                  "COMP_CWORD=2; _skep; echo ${COMPREPLY[@]}")
        outcome = subprocess.run(["bash", "-c", script], capture_output=True, timeout=TIMEOUT,
                                 check=False)
        self.assertEqual(outcome.stdout, b"--volume\n")

    def test_debug_logs(self):
        outcome = skep("--debug", "do", "--", "true")
        self.assertIn(b"guests run under", outcome.stderr)

    def test_skep_in_skep(self):
        outcome = do(cli_test.SKEP, "do", "--", "true")
        self.assertEqual(outcome.returncode, 125)
        self.assertIn(b"in skep itself", outcome.stderr)


if __name__ == "__main__":
    cli_test.SKEP = os.path.abspath(sys.argv.pop(1))
    unittest.main()
