#!/usr/bin/env python3
"""Tests of `skep run`, `spec` and `platforms`.

usage: tests/oci/run_test.py --skep FILE [unittest options]
"""
import copy
import fcntl
import glob
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import unittest

import bundle

SKEP = None


class OciTest(unittest.TestCase):
    def setUp(self):
        self.bundle = bundle.Bundle(SKEP)
        self.addCleanup(self.bundle.remove)
        self.config = self.bundle.config

    def assert_ends(self, process, code, out=None):
        text = f"stdout: {process.out!r} stderr: {process.err!r}"
        self.assertEqual(process.returncode, code, text)
        if out is not None:
            self.assertEqual(process.out, out, text)
        self.assertEqual(self.bundle.leftovers(process.pid), [], text)

    def sh(self, script, **kwargs):
        return self.bundle.run("sh", "-c", script, **kwargs)

    def read_state(self, container="box"):
        path = os.path.join(self.bundle.state, container, "state.json")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with open(path, encoding="utf-8") as file:
                    state = json.load(file)
                if state["status"] == "running":
                    return state
            except FileNotFoundError:
                pass
            time.sleep(0.01)
        self.fail("no running container in " + path)


class Process(OciTest):
    def test_output_and_exit_code(self):
        self.assert_ends(self.sh("echo out; echo err >&2; exit 7"), 7, "out\n")

    def test_end_by_signal(self):
        self.assert_ends(self.sh("sh -c 'kill -9 $$'; exit $?"), 137)

    def test_init_is_spared_by_signals_from_inside(self):
        self.assert_ends(self.sh("kill -9 $$; kill -TERM $$; kill -STOP $$; echo spared"), 0,
                         "spared\n")

    def test_init_is_not_spared_by_its_own_faults(self):
        os.makedirs(os.path.join(self.bundle.root, "usr"))
        self.config["mounts"] += [{"destination": "/" + name, "type": "bind", "source": "/" + name,
                                   "options": ["rbind", "ro"]} for name in ("usr", "lib", "lib64")]
        process = self.bundle.run("/usr/bin/python3", "-c", "import ctypes; ctypes.string_at(8)")
        self.assert_ends(process, 139)

    def test_stdin(self):
        self.assert_ends(self.bundle.run("wc", "-c", stdin="four"), 0, "4\n")

    def test_environment_cwd_hostname(self):
        self.config["process"]["env"] += ["GREETING=hello there"]
        self.config["process"]["cwd"] = "/data"
        out = "hello there /data box\n"
        self.assert_ends(self.sh("echo $GREETING $(pwd) $(hostname)"), 0, out)

    def test_user(self):
        self.config["process"]["user"] = {
            "uid": 12, "gid": 34, "additionalGids": [56], "umask": 0o27}
        script = "echo $(id -u) $(id -g) $(id -G) $(umask)"
        self.assert_ends(self.sh(script), 0, "12 34 34 56 0027\n")

    def test_domainname_and_oom_score(self):
        self.config["domainname"] = "hive"
        self.config["process"]["oomScoreAdj"] = 123
        script = "cat /proc/sys/kernel/domainname /proc/self/oom_score_adj"
        self.assert_ends(self.sh(script), 0, "hive\n123\n")

    def test_rlimit(self):
        self.config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 33, "hard": 44}]
        self.assert_ends(self.sh("ulimit -Sn; ulimit -Hn"), 0, "33\n44\n")

    def test_capabilities_and_no_new_privileges(self):
        self.config["process"]["capabilities"] = {
            name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")}
        out = "CapEff:\t0000000000000020\nNoNewPrivs:\t1\n"
        self.assert_ends(self.sh("grep -E 'CapEff|NoNewPrivs' /proc/self/status"), 0, out)

    def test_program_that_is_not_there(self):
        process = self.bundle.run("nonesuch")
        self.assertIn("nonesuch: command not found", process.err)
        self.assert_ends(process, 1, "")

    def test_program_that_cannot_be_executed(self):
        with open(os.path.join(self.bundle.root, "bin/data"), "w", encoding="ascii"):
            pass
        process = self.bundle.run("/bin/data")
        self.assertIn("/bin/data: not an executable file", process.err)
        self.assert_ends(process, 1, "")

    def test_signals_reach_the_guest(self):
        script = "trap 'exit 3' TERM; echo up; while :; do sleep 1; done"
        self.config["process"]["args"] = ["sh", "-c", script]
        process = self.bundle.start()
        self.assertEqual(process.stdout.readline(), "up\n")
        process.send_signal(signal.SIGTERM)
        process.out, process.err = process.communicate(timeout=30)
        self.assert_ends(process, 3)

    def test_terminal(self):
        self.config["process"]["terminal"] = True
        self.config["process"]["args"] = ["sh", "-c", "tty; read line; echo got $line; stty size"]
        command = self.bundle.command()
        pid, master = pty.fork()
        if pid == 0:
            os.execv(command[0], command)
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
        output = b""
        deadline = time.monotonic() + 30
        sent = False
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.2)[0]:
                continue
            try:
                chunk = os.read(master, 4096)
            except OSError:
                break
            output += chunk
            if not sent and output.count(b"\n") >= 1:
                os.write(master, b"words\n")
                sent = True
        _, status = os.waitpid(pid, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), 0, output)
        self.assertIn(b"got words\r\n31 97", output)
        self.assertEqual(self.bundle.leftovers(pid), [])

    def test_terminal_without_one(self):
        self.config["process"]["terminal"] = True
        process = self.sh("true")
        self.assertIn("process.terminal", process.err)
        self.assert_ends(process, 1)


class Files(OciTest):
    def test_writes_stay_in_memory(self):
        self.assert_ends(self.sh("echo x > /data/new && cat /data/new && rm -r /etc"), 0, "x\n")
        self.assertEqual(os.listdir(os.path.join(self.bundle.root, "data")), [])
        self.assertTrue(os.path.isdir(os.path.join(self.bundle.root, "etc")))

    def test_overlay_none_writes_to_the_root(self):
        self.assert_ends(self.sh("echo x > /data/new", flags=["--overlay=none"]), 0)
        with open(os.path.join(self.bundle.root, "data/new"), encoding="ascii") as file:
            self.assertEqual(file.read(), "x\n")

    def test_read_only_root(self):
        self.config["root"]["readonly"] = True
        process = self.sh("echo x > /data/new")
        self.assertIn("Read-only file system", process.err)
        self.assert_ends(process, 1)

    def test_binds(self):
        for name in ("rw", "ro"):
            os.makedirs(os.path.join(self.bundle.top, name))
            with open(os.path.join(self.bundle.top, name, "file"), "w", encoding="ascii") as file:
                file.write(name + "\n")
        with open(os.path.join(self.bundle.root, "etc/one"), "w", encoding="ascii"):
            pass
        self.config["mounts"] += [
            {"destination": "/rw", "type": "bind", "source": "rw", "options": ["rbind"]},
            {"destination": "/ro", "type": "bind", "source": os.path.join(self.bundle.top, "ro"),
             "options": ["rbind", "ro"]},
            {"destination": "/etc/one", "type": "bind", "source": "ro/file",
             "options": ["bind", "ro"]}]
        process = self.sh("cat /rw/file /ro/file /etc/one; echo new > /rw/new; echo new > /ro/new")
        self.assertIn("Read-only file system", process.err)
        self.assert_ends(process, 1, "rw\nro\nro\n")
        with open(os.path.join(self.bundle.top, "rw/new"), encoding="ascii") as file:
            self.assertEqual(file.read(), "new\n")
        self.assertEqual(os.listdir(os.path.join(self.bundle.top, "ro")), ["file"])

    def test_tmpfs(self):
        self.config["mounts"].append({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
                                      "options": ["mode=700", "size=1m", "noexec"]})
        script = ("stat -c %a /data; head -c 2000000 /dev/zero > /data/big; wc -c < /data/big;"
                  "cp /bin/busybox /tmp/b; echo '#!/bin/sh' > /data/s; chmod +x /data/s; /data/s")
        process = self.sh(script)
        self.assertIn("No space left on device", process.err)
        self.assertIn("Permission denied", process.err)
        self.assert_ends(process, 126, "700\n1048576\n")

    def test_a_missing_mount_point_is_made(self):
        for name in ("source/directory", "source/file"):
            os.makedirs(os.path.join(self.bundle.top, name))
        os.rmdir(os.path.join(self.bundle.top, "source/file"))
        with open(os.path.join(self.bundle.top, "source/file"), "w", encoding="ascii") as file:
            file.write("text\n")
        self.config["mounts"] += [
            {"destination": "/new/" + name, "type": "bind", "source": "source/" + name,
             "options": ["bind"]} for name in ("directory", "file")]
        script = "cat /new/file; echo more >> /new/file; [ -d /new/directory ] && echo directory"
        self.assert_ends(self.sh(script), 0, "text\ndirectory\n")
        with open(os.path.join(self.bundle.top, "source/file"), encoding="ascii") as file:
            self.assertEqual(file.read(), "text\nmore\n")
        self.assertFalse(os.path.exists(os.path.join(self.bundle.root, "new")))

    def test_missing_mount_points_of_a_read_only_root_are_made(self):
        self.config["root"]["readonly"] = True
        self.config["mounts"].append({"destination": "/new/place", "type": "tmpfs",
                                      "source": "tmpfs"})
        script = ("echo text > /new/place/file && cat /new/place/file;"
                  "for name in /x /new/x; do touch $name 2> /dev/null || echo read only; done;"
                  "grep -c '^[^ ]* / [^ ]* ro' /proc/mounts")
        self.assert_ends(self.sh(script), 0, "text\nread only\nread only\n1\n")
        self.assertFalse(os.path.exists(os.path.join(self.bundle.root, "new")))

    def test_proc_sysfs_devpts(self):
        script = ("cat /proc/self/comm; ls /sys/devices/system/cpu | grep -c online; ls /dev/pts;"
                  "touch /sys/x 2> /dev/null || echo read only;"
                  "grep -E ' (/proc|/sys|/dev|/dev/pts) ' /proc/mounts | cut -d ' ' -f 2,3")
        self.assert_ends(self.sh(script), 0,
                         "cat\n1\nptmx\nread only\n/proc proc\n/dev tmpfs\n/dev/pts devpts\n"
                         "/sys sysfs\n")

    def test_masked_and_read_only_paths(self):
        os.makedirs(os.path.join(self.bundle.root, "data/secret"))
        for name in ("data/secret/a", "etc/token"):
            with open(os.path.join(self.bundle.root, name), "w", encoding="ascii") as file:
                file.write("hidden\n")
        self.config["linux"]["maskedPaths"] = ["/data/secret", "/etc/token", "/not/there"]
        self.config["linux"]["readonlyPaths"] = ["/etc"]
        process = self.sh("ls /data/secret; cat /etc/token; echo x > /etc/new")
        self.assertIn("Read-only file system", process.err)
        self.assert_ends(process, 1, "")

    def test_devices(self):
        names = "null zero full random urandom tty ptmx"
        script = f"for d in {names}; do [ -c /dev/$d ] || echo no $d; done"
        self.assert_ends(self.sh(script), 0, "")


class Limits(OciTest):
    def test_pids(self):
        self.config["linux"]["resources"] = {"pids": {"limit": 10}}
        bomb = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; wait"
        process = self.sh(f"sh -c '{bomb}'; killall sleep; sleep 0.1; (echo alive)")
        self.assertIn("Resource temporarily unavailable", process.err)
        self.assert_ends(process, 0, "alive\n")

    def test_memory_is_shown_and_shared_out(self):
        self.config["linux"]["resources"] = {"memory": {"limit": 64 << 20}}
        self.config["mounts"].append({"destination": "/data", "type": "tmpfs", "source": "tmpfs"})
        script = ("grep MemTotal /proc/meminfo | tr -dc 0-9; echo;"
                  "dd if=/dev/zero of=/data/f bs=1M 2> /dev/null; wc -c < /data/f")
        self.assert_ends(self.sh(script), 0, f"{64 << 10}\n{32 << 20}\n")

    def test_cgroups_path(self):
        group = f"/skep-test-{os.getpid()}/a"
        self.config["linux"]["cgroupsPath"] = group
        self.config["linux"]["resources"] = {"memory": {"limit": 64 << 20}}
        self.config["process"]["args"] = ["sh", "-c", "echo up; cat"]
        process = self.bundle.start()
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), "up\n")
        procs = glob.glob(f"/sys/fs/cgroup/**{group}/skep-sandbox-*/stubs/cgroup.procs",
                          recursive=True)
        self.assertEqual(len(procs), 1)
        with open(procs[0], encoding="ascii") as file:
            self.assertGreater(len(file.read().split()), 1)  # cat and what stubs are cloned from
        process.out, process.err = process.communicate("x\n", timeout=30)
        self.assert_ends(process, 0, "x\n")
        self.assertEqual(glob.glob(f"/sys/fs/cgroup/**{group}", recursive=True), [])

    def test_two_containers_below_one_group(self):
        parent = f"/skep-test-{os.getpid()}"
        other = bundle.Bundle(SKEP)
        self.addCleanup(other.remove)
        processes = []
        for name, each in (("a", self.bundle), ("b", other)):
            each.config["linux"]["cgroupsPath"] = f"{parent}/{name}"
            each.config["linux"]["resources"] = {"memory": {"limit": 64 << 20}}
            each.config["process"]["args"] = ["sh", "-c", "echo up; cat"]
            processes.append(each.start())
            self.addCleanup(processes[-1].kill)
            self.assertEqual(processes[-1].stdout.readline(), "up\n")
        for process in processes:
            start = time.monotonic()
            self.assertEqual(process.communicate("x\n", timeout=30), ("x\n", ""))
            self.assertEqual(process.returncode, 0)
            self.assertLess(time.monotonic() - start, 3)
        for left in glob.glob(f"/sys/fs/cgroup/**{parent}", recursive=True):
            os.rmdir(left)  # the first one made it when the other was there

    def test_memory_kills_a_process_and_not_the_sandbox(self):
        self.config["linux"]["resources"] = {"memory": {"limit": 64 << 20}}
        script = "dd if=/dev/zero of=/dev/null bs=290000000 count=1 && echo whole; echo alive"
        process = self.sh(script)
        self.assertIn("alive", process.out, process.err)
        self.assertNotIn("whole", process.out)
        self.assert_ends(process, 0)


class Refusals(OciTest):
    def refused(self, field):
        process = self.bundle.run("true")
        self.assertIn(f"config.json: {field}: ", process.err)
        self.assert_ends(process, 1, "")

    def test_hooks(self):
        self.config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
        self.refused("hooks.createRuntime")

    def test_seccomp(self):
        self.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO"}
        self.refused("linux.seccomp")

    def test_what_cannot_be_done_is_refused_by_its_name(self):
        asked = {
            "process.user.username": "root",
            "process.apparmorProfile": "x",
            "process.selinuxLabel": "x",
            "process.scheduler": {"policy": "SCHED_FIFO"},
            "process.ioPriority": {"class": "IOPRIO_CLASS_RT"},
            "linux.uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "linux.mountLabel": "x",
            "linux.intelRdt": {"closID": "x"},
            "linux.personality": {"domain": "LINUX32"},
            "linux.rootfsPropagation": "shared",
            "linux.cgroupsPath": "a:b:c",
            "linux.resources.cpu.quota": 10000,
            "linux.resources.blockIO": {"weight": 10},
            "linux.resources.memory.swap": 1 << 30,
            "linux.resources.unified": {"memory.high": "1"},
            "linux.devices[0].path": [{"path": "/dev/fuse", "type": "c"}],
            "process.rlimits[0].type": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}],
            "hostname": "x" * 65,
            "process.cwd": "relative",
            "process.args": [],
        }
        for field, value in asked.items():
            with self.subTest(field=field):
                self.bundle.config = copy.deepcopy(bundle.CONFIG)
                *parents, last = re.sub(r"\[0\].*", "", field).split(".")
                place = self.bundle.config
                for name in parents:
                    place = place.setdefault(name, {})
                place[last] = value
                process = self.bundle.run()
                self.assertIn(f"config.json: {field}: ", process.err)
                self.assert_ends(process, 1, "")

    def test_all_that_cannot_be_done_is_said_at_once(self):
        self.config["hooks"] = {"prestart": [{"path": "/bin/true"}]}
        self.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO"}
        self.config["linux"]["sysctl"] = {"kernel.domainname": "x",
                                          "net.ipv4.ping_group_range": "0 0"}
        self.config["linux"]["resources"] = {"cpu": {"shares": 512, "cpus": "0"}}
        self.config["linux"]["devices"] = [{"path": "/dev/fuse", "type": "c"},
                                           {"path": "/dev/null", "type": "c"}]
        process = self.bundle.run("true")
        for name in ("hooks.prestart", "linux.seccomp", "linux.sysctl.kernel.domainname",
                     "linux.resources.cpu.shares", "linux.resources.cpu.cpus",
                     "linux.devices[0].path"):
            self.assertIn(f"{name}: ", process.err)
        self.assertNotIn("ping_group_range", process.err)  # there is no network to ping
        self.assertNotIn("devices[1]", process.err)
        self.assertEqual(process.err.count("\n"), 1)
        self.assert_ends(process, 1, "")

    def test_a_config_of_runc_s_own(self):
        """What `runc spec` of 1.1 writes, but for the terminal."""
        none = ["nosuid", "noexec", "nodev"]
        capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
        self.bundle.config = {
            "ociVersion": "1.0.2-dev",
            "process": {
                "terminal": False, "user": {"uid": 0, "gid": 0}, "args": ["sh"],
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                        "TERM=xterm"],
                "cwd": "/",
                "capabilities": {kind: capabilities for kind in
                                 ("bounding", "effective", "permitted", "ambient")},
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
                "noNewPrivileges": True},
            "root": {"path": "rootfs", "readonly": True},
            "hostname": "runc",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
                             "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                 "options": none + ["mode=1777", "size=65536k"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                 "options": none},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                 "options": none + ["ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                 "options": none + ["relatime", "ro"]}],
            "linux": {
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
                "namespaces": [{"type": kind} for kind in
                               ("pid", "network", "ipc", "uts", "mount", "cgroup")],
                "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
                                "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                                "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                  "/proc/sysrq-trigger"]}}
        log = os.path.join(self.bundle.top, "log")
        script = "hostname; grep -c ' /dev/mqueue mqueue ro' /proc/mounts; ls /dev/mqueue"
        process = self.sh(script, flags=["--log", log])
        self.assertEqual(process.err, "")
        self.assert_ends(process, 0, "runc\n1\n")
        with open(log, encoding="utf-8") as file:
            self.assertIn("message queues are not supported", file.read())

    def test_mount_type(self):
        self.config["mounts"].append({"destination": "/x", "type": "nfs", "source": "y"})
        self.refused("mounts[4].type")

    def test_missing_bind_source(self):
        self.config["mounts"].append(
            {"destination": "/x", "type": "bind", "source": "/not/there", "options": ["bind"]})
        process = self.bundle.run("true")
        self.assertIn("cannot open /not/there", process.err)
        self.assert_ends(process, 1, "")

    def test_missing_root(self):
        self.config["root"]["path"] = "nowhere"
        process = self.bundle.run("true")
        self.assertIn("nowhere", process.err)
        self.assert_ends(process, 1, "")

    def test_no_bundle(self):
        command = [SKEP, "run", "--bundle", "/not/there", "x"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(process.returncode, 1)
        self.assertIn("/not/there", process.stderr)

    def test_unknown_field_is_noted(self):
        self.config["process"]["novelty"] = True
        process = self.bundle.run("true")
        self.assertIn("unknown field process.novelty", process.err)
        self.assert_ends(process, 0)

    def test_errors_go_to_the_log_file_too(self):
        log = os.path.join(self.bundle.top, "log.json")
        self.config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
        self.assert_ends(self.bundle.run("true", flags=["--log", log, "--log-format", "json"]), 1)
        with open(log, encoding="utf-8") as file:
            entry = json.loads(file.read().splitlines()[-1])
        self.assertEqual(entry["level"], "error")
        self.assertIn("hooks", entry["msg"])


class State(OciTest):
    def test_id_in_use_and_state(self):
        pid_file = os.path.join(self.bundle.top, "pid")
        self.config["process"]["args"] = ["cat"]
        first = self.bundle.start(run_flags=["--pid-file", pid_file])
        state = self.read_state()
        self.assertEqual(state["id"], "box")
        self.assertEqual(state["bundle"], os.path.realpath(self.bundle.top))
        os.kill(state["pid"], 0)
        second = self.bundle.run()
        self.assertEqual(second.returncode, 1)
        self.assertIn("'box' exists already", second.err)
        first.out, first.err = first.communicate("still here\n", timeout=30)
        self.assert_ends(first, 0, "still here\n")
        with open(pid_file, encoding="ascii") as file:
            self.assertEqual(int(file.read()), state["pid"])

    def test_bad_id(self):
        process = self.bundle.run("true", container="a/b")
        self.assertIn("not a container id", process.err)
        self.assert_ends(process, 1)

    def test_a_killed_cli_harms_nobody(self):
        self.config["process"]["args"] = ["sleep", "1000"]
        self.config["linux"]["resources"] = {"memory": {"limit": 64 << 20}}
        process = self.bundle.start()
        self.read_state()
        process.kill()
        process.wait(timeout=30)
        deadline = time.monotonic() + 20
        listed = []
        while listed != ["running"] and time.monotonic() < deadline:
            text = self.bundle.verb("list", "--format", "json").stdout
            listed = [entry["status"] for entry in json.loads(text)]
        self.assertEqual(listed, ["running"])
        self.assertEqual(self.bundle.verb("delete", "--force", "box").returncode, 0)
        process.communicate(timeout=30)  # its streams are closed
        self.assertEqual(self.bundle.leftovers(process.pid), [])
        self.assert_ends(self.sh("echo again"), 0, "again\n")

    def test_ended_while_it_starts(self):
        self.config["process"]["args"] = ["sleep", "1000"]
        self.config["linux"]["resources"] = {"memory": {"limit": 64 << 20}}
        for number in (signal.SIGKILL, signal.SIGTERM):
            for delay in (0, 0.003, 0.006, 0.01, 0.015, 0.02, 0.03, 0.1):
                with self.subTest(signal=number, delay=delay):
                    process = self.bundle.start()
                    time.sleep(delay)
                    process.send_signal(number)
                    if number == signal.SIGKILL:
                        process.wait(timeout=30)
                        self.assertEqual(self.bundle.verb("delete", "--force", "box").stderr, "")
                    process.communicate(timeout=30)
                    self.assertEqual(self.bundle.leftovers(process.pid), [])


class OtherVerbs(OciTest):
    def skep(self, *words):
        return subprocess.run([SKEP, *words], capture_output=True, text=True, timeout=60,
                              check=False)

    def test_spec_can_be_run(self):
        done = self.skep("spec", "--bundle", self.bundle.top)
        self.assertEqual(done.returncode, 0, done.stderr)
        again = self.skep("spec", "--bundle", self.bundle.top)
        self.assertEqual(again.returncode, 1)
        self.assertIn("exists", again.stderr)
        with open(os.path.join(self.bundle.top, "config.json"), encoding="utf-8") as file:
            self.bundle.config = json.load(file)
        self.bundle.config["process"]["terminal"] = False
        self.assert_ends(self.sh("hostname; ls /proc/sys > /dev/null && ls /dev/pts/ptmx"), 0,
                         "skep\n/dev/pts/ptmx\n")

    def test_platforms_marks_the_one_that_auto_takes(self):
        done = self.skep("platforms")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(re.findall(r"^\* ", done.stdout, re.M)), 1, done.stdout)
        for engine in ("kvm", "notify", "ptrace"):
            self.assertIn(engine, done.stdout)

    def test_help_version_and_mistakes(self):
        self.assertIn("skep version", self.skep("--version").stdout)
        for words in (["help"], ["help", "do"], ["--help"], ["run", "--help"]):
            done = self.skep(*words)
            self.assertEqual(done.returncode, 0, words)
            self.assertIn("--", done.stdout)
        table = json.loads(self.skep("help", "syscalls", "--json").stdout)
        self.assertTrue(any(row["name"] == "openat" for row in table))
        self.assertIn("| `openat` |", self.skep("help", "syscalls").stdout)
        for words in ([], ["nonesuch"], ["run"], ["do"], ["--nonesuch"],
                      ["do", "--nonesuch", "true"], ["help", "nonesuch"],
                      ["--workers", "x", "platforms"]):
            done = self.skep(*words)
            self.assertEqual(done.returncode, 125 if words[:1] == ["do"] else 1, words)
            self.assertTrue(done.stderr.startswith("skep: "), (words, done.stderr))


if __name__ == "__main__":
    if sys.argv[1:2] != ["--skep"] or len(sys.argv) < 3:
        sys.exit(__doc__)
    SKEP = os.path.abspath(sys.argv[2])
    bundle.become_subreaper()
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
