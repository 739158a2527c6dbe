#!/usr/bin/env python3
"""`skep do` and terminals: a person's keys, job control under a shell, and no terminal at all.

usage: tests/e2e/terminal_test.py SKEP [unittest arguments]
"""

import fcntl
import os
import pty
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


class TerminalTest(unittest.TestCase):
    """A command under a pseudo-terminal, driven as a person would."""

    def start(self, *words, **environment):
        self.seen = b""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.environ.update(environment)
            os.execvp(words[0], words)
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



class Terminal(TerminalTest):
    """skep do sh, as one would use it."""

    def setUp(self):
        self.start(SKEP, "do", "--env", "PS1=ready> ", "--", "sh", "-i")

    def test_commands_and_exit_code(self):
        self.type(b"echo $((6 * 7)) and; tty\n")
        self.expect(rb"42 and\r\n/dev/")
        self.type(b"exit 9\n")
        self.assertEqual(self.wait(), 9)

    def interrupt_sleep(self):
        self.expect(rb"sleep 1000")
        time.sleep(0.5)
        self.type(b"\x03")
        self.expect(rb"ready> ")
        self.type(b"echo code $?\n")
        self.expect(rb"code 130")

    def test_control_c(self):
        self.type(b"sleep 1000\n")
        self.interrupt_sleep()

    def test_control_z(self):
        self.type(b"sleep 1000\n")
        self.expect(rb"sleep 1000")
        time.sleep(0.5)
        self.type(b"\x1a")
        self.expect(rb"ready> ")
        self.type(b"jobs\n")
        self.expect(rb"(Stopped|Suspended)")
        self.type(b"fg\n")
        self.interrupt_sleep()

    def test_control_d(self):
        self.type(b"\x04")
        self.assertEqual(self.wait(), 0)

    def test_window_size(self):
        for rows, columns in ((33, 101), (50, 132)):
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            time.sleep(0.3)
            self.type(b"stty size\n")
            self.expect(rb"\n%d %d\r" % (rows, columns))


class UnderAShell(TerminalTest):
    """skep do as a job of the host's shell."""

    def setUp(self):
        self.start("bash", "--norc", "--noprofile", "-i", PS1="ready> ")

    def do(self, command):
        self.type(f"{SKEP} do -- {command}\n".encode())

    def test_control_z_stops_it_and_fg_goes_on(self):
        script = 'trap "echo on again" CONT; echo be""gun; read line || read line; echo got $line'
        self.do(f"sh -c '{script}'")
        self.expect(rb"begun\r\n")
        self.type(b"\x1a")
        self.expect(rb"Stopped.*ready> ")
        self.type(b"stty -a | grep -o ' icanon'\n")  # the terminal is as it was
        self.expect(rb"[\r\n] icanon\r\n.*ready> ")
        self.type(b"fg\n")
        self.expect(rb"on again\r\n")
        self.type(b"words\n")
        self.expect(rb"got words\r\n.*ready> ")

    def test_control_c_after_a_stop(self):
        self.do("sleep 1000")
        time.sleep(1)
        self.type(b"\x1a")
        self.expect(rb"Stopped.*ready> ")
        self.type(b"fg\n")
        time.sleep(0.5)
        self.type(b"\x03")
        self.expect(rb"ready> ")
        self.type(b"echo code $?\n")
        self.expect(rb"code 130")

    def test_a_stop_of_its_own(self):
        self.do("sh -c 'kill -STOP $$; echo went on'")
        self.expect(rb"Stopped.*ready> ")
        self.type(b"fg\n")
        self.expect(rb"went on\r\n.*ready> ")

    def test_a_background_job_that_reads_is_stopped(self):
        self.type(f"{SKEP} do -- sh -c 'read line; echo got $line' &\n".encode())
        time.sleep(1.5)
        self.type(b"jobs\n")
        self.expect(rb"Stopped.*ready> ")
        self.type(b"fg\n")
        time.sleep(0.5)
        self.type(b"words\n")
        self.expect(rb"got words\r\n.*ready> ")

    def test_a_background_job_of_which_the_input_alone_is_a_terminal(self):
        with tempfile.NamedTemporaryFile() as output:
            script = "read line; echo got $line"
            self.type(f"{SKEP} do -- sh -c '{script}' > {output.name} 2>&1 &\n".encode())
            time.sleep(1.5)
            self.type(b"jobs\n")
            self.expect(rb"Stopped.*ready> ")
            self.type(b"bg\n")  # it stops again, and takes nothing of what is typed
            time.sleep(0.5)
            self.type(b"jobs\n")
            self.expect(rb"Stopped.*ready> ")
            self.type(b"fg\n")
            time.sleep(0.5)
            self.type(b"words\n")
            self.expect(rb"ready> ")
            with open(output.name, encoding="utf-8") as file:
                self.assertEqual(file.read(), "got words\n")

    def test_errors_go_elsewhere(self):
        with tempfile.NamedTemporaryFile() as errors:
            self.do(f"sh -c 'tty; tty 0<&2; ls /not/there' 2> {errors.name}")
            self.expect(rb"/dev/\S+\r\nnot a tty\r\n.*ready> ")
            with open(errors.name, encoding="utf-8") as file:
                self.assertIn("/not/there", file.read())


class NoTerminal(unittest.TestCase):
    """Where nobody would continue a stopped skep."""

    def test_a_stop_that_ends_from_inside(self):
        script = "(sleep 0.3; kill -CONT $$) & kill -STOP $$; echo went on"
        run = subprocess.run([SKEP, "do", "--", "sh", "-c", script], stdin=subprocess.DEVNULL,
                             capture_output=True, timeout=60, check=False, start_new_session=True)
        self.assertEqual((run.returncode, run.stdout), (0, b"went on\n"))


if __name__ == "__main__":
    SKEP = os.path.abspath(sys.argv.pop(1))
    unittest.main()
