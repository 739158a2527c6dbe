#!/usr/bin/env python3
"""Several containers in one sandbox, and what is left when processes of sandboxes are killed.

usage: tests/e2e/pods_test.py SKEP PLATFORM [unittest arguments]
"""

import contextlib
import glob
import os
import pty
import shutil
import signal
import subprocess

from named import TIMEOUT, Named, children, ended, main


class Pods(Named):
    """Several containers in one sandbox, each over a root of its own with a gofer of its own."""

    def setUp(self):
        super().setUp()
        for name in ("one", "two"):
            self.make_root(name)
        self.detach_in("one", "echo up; exec sleep 1000", "-e", "COLOUR=red")
        self.detach_in("two", "echo up; exec sleep 1000", "--in", "one")

    def make_root(self, name):
        root = f"{self.top}/{name}"
        os.makedirs(f"{root}/bin")
        os.makedirs(f"{root}/tmp")
        shutil.copy("/bin/busybox", f"{root}/bin/busybox")
        for applet in ("sh", "cat", "echo", "sleep", "hostname", "ps", "kill", "ls", "mount"):
            os.symlink("busybox", f"{root}/bin/{applet}")
        with open(f"{root}/name", "w", encoding="ascii") as file:
            file.write(name + "\n")

    def detach_in(self, name, script, *flags):
        run = self.skep("do", "--name", name, "--detach", "--rootfs", f"{self.top}/{name}",
                        "--hostname", f"host-{name}", "-w", "/", "-e", "PATH=/bin", *flags,
                        "--", "sh", "-c", script)
        self.assertEqual((run.returncode, run.stdout, run.stderr), (0, b"", b""))

    def gofers(self):
        """Pids of the gofers of this test's detached containers, in the order of their start."""
        found = []
        for pid in children():
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                    name, fields = file.read().rsplit(")", 1)
                if name.endswith("(skep-gofer") and fields.split()[0] != "Z":
                    found.append((int(fields.split()[19]), pid))
        return [pid for _, pid in sorted(found)]

    def test_they_do_not_mix(self):
        listed = self.listed()
        self.assertEqual({name: entry["status"] for name, entry in listed.items()},
                         {"one": "running", "two": "running"})
        self.assertEqual(listed["one"]["pid"], listed["two"]["pid"])  # one sentry
        for name in ("one", "two"):
            self.assertEqual(self.exec("cat /name; hostname", name=name).stdout,
                             f"{name}\nhost-{name}\n".encode())
            self.assertEqual(self.skep("logs", name).stdout, b"up\n")
            # Pids: an init each, and nobody of the other.
            ids = self.exec("for d in /proc/[0-9]*; do echo ${d#/proc/}; done; cat /proc/1/comm",
                            name=name).stdout.split()
            self.assertEqual((ids[0], ids[-1]), (b"1", b"sleep"))
            self.assertLess(len(ids), 6)
            self.assertEqual(self.exec("kill -0 -1; echo to all; sleep 0.1", name=name).returncode,
                             0)
        self.assertEqual(self.exec("echo mine > /tmp/f", name="one").returncode, 0)
        self.assertEqual(self.exec("cat /tmp/f", name="two").returncode, 1)
        self.assertEqual(self.exec("echo $COLOUR", name="one").stdout, b"red\n")
        self.assertEqual(self.exec("hostname changed; hostname", name="two").stdout, b"changed\n")
        self.assertEqual(self.exec("hostname", name="one").stdout, b"host-one\n")

    def test_ptys_do_not_mix(self):
        """Each has a devpts of its own, so both have a pts/0."""
        masters = {}
        for name in ("one", "two"):
            pid, masters[name] = pty.fork()
            if pid == 0:
                words = self.words("exec", "--tty", name, "--", "sh", "-c",
                                   "ls /dev/pts; read line; echo got $line; exit 7")
                os.execv(words[0], words)
            masters[name] = (pid, masters[name])
        for name, (pid, master) in masters.items():
            os.write(master, f"{name}\n".encode())
            seen = b""
            with contextlib.suppress(OSError):
                while chunk := os.read(master, 4096):
                    seen += chunk
            os.close(master)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 7, seen)
            self.assertIn(f"got {name}".encode(), seen)
            self.assertIn(b"0", seen.split())
            self.assertNotIn(b"1", seen.split())

    def test_one_ends_and_the_other_goes_on(self):
        self.assertEqual(self.skep("kill", "one", "KILL").returncode, 0)
        self.assertEqual(self.skep("wait", "one").stdout, b"137\n")
        self.assertEqual(self.listed()["one"]["exitCode"], 137)
        self.assertEqual(self.exec("cat /name", name="two").stdout, b"two\n")
        self.wait_for(lambda: len(self.gofers()) == 1)
        self.assertEqual(self.skep("delete", "one").returncode, 0)
        # It was the sandbox's first, and is not needed to reach the other.
        self.assertEqual(self.exec("cat /name", name="two").stdout, b"two\n")
        sentry = self.listed()["two"]["pid"]
        self.detach_in("one", "exit 5", "--in", "two")  # the name is free again
        self.assertEqual(self.skep("wait", "one").stdout, b"5\n")
        self.assertEqual(self.skep("delete", "one").returncode, 0)
        # With the status of the last one the sandbox ends.
        self.skep("kill", "two", "KILL")
        self.assertEqual(self.listed()["two"]["pid"], sentry)
        self.assertEqual(self.skep("wait", "two").stdout, b"137\n")
        self.wait_for(lambda: ended(sentry))
        self.wait_for(lambda: not self.gofers())

    def test_delete_ends_only_its_own(self):
        self.assertEqual(self.skep("delete", "two").returncode, 1)  # it runs
        self.assertEqual(self.skep("delete", "--force", "two").returncode, 0)
        self.assertEqual(list(self.listed()), ["one"])
        self.assertEqual(self.exec("cat /name", name="one").stdout, b"one\n")
        self.assertEqual(self.skep("delete", "--force", "one").returncode, 0)
        self.assert_nothing_is_left()

    def test_a_dead_gofer_ends_its_container_only(self):
        waiting = subprocess.Popen(self.words("wait", "two"), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        gofers = self.gofers()
        self.assertEqual(len(gofers), 2)
        os.kill(gofers[1], signal.SIGKILL)
        out, err = waiting.communicate(timeout=TIMEOUT)
        self.assertEqual(out, b"137\n")
        self.assertIn(b"the gofer, which serves the files of 'two', ended unexpectedly", err)
        self.assertEqual(self.exec("cat /name", name="one").stdout, b"one\n")
        self.assertEqual(self.listed()["two"]["status"], "stopped")
        self.assertEqual(self.skep("delete", "two").returncode, 0)
        self.assertEqual(self.exec("cat /name", name="one").stdout, b"one\n")

    def test_a_start_that_fails_leaves_nothing(self):
        self.make_root("three")
        flags = ("--name", "three", "--detach", "--in", "one", "--rootfs", f"{self.top}/three")
        for command, flag, code in (("/not/there", (), 127), ("sh", ("-w", "/nowhere"), 125)):
            run = self.skep("do", *flags, *flag, "-e", "PATH=/bin", "--", command)
            self.assertEqual(run.returncode, code, run.stderr)
            self.assertEqual(sorted(self.listed()), ["one", "two"])
        with open(f"{self.top}/three/text", "w", encoding="ascii") as file:
            file.write("no program")
        os.chmod(f"{self.top}/three/text", 0o755)
        run = self.skep("do", *flags, "--", "/text")
        self.assertEqual(run.returncode, 126, run.stderr)
        self.assertIn(b"/text", run.stderr)
        self.wait_for(lambda: len(self.gofers()) == 2)
        run = self.skep("do", "--name", "four", "--detach", "--in", "none", "--", "true")
        self.assertEqual(run.returncode, 125)
        self.assertIn(b"none", run.stderr)
        run = self.skep("do", "--name", "four", "--in", "one", "--", "true")
        self.assertEqual(run.returncode, 125)
        self.assertIn(b"--detach", run.stderr)

    def test_many_come_and_go(self):
        self.make_root("three")
        for n in range(40):
            self.detach_in("three", f"exit {n}", "--in", "one")
            self.assertEqual(self.skep("wait", "three").stdout, f"{n}\n".encode())
            self.assertEqual(self.skep("delete", "three").returncode, 0)
        self.wait_for(lambda: len(self.gofers()) == 2)
        fds = os.listdir(f"/proc/{self.listed()['one']['pid']}/fd")
        self.assertLess(len(fds), 60)

    def test_an_attached_starter_goes_when_its_own_has_ended(self):
        process = subprocess.Popen(
            self.words("do", "--name", "first", "--", "sh", "-c", "read x; exit 6"),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.pids.append(process.pid)
        self.wait_for(lambda: self.listed().get("first", {}).get("status") == "running")
        self.make_root("three")
        self.detach_in("three", "exec sleep 1000", "--in", "first")
        process.communicate(b"x\n", timeout=TIMEOUT)
        self.assertEqual(process.returncode, 6)
        self.assertEqual(sorted(self.listed()), ["one", "three", "two"])
        self.assertEqual(self.exec("cat /name", name="three").stdout, b"three\n")


class Killed(Named):
    """Whatever is killed, `delete` leaves no process, no directory and no control group."""

    def process(self, name):
        for pid in children():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="ascii") as file:
                if file.read() == name + "\n" and not ended(pid):
                    return pid
        self.fail(f"no {name} to kill")

    def groups(self):
        return glob.glob(f"/sys/fs/cgroup/**/skep-sandbox-{self.pids[-1]}-*", recursive=True)

    def test_sentry_gofer_and_janitor(self):
        for victims in (("skep-janitor",), ("skep-sentry",), ("skep-gofer",),
                        ("skep-janitor", "skep-sentry"), ("skep-janitor", "skep-gofer"),
                        ("skep-janitor", "skep-gofer", "skep-sentry")):
            with self.subTest(victims=victims):
                self.detach("sleep 1000", "--memory", "64M")
                groups = self.groups()
                if os.geteuid() == 0 and os.path.isdir("/sys/fs/cgroup/memory"):
                    self.assertEqual(len(groups), 1)
                for victim in victims:
                    pid = self.process(victim)
                    os.kill(pid, signal.SIGKILL)
                    self.wait_for(lambda pid=pid: ended(pid))
                run = self.skep("delete", "--force", "box")
                self.assertEqual(run.returncode, 0, run.stderr)
                self.assertEqual([group for group in groups if os.path.exists(group)], [])
                self.assert_nothing_is_left()

    def test_the_status_of_one_whose_gofer_died(self):
        self.detach("sleep 1000")
        os.kill(self.process("skep-gofer"), signal.SIGKILL)
        run = self.skep("wait", "box")
        self.assertEqual(run.stdout, b"137\n")
        self.assertIn(b"gofer", run.stderr)


if __name__ == "__main__":
    main()
