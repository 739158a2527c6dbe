#!/usr/bin/env python3
"""`skep do` as its user sees it: exit codes, streams, flags, the terminal, and an unchanged host.

usage: tests/e2e/cli_test.py SKEP [unittest arguments]
"""

import fcntl
import os
import pty
import pwd
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest

SKEP = "build/release/skep"
TIMEOUT = 60


def do(*words, flags=(), stdin=b"", **more):
    """Runs skep do FLAGS -- WORDS."""
    return subprocess.run([SKEP, "do", *flags, "--", *words], input=stdin, capture_output=True,
                          timeout=TIMEOUT, check=False, **more)


class ExitCodes(unittest.TestCase):
    def test_the_guest_s_code_is_ours(self):
        for code in (0, 1, 7, 255):
            self.assertEqual(do("sh", "-c", f"exit {code}").returncode, code)

    def test_a_signal_is_128_and_its_number(self):
        for name in ("KILL", "TERM", "SEGV"):
            self.assertEqual(do("sh", "-c", f"kill -{name} $$").returncode,
                             128 + getattr(signal, "SIG" + name))

    def test_a_missing_command_is_named(self):
        outcome = do("no-such-command")
        self.assertNotEqual(outcome.returncode, 0)
        self.assertIn(b"no-such-command", outcome.stderr)

    def test_a_missing_root_is_named(self):
        outcome = do("true", flags=["--rootfs", "/no/such/root"])
        self.assertNotEqual(outcome.returncode, 0)
        self.assertIn(b"/no/such/root", outcome.stderr)

    def test_an_unknown_flag_is_refused(self):
        outcome = do("true", flags=["--frobnicate"])
        self.assertNotEqual(outcome.returncode, 0)
        self.assertIn(b"frobnicate", outcome.stderr)

    def test_orphans_end_with_the_command(self):
        start = time.monotonic()
        self.assertEqual(do("sh", "-c", "sleep 1000 > /dev/null 2>&1 & exit 3").returncode, 3)
        self.assertLess(time.monotonic() - start, TIMEOUT)


class Streams(unittest.TestCase):
    def test_bytes_pass_unchanged(self):
        data = os.urandom(3_000_000)
        outcome = do("cat", stdin=data)
        self.assertEqual(len(outcome.stdout), len(data))
        self.assertTrue(outcome.stdout == data)

    def test_output_and_errors_stay_apart(self):
        outcome = do("sh", "-c", "echo out; echo err >&2")
        self.assertEqual((outcome.stdout, outcome.stderr), (b"out\n", b"err\n"))

    def test_a_reader_that_goes_away(self):
        process = subprocess.Popen([SKEP, "do", "--", "yes"], stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.read(4), b"y\ny\n")
        process.stdout.close()
        self.assertNotEqual(process.wait(timeout=TIMEOUT), 0)

    def test_files_as_streams(self):
        with tempfile.TemporaryFile() as file:
            file.write(b"first\n")
            file.seek(0)
            with tempfile.TemporaryFile() as output:
                subprocess.run([SKEP, "do", "--", "sh", "-c", "cat; echo more"], stdin=file,
                               stdout=output, timeout=TIMEOUT, check=True)
                output.seek(0)
                self.assertEqual(output.read(), b"first\nmore\n")


class Flags(unittest.TestCase):
    def test_environment_and_directory(self):
        outcome = do("sh", "-c", "echo $COLOUR; pwd",
                     flags=["--env", "COLOUR=red", "--cwd", "/usr"])
        self.assertEqual(outcome.stdout, b"red\n/usr\n")

    def test_user(self):
        outcome = do("sh", "-c", "id -u; id -g", flags=["--user", "12:34"])
        self.assertEqual(outcome.stdout, b"12\n34\n")

    def test_volumes(self):
        with tempfile.TemporaryDirectory() as shared:
            with open(f"{shared}/in", "w", encoding="utf-8") as file:
                file.write("from the host\n")
            script = "cat /mnt/in; echo from the guest > /mnt/out"
            outcome = do("sh", "-c", script, flags=["--volume", f"{shared}:/mnt"])
            self.assertEqual(outcome.stdout, b"from the host\n")
            with open(f"{shared}/out", encoding="utf-8") as file:
                self.assertEqual(file.read(), "from the guest\n")
            outcome = do("sh", "-c", "cat /mnt/out; echo no > /mnt/out || echo refused",
                         flags=["--volume", f"{shared}:/mnt:ro"])
            self.assertEqual(outcome.stdout, b"from the guest\nrefused\n")

    def test_the_host_s_files_stay(self):
        with tempfile.TemporaryDirectory() as directory:
            with open(f"{directory}/kept", "w", encoding="utf-8") as file:
                file.write("as it was")
            script = f"cd {directory} && echo changed > kept && rm kept && touch new && ls"
            self.assertEqual(do("sh", "-c", script).stdout, b"new\n")
            self.assertEqual(os.listdir(directory), ["kept"])
            with open(f"{directory}/kept", encoding="utf-8") as file:
                self.assertEqual(file.read(), "as it was")

    def test_memory_limit_kills_a_process_and_not_the_sandbox(self):
        script = "python3 -c 'bytearray(400 << 20)'; echo $?; echo the sandbox lives"
        outcome = do("sh", "-c", script, flags=["--memory", "128M"])
        self.assertEqual(outcome.stdout, b"137\nthe sandbox lives\n")

    def test_strace(self):
        with tempfile.TemporaryDirectory() as directory:
            log = f"{directory}/log"
            subprocess.run([SKEP, "--strace", log, "do", "--", "cat", "/etc/hostname"],
                           stdout=subprocess.DEVNULL, timeout=TIMEOUT, check=True)
            with open(log, encoding="utf-8", errors="replace") as file:
                text = file.read()
        self.assertRegex(text, r"openat\(.*/etc/hostname")
        self.assertIn("exit_group(", text)


class Users(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "needs root to become an ordinary user")
    def test_an_ordinary_user(self):
        nobody = pwd.getpwnam("nobody")
        with tempfile.TemporaryDirectory() as directory:
            binary = f"{directory}/skep"
            os.chmod(directory, 0o755)
            subprocess.run(["cp", SKEP, binary], check=True)
            outcome = subprocess.run(
                ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}",
                 "--clear-groups", binary, "do", "--", "sh", "-c", "echo works; exit 5"],
                capture_output=True, cwd="/", timeout=TIMEOUT, check=False)
        self.assertEqual((outcome.stdout, outcome.returncode), (b"works\n", 5), outcome.stderr)


class Terminal(unittest.TestCase):
    """skep do sh under a pseudo-terminal, driven as a person would."""

    def setUp(self):
        self.seen = b""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.environ["PS1"] = "ready> "
            os.execv(SKEP, [SKEP, "do", "--env", "PS1=ready> ", "--", "sh", "-i"])
        self.expect(b"ready> ")

    def tearDown(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)

    def type(self, text):
        os.write(self.master, text)

    def expect(self, pattern):
        """Reads until `pattern` is seen, and forgets what came before its end."""
        end = time.monotonic() + 20
        while True:
            match = re.search(pattern, self.seen, re.S)
            if match:
                self.seen = self.seen[match.end():]
                return match
            left = end - time.monotonic()
            readable, _, _ = select.select([self.master], [], [], max(left, 0))
            if not readable:
                self.fail(f"{pattern!r} did not come; seen: {self.seen[-500:]!r}")
            self.seen += os.read(self.master, 4096)

    def wait(self):
        pid, self.pid = self.pid, 0
        while True:  # the child blocks on a full terminal otherwise
            try:
                if not os.read(self.master, 4096):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def test_commands_and_exit_code(self):
        self.type(b"echo $((6 * 7)) and; tty\n")
        self.expect(rb"42 and\r\n/dev/")
        self.type(b"exit 9\n")
        self.assertEqual(self.wait(), 9)

    def test_control_c(self):
        self.type(b"sleep 1000\n")
        self.expect(rb"sleep 1000")
        time.sleep(0.5)
        self.type(b"\x03")
        self.expect(rb"ready> ")
        self.type(b"echo code $?\n")
        self.expect(rb"code 130")

    def test_control_z(self):
        self.type(b"sleep 1000\n")
        self.expect(rb"sleep 1000")
        time.sleep(0.5)
        self.type(b"\x1a")
        self.expect(rb"ready> ")
        self.type(b"jobs\n")
        self.expect(rb"(Stopped|Suspended)")
        self.type(b"kill %1\n")

    def test_control_d(self):
        self.type(b"\x04")
        self.assertEqual(self.wait(), 0)

    def test_window_size(self):
        for rows, columns in ((33, 101), (50, 132)):
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            time.sleep(0.3)
            self.type(b"stty size\n")
            self.expect(rb"\n%d %d\r" % (rows, columns))


class Sandboxes(unittest.TestCase):
    def test_many_at_once(self):
        scripts = [f"sleep 0.3; echo {n}; exit {n}" for n in range(6)]
        running = [subprocess.Popen([SKEP, "do", "--", "sh", "-c", script],
                                    stdout=subprocess.PIPE) for script in scripts]
        for n, process in enumerate(running):
            output, _ = process.communicate(timeout=TIMEOUT)
            self.assertEqual((output, process.returncode), (f"{n}\n".encode(), n))

    def test_a_killed_cli_leaves_no_process(self):
        marker = f"98765.{os.getpid()}"
        process = subprocess.Popen([SKEP, "do", "--", "sleep", marker], start_new_session=True)
        time.sleep(1.5)
        process.kill()
        process.wait()
        end = time.monotonic() + 10
        while time.monotonic() < end:
            left = subprocess.run(["pgrep", "-s", str(process.pid)], stdout=subprocess.PIPE,
                                  check=False).stdout
            if not left:
                return
            time.sleep(0.1)
        self.fail(f"still running: {left}")


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-") and os.path.exists(sys.argv[1]):
        SKEP = os.path.abspath(sys.argv.pop(1))
    unittest.main()
