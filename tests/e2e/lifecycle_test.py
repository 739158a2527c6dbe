#!/usr/bin/env python3
"""Named sandboxes: do --name, run --detach, exec, list, kill, wait, logs and delete.

usage: tests/e2e/lifecycle_test.py SKEP PLATFORM [unittest arguments]
"""

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import threading
import time

from named import TIMEOUT, Named, main


class Lives(Named):
    def test_a_detached_one_from_start_to_delete(self):
        self.detach("echo out; echo err >&2; read x; echo read $?; exit 7")
        run = self.skep("wait", "box")
        self.assertEqual((run.stdout, run.returncode), (b"7\n", 0), run.stderr)
        self.assertEqual(self.skep("logs", "box").stdout, b"out\nerr\nread 1\n")
        entry = self.listed()["box"]
        self.assertEqual((entry["status"], entry["exitCode"]), ("stopped", 7))
        self.assertEqual(self.skep("wait", "box").stdout, b"7\n")  # it is noted
        run = self.skep("exec", "box", "true")
        self.assertEqual(run.returncode, 125)
        self.assertIn(b"does not run", run.stderr)
        self.assertEqual(self.skep("delete", "box").returncode, 0)
        self.assert_nothing_is_left()
        self.assertEqual(self.skep("delete", "box").returncode, 1)
        self.assertEqual(self.skep("delete", "--force", "box").returncode, 0)

    def test_a_status_waits_to_be_fetched(self):
        self.detach("exit 3")
        self.wait_for(lambda: self.listed()["box"]["status"] == "stopped")
        self.assertEqual(self.listed()["box"]["exitCode"], 3)
        self.assertNotEqual(self.listed()["box"]["pid"], 0)  # the sentry knows it
        self.assertEqual(self.skep("wait", "box").stdout, b"3\n")
        self.wait_for(lambda: self.listed()["box"]["pid"] == 0)

    def test_the_name_is_taken(self):
        self.detach("sleep 1000")
        run = self.skep("do", "--name", "box", "--", "true")
        self.assertEqual(run.returncode, 125)
        self.assertIn(b"exists already", run.stderr)
        self.assertEqual(self.listed()["box"]["status"], "running")

    def test_an_attached_one_leaves_nothing(self):
        run = self.skep("do", "--name", "box", "--", "sh", "-c", "echo hello; exit 4")
        self.assertEqual((run.stdout, run.returncode), (b"hello\n", 4))
        self.assert_nothing_is_left()
        run = self.skep("do", "--name", "box", "--", "/no/such/program")
        self.assertEqual(run.returncode, 127)
        self.assert_nothing_is_left()
        run = self.skep("do", "--name", "box", "--detach", "--", "sh", "-c", "exit 0", "-w", "/x")
        self.assertEqual(run.returncode, 0)
        run = self.skep("do", "--detach", "--", "true")
        self.assertEqual(run.returncode, 125)
        self.assertIn(b"--name", run.stderr)

    def test_a_start_that_fails_says_so(self):
        run = self.skep("do", "--name", "box", "--detach", "-w", "/not/there", "--", "true")
        self.assertEqual(run.returncode, 125)
        self.assertIn(b"/not/there", run.stderr)
        self.assert_nothing_is_left()

    def test_kill_and_wait(self):
        self.detach("trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done")
        self.wait_for(lambda: self.skep("logs", "box").stdout == b"up\n")
        self.assertEqual(self.skep("delete", "box").returncode, 1)  # it runs
        self.assertEqual(self.skep("kill", "box", "SIGUSR1").returncode, 0)
        self.assertEqual(self.skep("wait", "box").stdout, b"9\n")
        self.assertEqual(self.skep("kill", "box").returncode, 1)
        self.detach("sleep 1000", name="two")
        self.assertEqual(self.skep("kill", "two").returncode, 0)
        self.assertEqual(self.skep("wait", "two").stdout, b"143\n")
        self.assertEqual(self.skep("kill", "two", "NONSENSE").returncode, 1)

    def test_logs_follow(self):
        self.detach("for i in 1 2 3; do echo line $i; sleep 0.3; done")
        self.assertEqual(self.skep("logs", "--follow", "box").stdout, b"line 1\nline 2\nline 3\n")

    def test_kill_after(self):
        self.detach("trap '' TERM; sleep 1000", "--kill-after", "1s")
        self.assertEqual(self.skep("wait", "box").stdout, b"137\n")

    def test_clients_that_are_killed_harm_nobody(self):
        attached = subprocess.Popen(
            self.words("do", "--name", "box", "--", "sh", "-c",
                       f"echo $$ > {self.top}/never; i=0; while :; do i=$((i+1)); "
                       "echo $i > /tmp/count; sleep 0.05; done"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.wait_for(lambda: self.skep("list", "-q").stdout == b"box\n" and
                      self.listed()["box"]["status"] == "running")
        execs = [subprocess.Popen(self.words("exec", "box", "--", "sleep", "1000"),
                                  stdin=subprocess.DEVNULL) for _ in range(3)]
        waits = [subprocess.Popen(self.words("wait", "box"), stdout=subprocess.DEVNULL)
                 for _ in range(3)]
        self.wait_for(lambda: self.exec("pgrep -c sleep || true").stdout.strip() >= b"3")
        for process in [attached, *execs, *waits]:
            process.kill()
            process.wait()
        before = int(self.exec("cat /tmp/count").stdout)
        time.sleep(0.5)
        self.assertGreater(int(self.exec("cat /tmp/count").stdout), before)
        self.assertEqual(self.listed()["box"]["status"], "running")
        self.assertEqual(self.skep("delete", "--force", "box").returncode, 0)
        self.assert_nothing_is_left()

    def test_a_starter_killed_at_any_time_leaves_what_can_be_deleted(self):
        for delay in (0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3):
            with self.subTest(delay=delay):
                process = subprocess.Popen(
                    self.words("do", "--name", "box", "--memory", "64M", "--", "sleep", "1000"),
                    stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                self.pids.append(process.pid)
                time.sleep(delay)
                process.kill()
                process.wait()
                run = self.skep("delete", "--force", "box")
                self.assertEqual(run.returncode, 0, run.stderr)
                self.assert_nothing_is_left()

    def test_a_broken_state_can_be_deleted(self):
        os.makedirs(f"{self.state}/one")
        os.makedirs(f"{self.state}/two")
        with open(f"{self.state}/two/state.json", "w", encoding="utf-8") as file:
            file.write("{\"id\": ")
        self.assertEqual(self.listed()["two"]["status"], "stopped")
        self.assertEqual(self.skep("delete", "one", "two").returncode, 0)
        self.assertEqual(os.listdir(self.state), [])

    def test_a_status_that_cannot_be_noted_is_told_and_kept(self):
        os.mkdir(self.state)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", self.state], check=True)
        self.addCleanup(subprocess.run, ["umount", self.state], check=True)
        self.addCleanup(self.skep, "delete", "--force", "box")
        self.detach("exit 7")
        self.wait_for(lambda: self.listed()["box"]["status"] == "stopped")
        with open(f"{self.state}/box/fill", "wb", buffering=0) as fill:
            with self.assertRaises(OSError):
                while True:
                    fill.write(bytes(4096))
            for _ in range(2):
                run = self.skep("wait", "box")
                self.assertEqual((run.returncode, run.stdout), (0, b"7\n"), run.stderr)
                self.assertIn(b"No space left", run.stderr)
        os.unlink(f"{self.state}/box/fill")
        run = self.skep("wait", "box")
        self.assertEqual((run.stdout, run.stderr), (b"7\n", b""))

    def test_force_forgives_that_there_is_none_and_nothing_else(self):
        os.chmod(self.top, 0o755)
        os.makedirs(f"{self.state}/box", 0o700)
        os.chmod(self.state, 0o755)
        run = self.skep("delete", "--force", "box", user=65534, group=65534, extra_groups=[])
        self.assertEqual(run.returncode, 1)
        self.assertIn(b"Permission denied", run.stderr)
        run = self.skep("delete", "--force", "other", user=65534, group=65534, extra_groups=[])
        self.assertEqual((run.returncode, run.stderr), (0, b""))
        os.rmdir(f"{self.state}/box")

    def test_a_killed_sentry(self):
        self.detach("sleep 1000")
        os.kill(self.listed()["box"]["pid"], signal.SIGKILL)
        self.wait_for(lambda: self.listed()["box"]["status"] == "stopped")
        run = self.skep("wait", "box")
        self.assertEqual(run.returncode, 1)
        self.assertIn(b"no status", run.stderr)
        self.assertEqual(self.skep("delete", "box").returncode, 0)

    def test_a_sentry_that_hangs(self):
        self.detach("sleep 1000")
        os.kill(self.listed()["box"]["pid"], signal.SIGSTOP)
        self.assertEqual(self.listed()["box"]["status"], "hangs")
        self.assertEqual(self.skep("delete", "box").returncode, 1)
        self.assertEqual(self.skep("delete", "--force", "box").returncode, 0)

    def test_an_ordinary_list(self):
        self.detach("sleep 1000", name="one")
        self.detach("sleep 1000", name="two")
        text = self.skep("list").stdout.decode().splitlines()
        self.assertEqual([line.split()[:2] for line in text],
                         [["ID", "STATUS"], ["one", "running"], ["two", "running"]])


class Execs(Named):
    def setUp(self):
        super().setUp()
        self.detach("export X=1; cd /usr; exec sleep 1000", "-e", "COLOUR=red")

    def test_streams_and_codes(self):
        run = self.exec("cat; echo err >&2; exit 6", stdin=b"through\n")
        self.assertEqual((run.stdout, run.stderr, run.returncode), (b"through\n", b"err\n", 6))
        data = os.urandom(3_000_000)
        self.assertEqual(self.exec("cat", stdin=data).stdout, data)
        self.assertEqual(self.exec("kill -9 $$").returncode, 137)
        log = f"{self.top}/log"
        with open(log, "wb") as file:
            script = "echo a; echo b >&2; echo c"
            subprocess.run(self.words("exec", "box", "--", "sh", "-c", script),
                           stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=TIMEOUT,
                           check=True)
        with open(log, "rb") as file:
            self.assertEqual(file.read(), b"a\nb\nc\n")

    def test_it_is_the_same_sandbox(self):
        self.assertEqual(self.exec("echo shared > /tmp/f").returncode, 0)
        self.assertEqual(self.exec("cat /tmp/f").stdout, b"shared\n")
        self.assertIn(b"sleep\0" + b"1000\0", self.exec("cat /proc/1/cmdline").stdout)

    def test_options(self):
        self.assertEqual(self.exec("echo $COLOUR $SIZE", "--env", "SIZE=9").stdout, b"red 9\n")
        self.assertEqual(self.exec("echo $COLOUR", "-e", "COLOUR=blue").stdout, b"blue\n")
        self.assertEqual(self.exec("pwd", "--cwd", "/etc").stdout, b"/etc\n")
        run = self.exec("id -u; id -g; grep CapEff /proc/self/status", "--user", "12:34")
        self.assertEqual(run.stdout, b"12\n34\nCapEff:\t0000000000000000\n")

    def test_users_by_name(self):
        """As the container's own files have them."""
        self.exec("echo ann:x:1234:77::/:/bin/sh >> /etc/passwd; "
                  "echo staff2:x:88:bob,ann >> /etc/group")
        say = "id -u; id -g; id -G; grep CapEff /proc/self/status"
        none = b"CapEff:\t0000000000000000\n"
        for user, ids in (("ann", b"1234\n77\n77 88\n"), ("1234", b"1234\n77\n77 88\n"),
                          ("ann:staff2", b"1234\n88\n88\n"), ("ann:5", b"1234\n5\n5\n"),
                          ("4321", b"4321\n4321\n4321\n")):
            self.assertEqual(self.exec(say, "--user", user).stdout, ids + none, user)
        run = self.exec(say, "--user", "root")
        self.assertTrue(run.stdout.startswith(b"0\n0\n"), run.stdout)
        self.assertNotIn(none, run.stdout)
        for user in ("bert", "ann:nobodys", "-1", "1:"):
            run = self.exec("true", f"--user={user}")
            self.assertEqual(run.returncode, 125, user)
            self.assertIn(b"--user", run.stderr)

    def test_owners_of_standard_files(self):
        with open(f"{self.top}/file", "w+b") as file:
            os.fchown(file.fileno(), 12 if os.geteuid() == 0 else -1, -1)
            subprocess.run(self.words("exec", "box", "--", "sh", "-c",
                                      "stat -L -c '%u %g' /proc/self/fd/1"),
                           stdin=subprocess.DEVNULL, stdout=file, timeout=TIMEOUT, check=True)
            file.seek(0)
            status = os.fstat(file.fileno())
            self.assertEqual(file.read(), f"{status.st_uid} {status.st_gid}\n".encode())

    def test_errors(self):
        run = self.skep("exec", "box", "--", "no-such-program")
        self.assertEqual(run.returncode, 127)
        self.assertIn(b"no-such-program", run.stderr)
        self.assertEqual(self.skep("exec", "box", "--", "/etc/passwd").returncode, 126)
        run = self.exec("true", "--cwd", "/not/there")
        self.assertEqual(run.returncode, 125)
        self.assertIn(b"/not/there", run.stderr)
        run = self.skep("exec", "other", "true")
        self.assertEqual(run.returncode, 125)
        self.assertIn(b"other", run.stderr)
        self.assertEqual(self.skep("exec", "box").returncode, 125)

    def test_signals_and_the_end_of_the_container(self):
        process = subprocess.Popen(self.words("exec", "box", "--", "sh", "-c",
                                              "trap 'exit 5' TERM; echo up; "
                                              "while :; do sleep 0.05; done"),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"up\n")
        process.terminate()
        self.assertEqual(process.wait(timeout=TIMEOUT), 5)
        process.stdout.close()
        process = subprocess.Popen(self.words("exec", "box", "--", "sleep", "1000"),
                                   stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait_for(lambda: b"sleep" in self.exec("pgrep -fa 'sleep 1000' | tail -n +2").stdout)
        self.skep("kill", "box", "KILL")
        self.assertEqual(process.wait(timeout=TIMEOUT), 137)

    def test_many_at_once(self):
        results = {}
        def one(n):
            results[n] = self.exec(f"sleep 0.1; echo {n}; exit {n}")
        threads = [threading.Thread(target=one, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for n in range(12):
            self.assertEqual((results[n].stdout, results[n].returncode), (f"{n}\n".encode(), n))

    def test_terminal(self):
        pid, master = pty.fork()
        words = self.words("exec", "box", "--", "sh", "-c",
                           "tty; read line; echo got $line; stty size; exit 8")
        if pid == 0:
            os.execv(words[0], words)
        seen = b""
        sent = False
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if not select.select([master], [], [], 0.2)[0]:
                continue
            try:
                chunk = os.read(master, 4096)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
            if not sent and b"/dev/pts/" in seen:
                os.write(master, b"words\n")
                sent = True
        if time.monotonic() >= end:
            os.kill(pid, signal.SIGKILL)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 8, seen)
        self.assertIn(b"got words", seen)
        os.close(master)

    def test_strange_clients_are_turned_away(self):
        for message in (b"hello", b"x" * 100_000, b"skp1" + b"\xff" * 20):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            client.connect(f"{self.state}/box/control.sock")
            client.send(message)
            client.settimeout(10)
            self.assertEqual(client.recv(100), b"")
            client.close()
        idle = []
        for _ in range(200):  # more than it serves at once: those are turned away
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            idle.append(client)
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # its queue is full
                client.connect(f"{self.state}/box/control.sock")
        for client in idle:
            client.close()
        self.assertEqual(self.exec("echo fine").stdout, b"fine\n")


class Bundles(Named):
    def test_run_detached(self):
        bundle = f"{self.top}/bundle"
        os.makedirs(f"{bundle}/rootfs/bin")
        shutil.copy("/bin/busybox", f"{bundle}/rootfs/bin/sh")
        config = {"ociVersion": "1.0.2", "root": {"path": "rootfs"},
                  "process": {"args": ["/bin/sh", "-c",
                                       "echo up; trap 'exit 3' TERM; while :; do sh -c :; done"],
                              "env": ["PATH=/bin"], "cwd": "/"},
                  "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}]}
        with open(f"{bundle}/config.json", "w", encoding="utf-8") as file:
            json.dump(config, file)
        pid_file = f"{self.top}/pid"
        run = self.skep("run", "--detach", "--bundle", bundle, "--pid-file", pid_file, "web")
        self.assertEqual((run.returncode, run.stdout), (0, b""), run.stderr)
        with open(pid_file, encoding="ascii") as file:
            self.assertEqual(int(file.read()), self.listed()["web"]["pid"])
        self.assertEqual(self.listed()["web"]["bundle"], bundle)
        run = self.skep("exec", "web", "--", "sh", "-c", "echo in $0; exit 2")
        self.assertEqual((run.stdout, run.returncode), (b"in sh\n", 2), run.stderr)
        self.wait_for(lambda: self.skep("logs", "web").stdout == b"up\n")
        self.skep("kill", "web")
        self.assertEqual(self.skep("wait", "web").stdout, b"3\n")
        self.assertEqual(self.skep("delete", "web").returncode, 0)


if __name__ == "__main__":
    main()
