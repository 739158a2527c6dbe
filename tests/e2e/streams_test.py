#!/usr/bin/env python3
"""`skep do` as a command among others: streams, stops and signals, compared with the same natively.

usage: tests/e2e/streams_test.py SKEP PLATFORM [unittest arguments]
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SKEP = "build/release/skep"
PLATFORM = "auto"
TIMEOUT = 60


def command(script, *flags):
    return [SKEP, f"--platform={PLATFORM}", "do", *flags, "--", "sh", "-c", script]


def shell(words, redirections, cwd):
    """Runs `WORDS REDIRECTIONS` by a shell."""
    return subprocess.run(["bash", "-c", f'"$@" {redirections}', "bash", *words], cwd=cwd,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=TIMEOUT, check=False)


class Descriptions(unittest.TestCase):
    """Descriptors that share an open file description outside share one inside."""

    def compare(self, script, redirections, *, before=b""):
        results = []
        for words in (["sh", "-c", script], command(script)):
            with tempfile.TemporaryDirectory() as directory:
                with open(f"{directory}/log", "wb") as file:
                    file.write(before)
                run = shell(words, redirections, directory)
                with open(f"{directory}/log", "rb") as file:
                    results.append((file.read(), run.stdout, run.stderr, run.returncode))
        self.assertEqual(results[0], results[1])
        return results[0]

    def test_output_and_errors_to_one_file(self):
        script = "for i in 1 2 3; do echo out $i; echo error $i >&2; sh -c 'echo child >&2'; done"
        log, *_ = self.compare(script, "> log 2>&1")
        self.assertEqual(log.count(b"\n"), 9)

    def test_python_s_child_with_errors_to_output(self):
        script = ("python3 -c 'import subprocess, sys; print(1, flush=True); "
                  "subprocess.run([\"sh\", \"-c\", \"echo 2; echo 3 >&2\"], "
                  "stderr=subprocess.STDOUT); print(4, file=sys.stderr)'")
        log, *_ = self.compare(script, "> log 2>&1")
        self.assertEqual(log, b"1\n2\n3\n4\n")

    def test_two_descriptions_of_one_file(self):
        self.compare("echo longer than that; echo short >&2", "> log 2> log")
        self.compare("echo a; echo b >&2; echo c", ">> log 2>> log", before=b"first\n")

    def test_one_file_has_one_inode_number(self):
        script = "stat -L -c %d:%i /proc/self/fd/1 /proc/self/fd/2 | uniq | wc -l"
        for redirections in ("2>&1 > /dev/null 3> log", "> log 2>&1", "> log 2> log"):
            self.compare(script, redirections)
        _, _, errors, code = self.compare("cat", "< log >> log", before=b"text\n")
        self.assertIn(b"input file is output file", errors)
        self.assertEqual(code, 1)

    def test_status_flags_and_position_are_shared(self):
        script = ("import fcntl, os; fcntl.fcntl(1, fcntl.F_SETFL, os.O_APPEND); "
                  "os.write(1, b\"abc\"); "
                  "print(fcntl.fcntl(2, fcntl.F_GETFL) & os.O_APPEND, "
                  "os.lseek(2, 0, os.SEEK_CUR), file=open(0, \"w\", closefd=False))")
        self.compare(f"python3 -c '{script}' 0> answer; cat answer >&2", "> log 2>&1",
                     before=b"old")

    def test_the_shell_s_next_program_goes_on_behind(self):
        with tempfile.TemporaryDirectory() as directory:
            inner = " ".join([SKEP, "do", "--", "sh", "-c", "'echo skep; echo errors >&2'"])
            script = f"(echo first; {inner}; echo last; {inner}; echo end) > log 2>&1"
            subprocess.run(["sh", "-c", script], cwd=directory, check=True, timeout=TIMEOUT)
            with open(f"{directory}/log", encoding="utf-8") as file:
                self.assertEqual(file.read(), "first\nskep\nerrors\nlast\nskep\nerrors\nend\n")

    def test_two_sandboxes_and_one_log(self):
        with tempfile.TemporaryFile() as log:
            script = "for i in 1 2 3 4 5 6 7 8 9; do echo line $i of $0; sleep 0.02; done"
            both = [subprocess.Popen(command(script) + [str(n)], stdout=log, stderr=log)
                    for n in range(2)]
            for process in both:
                self.assertEqual(process.wait(timeout=TIMEOUT), 0)
            log.seek(0)
            self.assertEqual(log.read().count(b"\n"), 18)

    def test_closed_descriptors_are_closed(self):
        self.compare("ls /proc/self/fd > /dev/null; echo text; echo $? >&2", ">&-")
        self.compare("[ -e /proc/$$/fd/0 ]; echo $?; [ -e /proc/$$/fd/2 ]; echo $?", "<&- 2>&-")

    def test_reopened_output_starts_at_its_beginning(self):
        self.compare("echo longer line; echo short > /dev/stdout; echo x >> /dev/stdout", "> log")

    def test_names(self):
        with tempfile.TemporaryDirectory() as directory:
            script = "exec 3>&1; readlink /proc/self/fd/3 >&2"
            run = shell(command(script), "> log", directory)
            self.assertEqual(run.stderr.decode(), f"{directory}/log\n")
            run = shell(command(script), "> /dev/null", directory)
            self.assertEqual(run.stderr, b"/dev/null\n")
            run = shell(command(script), "", directory)
            self.assertRegex(run.stderr, rb"^pipe:\[\d+\]\n$")
            os.makedirs(f"{directory}/root/bin")
            os.makedirs(f"{directory}/shared")
            shutil.copy("/bin/busybox", f"{directory}/root/bin")
            words = [SKEP, "do", "--rootfs", f"{directory}/root", "-v",
                     f"{directory}/shared:/mnt", "--", "/bin/busybox", "sh", "-c",
                     "exec 3>&1; /bin/busybox readlink /proc/self/fd/3 >&2"]
            run = shell(words, "> shared/log", directory)
            self.assertEqual(run.stderr, b"/mnt/log\n")
            run = shell(words, "> log", directory)  # a path that is none of the guest's business
            self.assertRegex(run.stderr, rb"^host:\[\d+\]\n$")


def state(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(") ")[2][0]


class Jobs(unittest.TestCase):
    """Stops and signals from outside."""

    TICKS = "echo up; i=0; while :; do i=$((i+1)); echo $i > count; sleep 0.05; done"

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def start(self, script, *flags, **more):
        process = subprocess.Popen(
            command(script, "-v", f"{self.directory}:/mnt", "-w", "/mnt", *flags),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b"up\n")
        return process

    def count(self):
        with open(f"{self.directory}/count", encoding="utf-8") as file:
            return int(file.read() or 0)

    def wait_for_ticks(self):
        before = self.count() if os.path.exists(f"{self.directory}/count") else 0
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if os.path.exists(f"{self.directory}/count") and self.count() > before + 2:
                return
            time.sleep(0.02)
        self.fail("the guest does not run")

    def check_stop(self, number):
        # A group of its own, with a parent outside: SIGTSTP means nothing to an orphaned one.
        process = self.start(self.TICKS, process_group=0)
        self.wait_for_ticks()
        process.send_signal(number)
        end = time.monotonic() + 10
        while state(process.pid) != "T" and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(state(process.pid), "T")
        time.sleep(0.5)  # it is noticed within a tenth of a second
        stopped_at = self.count()
        time.sleep(0.5)
        self.assertEqual(self.count(), stopped_at)
        process.send_signal(signal.SIGCONT)
        self.wait_for_ticks()
        self.assertNotEqual(state(process.pid), "T")

    def test_sigstop_stops_the_guest(self):
        self.check_stop(signal.SIGSTOP)

    def test_sigtstp_stops_the_guest(self):
        self.check_stop(signal.SIGTSTP)

    def test_a_guest_may_handle_sigtstp(self):
        # No child: it would be stopped, and the shell would wait for it before it runs the trap.
        process = self.start("trap 'echo caught' TSTP; echo up; while :; do :; done")
        process.send_signal(signal.SIGTSTP)
        self.assertEqual(process.stdout.readline(), b"caught\n")
        self.assertNotEqual(state(process.pid), "T")

    def test_sigterm_ends_the_command(self):
        process = self.start("echo up; sleep 1000")
        process.terminate()
        self.assertEqual(process.wait(timeout=TIMEOUT), 128 + signal.SIGTERM)

    def test_a_guest_that_handles_sigterm_takes_its_time(self):
        process = self.start("trap 'sleep 12; echo bye; exit 5' TERM; echo up; "
                             "while :; do sleep 0.05; done")
        process.terminate()
        self.assertEqual(process.stdout.read(), b"bye\n")
        self.assertEqual(process.wait(timeout=TIMEOUT), 5)

    def test_a_guest_may_ignore_sigterm(self):
        process = self.start("trap '' TERM; echo up; sleep 11; echo still here")
        process.terminate()
        self.assertEqual(process.stdout.read(), b"still here\n")
        self.assertEqual(process.wait(timeout=TIMEOUT), 0)

    def test_a_hung_sentry_is_killed_after_ten_seconds(self):
        process = self.start("echo up; sleep 1000")
        sentry = self.sentry_of(process.pid)
        os.kill(sentry, signal.SIGSTOP)
        start = time.monotonic()
        process.terminate()
        self.assertEqual(process.wait(timeout=TIMEOUT), 128 + signal.SIGKILL)
        self.assertGreater(time.monotonic() - start, 9)
        self.assertLess(time.monotonic() - start, 20)
        self.assertIn(b"has not taken a signal", process.stderr.read())

    def test_kill_after(self):
        for script, hang in (("trap '' TERM; echo up; sleep 1000", False),
                             ("echo up; sleep 1000", True)):
            with self.subTest(hang=hang):
                process = self.start(script, "--kill-after", "1500ms")
                start = time.monotonic()
                if hang:
                    os.kill(self.sentry_of(process.pid), signal.SIGSTOP)
                else:
                    process.terminate()
                self.assertEqual(process.wait(timeout=TIMEOUT), 128 + signal.SIGKILL)
                self.assertLess(time.monotonic() - start, 8)
                self.assertIn(b"--kill-after", process.stderr.read())
        run = subprocess.run(command("echo done; exit 4", "--kill-after", "1h"),
                             stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT,
                             check=False)
        self.assertEqual((run.stdout, run.returncode), (b"done\n", 4))

    def sentry_of(self, cli):
        with open(f"/proc/{cli}/task/{cli}/children", encoding="utf-8") as file:
            for pid in file.read().split():
                with open(f"/proc/{pid}/cmdline", "rb") as words:
                    if b"boot" in words.read().split(b"\0"):
                        return int(pid)
        self.fail("no sentry")


class Specs(unittest.TestCase):
    def test_no_spec_is_left_on_a_full_disk(self):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with tempfile.TemporaryDirectory() as directory:
            run = subprocess.run([SKEP, "spec", "-b", directory], preexec_fn=limit,
                                 capture_output=True, timeout=TIMEOUT, check=False)
            self.assertEqual(run.returncode, 1)
            self.assertIn(b"config.json", run.stderr)
            self.assertEqual(os.listdir(directory), [])


if __name__ == "__main__":
    SKEP, PLATFORM = os.path.abspath(sys.argv.pop(1)), sys.argv.pop(1)
    unittest.main()
