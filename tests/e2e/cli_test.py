#!/usr/bin/env python3
"""`skep do` as its user sees it: exit codes, streams, flags, limits, and an unchanged host.

usage: tests/e2e/cli_test.py SKEP [unittest arguments]
"""

import ctypes
import glob
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from named import become_subreaper, children, reap

SKEP = "build/release/skep"
TIMEOUT = 60


def skep(*words, **more):
    """Runs skep WORDS."""
    return subprocess.run([SKEP, *words], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=TIMEOUT, check=False, **more)


def do(*words, flags=(), stdin=b"", **more):
    """Runs skep do FLAGS -- WORDS."""
    return subprocess.run([SKEP, "do", *flags, "--", *words], input=stdin, capture_output=True,
                          timeout=TIMEOUT, check=False, **more)


class ExitCodes(unittest.TestCase):
    def test_the_guest_s_code_is_ours(self):
        for code in (0, 1, 7, 255):
            self.assertEqual(do("sh", "-c", f"exit {code}").returncode, code)

    def test_a_signal_is_128_and_its_number(self):
        for name in ("KILL", "TERM", "SEGV", "ABRT", "HUP"):
            self.assertEqual(do("sh", "-c", f"kill -{name} $$").returncode,
                             128 + getattr(signal, "SIG" + name))

    def test_a_fault_and_an_abort_of_its_own(self):
        for code, number in (("import ctypes; ctypes.string_at(8)", signal.SIGSEGV),
                             ("import os; os.abort()", signal.SIGABRT)):
            self.assertEqual(do("python3", "-c", code).returncode, 128 + number)

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

    def test_hostname(self):
        self.assertEqual(do("hostname", flags=["--hostname", "hive"]).stdout, b"hive\n")

    def test_rootfs_is_written_to_memory_or_with_overlay_none_to_itself(self):
        with tempfile.TemporaryDirectory() as root:
            os.mkdir(f"{root}/bin")
            shutil.copy("/bin/busybox", f"{root}/bin/busybox")
            command = ["/bin/busybox", "sh", "-c", "echo text > /new && pwd"]
            for overlay, left in (("memory", ["bin"]), ("none", ["bin", "new"])):
                outcome = skep("--overlay", overlay, "do", "--rootfs", root, "--", *command)
                self.assertEqual((outcome.stdout, outcome.returncode), (b"/\n", 0), outcome.stderr)
                # Mount points are made where they are missing.
                points = {"dev", "proc", "sys", "tmp"}
                self.assertEqual(sorted(set(os.listdir(root)) - points), left)

    def test_platform(self):
        outcome = skep("--platform", "ptrace", "do", "true")
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        outcome = skep("--platform", "abacus", "do", "true")
        self.assertEqual(outcome.returncode, 1)
        self.assertIn(b"abacus", outcome.stderr)

    def test_logs(self):
        with tempfile.TemporaryDirectory() as directory:
            log = f"{directory}/log"
            for log_format in ("text", "json"):
                outcome = skep("--debug", "--debug-log", log, "--log-format", log_format, "do",
                               "--memory", "64M", "--", "python3", "-c", "bytearray(200 << 20)")
                self.assertEqual(outcome.returncode, 137, outcome.stderr)
                with open(log, encoding="utf-8") as file:
                    lines = file.read().splitlines()
                self.assertTrue(any("memory limit" in line for line in lines), lines)
                if log_format == "json":
                    for line in lines:
                        json.loads(line)
                os.unlink(log)
            outcome = skep("--debug-log", f"{directory}/no/such", "do", "true")
            self.assertIn(b"--debug-log", outcome.stderr)

    def test_root_holds_the_state_of_containers(self):
        with tempfile.TemporaryDirectory() as directory:
            outcome = skep("--root", f"{directory}/state", "run", "--bundle", directory, "box")
            self.assertIn(b"config.json", outcome.stderr)
            file = f"{directory}/file"
            with open(file, "w", encoding="utf-8"):
                pass
            with open(f"{directory}/config.json", "w", encoding="utf-8") as config:
                json.dump({"ociVersion": "1.0.2", "root": {"path": "/"},
                           "process": {"args": ["true"], "cwd": "/"}}, config)
            outcome = skep("--root", file, "run", "--bundle", directory, "box")
            self.assertEqual(outcome.returncode, 1)
            self.assertIn(file.encode(), outcome.stderr)

    def test_version_and_no_verb(self):
        self.assertRegex(skep("--version").stdout, rb"^skep version \d")
        self.assertEqual(skep().returncode, 1)

    def strace(self, *words):
        with tempfile.TemporaryDirectory() as directory:
            log = f"{directory}/log"
            subprocess.run([SKEP, "--strace", log, "do", "--", *words],
                           stdout=subprocess.DEVNULL, timeout=TIMEOUT, check=True)
            with open(log, encoding="utf-8", errors="replace") as file:
                return file.read()

    def test_strace(self):
        text = self.strace("cat", "/etc/hostname")
        self.assertRegex(text, r"openat\(.*/etc/hostname")
        self.assertIn("exit_group(", text)
        first = text.splitlines()[0]
        self.assertRegex(first, r"^\[ +1\] +\d+\.\d{6} execve\(")
        self.assertIn('/cat", ["cat", "/etc/hostname"]', first)
        self.assertIn("PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_", text)

    def test_strace_to_stderr(self):
        outcome = skep("--strace", "-", "do", "--", "echo", "hello")
        self.assertEqual(outcome.stdout, b"hello\n")
        self.assertIn(b'write(1, "hello\\n", 0x6) = 6', outcome.stderr)

    def test_reading_the_clock_makes_no_system_call(self):
        reads = "import time\nfor _ in range(5000): time.monotonic()"
        calls = self.strace("python3", "-c", reads).count("clock_gettime(")
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            if "nonstop_tsc" in file.read():
                self.assertLess(calls, 500)  # those of moments when no worker kept the vDSO fresh
            else:
                self.assertGreaterEqual(calls, 5000)


class Limits(unittest.TestCase):
    """A sandbox at its limits: somebody in it is refused or dies, and it goes on."""

    HOG = "python3 -c 'bytearray(400 << 20)'"

    def check(self, script, out, *flags):
        outcome = do("sh", "-c", script, flags=flags)
        self.assertEqual((outcome.stdout.decode(), outcome.returncode), (out, 0), outcome.stderr)
        return outcome

    def test_memory_kills_a_process_and_not_the_sandbox(self):
        # Twice: what the first one had must have come back.
        again = "python3 -c 'print(len(bytearray(100 << 20)))'"
        self.check(f"{self.HOG}; echo $?; {again}; {self.HOG}; echo $?; {again}; echo alive",
                   "137\n104857600\n137\n104857600\nalive\n", "--memory", "256M")

    def test_a_sibling_goes_on_while_another_dies(self):
        script = ("(for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.1; done) & "
                  f"{self.HOG}; echo $? >&2; wait")
        outcome = self.check(script, "".join(f"{i}\n" for i in range(1, 10)), "--memory", "256M")
        self.assertIn(b"137\n", outcome.stderr)

    def test_memory_that_the_sandbox_s_kernel_fills(self):
        # One system call that takes 290 MB; no instruction of the guest's touches them.
        self.check("dd if=/dev/zero of=/dev/null bs=290000000 count=1 2>/dev/null; echo $?",
                   "137\n", "--memory", "64M")

    def test_other_ways_to_take_memory(self):
        ways = {
            "shared anonymous": "m = mmap.mmap(-1, 400 << 20)",
            "populated": "m = mmap.mmap(-1, 400 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | "
                         "mmap.MAP_POPULATE)",
            "copied on write": "m = bytearray(150 << 20); os.fork()",
        }
        touch = "\nfor i in range(0, len(m), 4096): m[i] = 1\ntime.sleep(1)"
        for name, way in ways.items():
            with self.subTest(way=name):
                code = f"import mmap, os, time\n{way}{touch}"
                outcome = do("sh", "-c", f"python3 -c '{code}'; sleep 1; echo alive",
                             flags=["--memory", "256M"])
                self.assertEqual((outcome.stdout, outcome.returncode), (b"alive\n", 0))
                self.assertIn(b"is killed", outcome.stderr)

    def test_many_at_once(self):
        code = ("import os, time\n"
                "def hog():\n"
                "  data = bytearray(100 << 20)\n"
                "  time.sleep(1)\n"
                "  os._exit(0)\n"
                "pids = [os.fork() or hog() for i in range(8)]\n"
                "codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]\n"
                "print(set(codes) <= {0, -9}, -9 in codes)\n")
        for _ in range(3):
            self.check(f"python3 -c '{code}'; echo alive", "True True\nalive\n",
                       "--memory", "256M")

    def test_the_command_itself(self):
        outcome = do("python3", "-c", "bytearray(400 << 20)", flags=["--memory", "64M"])
        self.assertEqual(outcome.returncode, 137)

    def test_who_is_spared(self):
        # The larger one has asked to be taken last.
        script = ("echo -900 > /proc/self/oom_score_adj; "
                  "python3 -c 'import sys, time; b = bytearray(120 << 20); print(1, flush=True); "
                  "time.sleep(5); print(2)' & sleep 2; echo 0 > /proc/self/oom_score_adj; "
                  f"{self.HOG}; echo $?; wait")
        self.check(script, "1\n137\n2\n", "--memory", "256M")

    def test_memory_is_shown(self):
        total = "grep MemTotal /proc/meminfo | tr -dc 0-9; echo; free -b | awk 'NR==2 {print $2}'"
        self.check(total, f"{256 << 10}\n{256 << 20}\n", "--memory", "256M")

    def test_a_tmpfs_is_full_at_half_of_it(self):
        script = ("dd if=/dev/zero of=/dev/shm/f bs=1M count=400 2>&1 | grep -o 'No space.*';"
                  "stat -c %s /dev/shm/f; rm /dev/shm/f; echo alive")
        self.check(script, f"No space left on device\n{128 << 20}\nalive\n", "--memory", "256M")

    def test_the_overlay_is_full_before_anybody_dies(self):
        script = ("dd if=/dev/zero of=/var/tmp/f bs=1M count=400 2>&1 | grep -o 'No space.*';"
                  "[ $(stat -c %s /var/tmp/f) -gt 200000000 ] && rm /var/tmp/f && "
                  "python3 -c 'print(len(bytearray(150 << 20)))'")
        self.check(script, "No space left on device\n157286400\n", "--memory", "256M")

    def test_pids(self):
        # The bomb goes off, is refused more, and can be cleared away.
        bomb = ("import os, signal, time\n"
                "os.setpgid(0, 0)\n"
                "n = 0\n"
                "while True:\n"
                "  try:\n"
                "    if os.fork() == 0:\n"
                "      while True:\n"
                "        try: os.fork()\n"
                "        except OSError: time.sleep(0.01)\n"
                "    n += 1\n"
                "  except BlockingIOError:\n"
                "    break\n"
                "os.write(1, b'refused\\n')\n"
                "os.killpg(0, signal.SIGKILL)\n")
        self.check(f"python3 -c \"{bomb}\"; echo $?; (sleep 0; echo alive)",
                   "refused\n137\nalive\n", "--pids", "40")

    def start(self, script, *flags):
        process = subprocess.Popen([SKEP, "do", *flags, "--", "sh", "-c", script],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"up\n")
        return process

    def finish(self, process, out):
        text, _ = process.communicate(b"go\n", timeout=TIMEOUT)
        self.assertEqual((text, process.returncode), (out, 0))

    def test_a_stub_that_the_host_kills_is_one_process(self):
        process = self.start("sleep 1000 & echo up; wait $!; echo $?; echo alive")
        stubs = [pid for pid in descendants(process.pid) if read(f"/proc/{pid}/comm") ==
                 "skep-stub\n"]
        os.kill(max(stubs), signal.SIGKILL)  # the one that was made last
        self.finish(process, b"137\nalive\n")

    @unittest.skipUnless(os.access("/sys/fs/cgroup/memory", os.W_OK), "needs a memory controller")
    def test_the_host_s_limit_is_behind_ours(self):
        process = self.start(f"echo up; read line; {self.HOG}; echo $?; echo alive",
                             "--memory", "512M")
        group, = groups_of(process.pid)
        with open(f"{group}/stubs/memory.limit_in_bytes", "w", encoding="ascii") as file:
            file.write("100M")  # lower than the sandbox knows
        self.finish(process, b"137\nalive\n")

    def test_no_group_is_left(self):
        process = subprocess.Popen([SKEP, "do", "--memory", "64M", "--", "sleep", "0.1"])
        self.assertEqual(process.wait(timeout=TIMEOUT), 0)
        self.assertEqual(groups_of(process.pid), [])


def groups_of(cli):
    """Control groups of stubs that the CLI of this pid has made."""
    return glob.glob(f"/sys/fs/cgroup/**/skep-sandbox-{cli}-*", recursive=True)


@unittest.skipUnless(os.geteuid() == 0, "needs root to become an ordinary user")
def may_lift_limits():
    """Whether this process, root, has CAP_SYS_RESOURCE: in some containers it has not."""
    with open("/proc/self/status", encoding="ascii") as status:
        bits = next(line.split()[1] for line in status if line.startswith("CapEff:"))
    return int(bits, 16) >> 24 & 1 == 1


class Users(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        os.chmod(directory.name, 0o755)
        self.binary = f"{directory.name}/skep"
        shutil.copy(SKEP, self.binary)

    def do(self, *words, uid=65534, flags=()):
        return subprocess.run(
            ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", self.binary, "do",
             *flags, "--", *words], stdin=subprocess.DEVNULL, capture_output=True, cwd="/",
            timeout=TIMEOUT, check=False)

    def test_an_ordinary_user(self):
        self.assertEqual(pwd.getpwnam("nobody").pw_uid, 65534)
        outcome = self.do("sh", "-c", "id -u; echo works; exit 5")
        self.assertEqual((outcome.stdout, outcome.returncode), (b"65534\nworks\n", 5),
                         outcome.stderr)

    def test_limits_of_the_caller(self):
        # Who may not lift a hard limit is told, below.
        as_root = () if may_lift_limits() else ("--fsize", "--as", "--data")
        for limit in ("--fsize=65536", "--as=1000000000", "--data=100000000", "--nproc=50"):
            soft = f"{limit}:"  # the sandbox's own files and stubs are not meant
            for uid, given in ((0, limit), (0, soft), (65534, soft)):
                if given == limit and limit.startswith(as_root):
                    continue
                with self.subTest(uid=uid, limit=given):
                    outcome = subprocess.run(
                        ["prlimit", given, "setpriv", f"--reuid={uid}", f"--regid={uid}",
                         "--clear-groups", self.binary, "do", "--", "sh", "-c", "ls / | wc -l"],
                        stdin=subprocess.DEVNULL, capture_output=True, cwd="/", timeout=TIMEOUT,
                        check=False)
                    self.assertEqual(outcome.returncode, 0, outcome.stderr)
        for option, limit in (("-f", "--fsize=65536"), ("-v", "--as=1000000000"),
                              ("-d", "--data=100000000")):
            outcome = subprocess.run(
                ["prlimit", limit, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                 self.binary, "do", "--", "true"],
                stdin=subprocess.DEVNULL, capture_output=True, cwd="/", timeout=TIMEOUT,
                check=False)
            self.assertEqual(outcome.returncode, 125, outcome.stderr)
            self.assertIn(f"(ulimit {option})".encode(), outcome.stderr)

    def test_a_memory_limit_without_a_control_group(self):
        for score in (0, -1000):  # even who is not to be killed may not take more
            script = f"echo {score} > /proc/self/oom_score_adj; ({Limits.HOG}); echo $?"
            outcome = self.do("sh", "-c", script, flags=["--user", "0", "--memory", "128M"])
            self.assertEqual((outcome.stdout, outcome.returncode), (b"137\n", 0), outcome.stderr)
            self.assertIn(b"accounting", outcome.stderr)


class Sandboxes(unittest.TestCase):
    def test_many_at_once(self):
        scripts = [f"sleep 0.3; echo {n}; exit {n}" for n in range(6)]
        running = [subprocess.Popen([SKEP, "do", "--", "sh", "-c", script],
                                    stdout=subprocess.PIPE) for script in scripts]
        for n, process in enumerate(running):
            output, _ = process.communicate(timeout=TIMEOUT)
            self.assertEqual((output, process.returncode), (f"{n}\n".encode(), n))

    def test_nothing_is_left_of_an_ended_cli(self):
        # Before it has started anything, while the sandbox starts, and when it runs.
        for number in (signal.SIGKILL, signal.SIGTERM):
            for delay in (0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.5):
                with self.subTest(signal=number, delay=delay):
                    self.end_one(number, delay)

    def end_one(self, number, delay):
        mounts = read("/proc/self/mountinfo")
        files = set(glob.glob("/tmp/*skep*") + glob.glob("/run/skep/*") + glob.glob("/dev/shm/*"))
        process = subprocess.Popen([SKEP, "do", "--memory", "64M", "--", "sleep", "1000"],
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(delay)
        process.send_signal(number)
        # Killed itself, or told so by its command, which was.
        self.assertIn(process.wait(timeout=TIMEOUT), (-number, 128 + number))
        end = time.monotonic() + 10
        while time.monotonic() < end and children():
            reap()
            time.sleep(0.01)
        self.assertEqual(children(), [])
        self.assertEqual(read("/proc/self/mountinfo"), mounts)
        now = set(glob.glob("/tmp/*skep*") + glob.glob("/run/skep/*") + glob.glob("/dev/shm/*"))
        self.assertEqual(now - files, set())
        self.assertEqual(groups_of(process.pid), [])


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def descendants(process):
    found = children(process)
    return found + [pid for child in found for pid in descendants(child)]


if __name__ == "__main__":
    become_subreaper()
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-") and os.path.exists(sys.argv[1]):
        SKEP = os.path.abspath(sys.argv.pop(1))
    unittest.main()
