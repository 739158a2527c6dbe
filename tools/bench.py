#!/usr/bin/env python3
"""Prints one table, from one run: native, skep on each engine, and runc, runsc and a current gVisor
(tools/gvisor.sh) where they are there.

usage: tools/bench.py [--quick] [--write] [--only SYSTEM,...] [--no-programs]
       tools/bench.py --against SKEP [--rounds N] [--only ENGINE,...] [--no-programs]

Every system runs the same programs over the same Debian root (tools/rootfs.sh), under an overlay
that is thrown away. npm ci has a root with Node.js and installs offline, from a cache that is
filled once from the npm registry ($SKEP_CACHE, default /var/cache/skep). The systems take turns,
several rounds of all of them, and each figure is the median of the rounds: what the machine does
meanwhile befalls all alike. Needs root: it makes a mount namespace. --write puts the table into
docs/budgets.md. --against compares with another skep's binary alone: the two take turns, N (10)
times, and each row shows the median of N ratios, each from one turn.
"""

import argparse
import copy
import datetime
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import bench_guest

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(TOP, "build/release")
PROGRAMS = ("calls_bench", "tasks_bench", "memory_bench", "edges_bench")
GUEST = "/opt/bench"  # where the programs are in the root
CACHE = os.environ.get("SKEP_CACHE", "/var/cache/skep")
CPUACCT = "/sys/fs/cgroup/cpuacct"
MARKS = ("<!-- bench: begin -->", "<!-- bench: end -->")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENGINES = ("notify", "ptrace", "kvm")


class System:
    """Something that runs a command over `root`; command() gives the host's command line."""

    def __init__(self, name, root):
        self.name, self.root = name, root

    def command(self, words):
        raise NotImplementedError

    def over(self, root):
        """The same system over another root."""
        other = copy.copy(self)
        other.root = root
        return other

    def run(self, words, timeout):
        return subprocess.run(self.command(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL, timeout=timeout, text=True, check=False)


class Native(System):
    def command(self, words):
        return ["chroot", self.root, "env", "-i", PATH, *words]


class Skep(System):
    def __init__(self, engine, root, binary=os.path.join(BUILD, "skep")):
        super().__init__(f"skep {engine}", root)
        self.engine, self.binary = engine, binary

    def command(self, words):
        return [self.binary, f"--platform={self.engine}", "do", "--rootfs", self.root, "--cwd", "/",
                "--env", PATH, "--", *words]


class Runsc(System):
    def __init__(self, name, root, binary, engine):
        super().__init__(name, root)
        self.start = [binary, f"--platform={engine}", "--network=none", "--ignore-cgroups", "do"]

    def command(self, words):
        return [*self.start, "-root", self.root, "-cwd", "/", "env", "-i", PATH, *words]


class Runc(System):
    def __init__(self, name, root, bundle):
        super().__init__(name, root)
        self.bundle, self.count = bundle, itertools.count()
        subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
        with open(os.path.join(bundle, "config.json"), encoding="utf-8") as file:
            self.config = json.load(file)

    def command(self, words):
        self.config["root"] = {"path": self.root, "readonly": False}
        self.config["process"].update(terminal=False, args=list(words), env=[PATH], cwd="/")
        with open(os.path.join(self.bundle, "config.json"), "w", encoding="utf-8") as file:
            json.dump(self.config, file)
        name = f"skep-bench-{os.getpid()}-{next(self.count)}"
        return ["runc", "run", "--bundle", self.bundle, name]


def mount_root(place, *variant):
    """An overlay over a Debian root of tools/rootfs.sh; only in our mount namespace."""
    debian = subprocess.run([os.path.join(TOP, "tools/rootfs.sh"), *variant], text=True,
                            stdout=subprocess.PIPE, check=True).stdout.strip()
    for name in ("upper", "work", "root"):
        os.makedirs(os.path.join(place, name))
    root = os.path.join(place, "root")
    layers = f"lowerdir={debian},upperdir={place}/upper,workdir={place}/work"
    subprocess.run(["mount", "-t", "overlay", "none", "-o", layers, root], check=True)
    for name in ("proc", "dev", "sys"):
        subprocess.run(["mount", "--rbind", f"/{name}", f"{root}/{name}"], check=True)
    return root


def make_root(scratch):
    """The root of all programs but npm, with ours in it; makes scratch a file system in memory."""
    subprocess.run(["mount", "-t", "tmpfs", "none", scratch], check=True)
    os.mkdir(os.path.join(scratch, "bundle"))
    root = mount_root(scratch)
    os.makedirs(root + GUEST)
    for program in PROGRAMS:
        shutil.copy(os.path.join(BUILD, "bench", program), root + GUEST)
    shutil.copy(os.path.join(TOP, "tools/bench_guest.py"), root + GUEST)
    library = subprocess.run(["ldd", os.path.join(BUILD, "bench", PROGRAMS[0])], text=True,
                             stdout=subprocess.PIPE, check=True).stdout
    for line in library.splitlines():
        if "libbenchmark" in line:
            shutil.copy(line.split()[2], root + "/usr/lib/x86_64-linux-gnu/")
    return root


def make_npm_root(scratch):
    """A root with Node.js, tools/npm_project, and an npm cache that holds all of its packages."""
    root = mount_root(os.path.join(scratch, "npm"), "node")
    os.makedirs(root + GUEST)
    shutil.copy(os.path.join(TOP, "tools/bench_guest.py"), root + GUEST)
    shutil.copytree(os.path.join(TOP, "tools/npm_project"), root + bench_guest.PROJECT)
    with open(root + bench_guest.PROJECT + "/package-lock.json", "rb") as file:
        cache = os.path.join(CACHE, "npm-" + hashlib.sha256(file.read()).hexdigest()[:8])
    if not os.path.isdir(cache):
        fill_npm_cache(root, cache)
    shutil.copytree(cache, root + bench_guest.NPM_CACHE)
    return root


def try_npm_root(scratch):
    """make_npm_root's root, or None."""
    try:
        return make_npm_root(scratch)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"bench: left out: npm ci: {error}", file=sys.stderr)
        return None


def fill_npm_cache(root, cache):
    """Installs the project from the registry; `cache` appears by a rename, complete."""
    print("bench: filling the npm cache", file=sys.stderr)
    for path in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(path, root + path)
    subprocess.run(["chroot", root, "env", f"--chdir={bench_guest.PROJECT}", PATH, "HOME=/tmp",
                    *bench_guest.NPM_CI], stdin=subprocess.DEVNULL, stdout=sys.stderr,
                   timeout=600, check=True)
    shutil.rmtree(root + bench_guest.PROJECT + "/node_modules")
    making = tempfile.mkdtemp(prefix=".making.", dir=CACHE)
    try:
        shutil.copytree(root + bench_guest.NPM_CACHE + "/_cacache", making + "/npm/_cacache")
        os.rename(making + "/npm", cache)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    shutil.rmtree(root + bench_guest.NPM_CACHE)


def find_systems(root, scratch):
    """Those that can run /bin/true here; says why the others cannot."""
    candidates = [Native("native", root)]
    if os.access(os.path.join(BUILD, "skep"), os.X_OK):
        candidates += [Skep(engine, root) for engine in ENGINES]
    if shutil.which("runc"):
        candidates.append(Runc("runc", root, os.path.join(scratch, "bundle")))
    if shutil.which("runsc"):
        candidates.append(Runsc("runsc ptrace", root, "runsc", "ptrace"))
    current = subprocess.run([os.path.join(TOP, "tools/gvisor.sh")], text=True, check=False,
                             stdout=subprocess.PIPE).stdout.strip()
    if current:
        name = re.sub(r".*runsc-v0\.0\.0-(\d{4})(\d\d).*", r"gVisor \1-\2", current)
        candidates.append(Runsc(f"{name} systrap", root, current, "systrap"))
    systems = []
    for system in candidates:
        try:
            outcome = system.run(["/bin/true"], 30)
            why = outcome.stderr.strip().splitlines()[-1:] or [f"exit code {outcome.returncode}"]
            if outcome.returncode == 0:
                systems.append(system)
                continue
        except subprocess.TimeoutExpired:
            why = ["it did not end within 30 s"]
        print(f"bench: left out: {system.name}: {why[0][:150]}", file=sys.stderr)
    return systems


def micro(system, min_time):
    """{row: nanoseconds, less is better}, from the Google Benchmark programs."""
    rows = {}
    for program in PROGRAMS:
        words = [f"{GUEST}/{program}", f"--benchmark_min_time={min_time}",
                 "--benchmark_format=json"]
        try:
            outcome = system.run(words, 600)
            report = json.loads(outcome.stdout)
        except (subprocess.TimeoutExpired, ValueError) as error:
            print(f"bench: {system.name}: {program}: {str(error)[:200]}", file=sys.stderr)
            continue
        unit = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}
        for entry in report["benchmarks"]:
            if entry.get("error_occurred"):
                continue
            name = re.sub(r"/(real_time|manual_time|iterations:\d+)", "", entry["name"])
            value = entry["real_time"] * unit[entry["time_unit"]]
            if "items_per_second" in entry:
                name, value = name + " per turn", 1e9 / entry["items_per_second"]
            rows[name] = value
    return rows


def host_floors():
    """What the mechanisms of the engines cost on this host, by themselves."""
    outcome = subprocess.run([os.path.join(BUILD, "bench/host_bench"), "--benchmark_min_time=0.2",
                              "--benchmark_format=json"], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True, check=True)
    return {entry["name"].split("/")[0]: entry["real_time"]
            for entry in json.loads(outcome.stdout)["benchmarks"]}


def median_of(rounds):
    """{row: median} of rounds; a row that failed in one round has failed."""
    return {name: statistics.median(rows[name] for rows in rounds) for name in rounds[0]
            if all(name in rows for rows in rounds)}


def whole_command(system, words):
    """Wall time and CPU time of all processes, from the system's start to its end, in ns."""
    command = system.command(words)
    # What a system leaves to init is in the group only; what it puts elsewhere, in rusage only.
    group = os.path.join(CPUACCT, f"skep-bench-{os.getpid()}")
    grouped = os.path.isdir(CPUACCT)
    if grouped:
        os.makedirs(group, exist_ok=True)
        command = ["sh", "-c", f"echo $$ > {group}/cgroup.procs && exec \"$@\"", "sh", *command]
    start = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    cpu = usage.ru_utime + usage.ru_stime
    if grouped:
        with open(os.path.join(group, "cpuacct.usage"), encoding="ascii") as file:
            cpu = max(cpu, int(file.read()) / 1e9)
        end_of_group(group)
    return wall * 1e9, cpu * 1e9


def end_of_group(group):
    for _ in range(100):
        try:
            os.rmdir(group)
            return
        except OSError:  # a process of it is about to end
            time.sleep(0.02)


def start_and_cpu(system, quick):
    """Rows of whole commands."""
    starts = [whole_command(system, ["/bin/true"]) for _ in range(2 if quick else 5)]
    wall, base = (statistics.median(values) for values in zip(*starts))
    count = 2 if quick else 5
    script = (f"cd /tmp && echo '#include <iostream>' > a.cc && for i in $(seq {count}); do "
              "g++ -c a.cc || exit 1; done")
    _, cpu = whole_command(system, ["/bin/sh", "-c", script])
    return {"start, /bin/true, end": wall, "g++ -c, <iostream>: CPU": (cpu - base) / count}


def cpu_of_calls(system):
    """How much CPU time of all processes a loop of system calls takes, for each second of it."""
    base_wall, base_cpu = whole_command(system, ["/bin/true"])
    calls = ["dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=100000"]
    wall, cpu = whole_command(system, calls)
    return f"{(cpu - base_cpu) / (wall - base_wall):.2f}"


def programs(system, repetitions, *which):
    """{row: wall time in ns} of what bench_guest.py runs."""
    words = ["python3", f"{GUEST}/bench_guest.py", str(repetitions), *which]
    try:
        outcome = system.run(words, 900)
        results = json.loads(outcome.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        print(f"bench: {system.name}: programs: {outcome.stderr[-300:]}", file=sys.stderr)
        return {}
    except subprocess.TimeoutExpired as error:
        print(f"bench: {system.name}: programs: {error}", file=sys.stderr)
        return {}
    rows = {}
    for name, result in results.items():
        if "error" in result:
            print(f"bench: {system.name}: {name}: {result['error'][:200]}\n"
                  f"{outcome.stderr[-300:]}", file=sys.stderr)
            continue
        rows[name] = result["wall"] * 1e9
    return rows


def npm_ci(system, root):
    """Rows of npm ci over the root of make_npm_root."""
    system = system.over(root)
    modules = root + bench_guest.PROJECT + "/node_modules"
    rows = programs(system, 2, "npm")
    shutil.rmtree(modules, ignore_errors=True)
    if rows:
        _, base = whole_command(system, ["/bin/true"])
        _, cpu = whole_command(system, ["env", f"--chdir={bench_guest.PROJECT}", "HOME=/tmp",
                                        *bench_guest.NPM_CI, "--offline"])
        shutil.rmtree(modules, ignore_errors=True)
        rows["npm ci: CPU"] = cpu - base
    return rows


def tree(pid):
    """The process and all that descend from it."""
    pids = [pid]
    for parent in pids:
        for task in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{task}/children", encoding="utf-8") as file:
                pids += [int(word) for word in file.read().split()]
    return pids


def field(path, name):
    with open(path, encoding="utf-8") as file:
        return next((int(line.split()[1]) for line in file if line.startswith(name)), 0)


def pss_of(pid):
    """KiB of PSS: (all, the guest's own pages, our program's file)."""
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        stub = file.read().strip() == "skep-stub"
    total = guest = program = 0
    name = ""
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if not words[0].endswith(":"):
                name = words[5] if len(words) > 5 else ""
            elif words[0] == "Pss:":
                size = int(words[1])
                total += size
                if name == "/memfd:skep-memory" or (stub and name != "/memfd:skep-stubs"):
                    guest += size
                elif name == os.path.join(BUILD, "skep"):
                    program += size
    return total, guest, program


def idle(system, seconds=5):
    """What a sandbox costs whose only guest sleeps: PSS of all its processes, and wake-ups."""
    def switches(pids):
        return sum(field(f"/proc/{pid}/task/{task}/status", kind) for pid in pids
                   for task in os.listdir(f"/proc/{pid}/task")
                   for kind in ("voluntary_ctxt", "nonvoluntary_ctxt"))
    process = subprocess.Popen(system.command(["/bin/sleep", "600"]), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(2)
        pids = tree(process.pid)
        before = switches(pids)
        time.sleep(seconds)
        woken = switches(pids) - before
        total, guest, program = (sum(part) / 1024 for part in zip(*map(pss_of, pids)))
    finally:
        process.terminate()
        process.wait(30)
    return (f"Idle, {system.name}: one guest in nanosleep: {total:.1f} MiB PSS in {len(pids)} "
            f"processes, of it {guest:.1f} the guest's own pages and {program:.1f} our program's "
            f"file; {woken} wake-ups in {seconds} s.")


def human(ns):
    for limit, unit in ((1e3, "ns"), (1e6, "us"), (1e9, "ms")):
        if ns < limit:
            return f"{ns / limit * 1e3:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def table(results, systems):
    names = [system.name for system in systems]
    rows = [["what", *names], ["---"] * (len(names) + 1)]
    order = list(results[names[0]])
    for what in order:
        native = results[names[0]].get(what)
        row = [what]
        for name in names:
            value = results[name].get(what)
            if value is None:
                row.append("failed")
            elif isinstance(value, str):
                row.append(value)
            elif name == names[0] or not native:
                row.append(human(value))
            else:
                row.append(f"{human(value)} ({value / native:.2f}x)")
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows[1] = ["-" * width for width in widths]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
             for row in rows]
    return "\n".join(lines)


WORSE = 1.05  # what a row's ratio may grow to without being marked


def rows_of(system, options):
    rows = micro(system, 0.02 if options.quick else 0.1)
    rows.update(start_and_cpu(system, options.quick))
    if not options.no_programs:
        rows.update(programs(system, 2 if options.quick else 3))
    return rows


def compare(root, options):
    """Both binaries under each engine in turns; rows of ratios."""
    wanted = options.only.split(",") if options.only else ["notify", "ptrace"]
    lines = []
    for engine in wanted:
        pair = [Skep(engine, root, options.against), Skep(engine, root)]
        rounds = []
        for number in range(options.rounds):
            print(f"bench: {engine}: round {number + 1}", file=sys.stderr)
            turn = {}
            for system in pair if number % 2 == 0 else reversed(pair):
                turn[system] = rows_of(system, options)
            rounds.append([turn[system] for system in pair])
        old, new = (median_of([turn[i] for turn in rounds]) for i in (0, 1))
        for what in new:
            if what not in old:
                lines.append(f"{engine:7} {what:45} {'-':>9} {human(new[what]):>9}")
                continue
            ratio = statistics.median(turn[1][what] / turn[0][what] for turn in rounds)
            lines.append(f"{engine:7} {what:45} {human(old[what]):>9} {human(new[what]):>9} "
                         f"{ratio:6.3f}{'  worse' if ratio > WORSE else ''}")
    return "\n".join(lines)


def describe():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=TOP, text=True,
                            stdout=subprocess.PIPE, check=False).stdout.strip()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if "model name" in line), "CPU")
    return (f"{datetime.date.today()}, commit {commit}, Linux {platform.release()}, "
            f"{os.cpu_count()} x {model}; load {os.getloadavg()[0]:.1f} at the start.")


def write_budgets(text):
    path = os.path.join(TOP, "docs/budgets.md")
    with open(path, encoding="utf-8") as file:
        page = file.read()
    before, _, rest = page.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}")
    print(f"bench: written to {path}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs: rough figures")
    parser.add_argument("--write", action="store_true", help="put the table into docs/budgets.md")
    parser.add_argument("--only", default="", help="systems by name, as in --only=native,runc")
    parser.add_argument("--no-programs", action="store_true", help="only the benchmark programs")
    parser.add_argument("--against", help="another skep to compare with, and nothing else")
    parser.add_argument("--rounds", type=int, default=10, help="turns of --against")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: needs root (sudo tools/dev bench)")
    if os.environ.get("SKEP_BENCH_NAMESPACE") != "1":
        os.environ["SKEP_BENCH_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable,
                              *sys.argv])
    where = describe()
    scratch = tempfile.mkdtemp(prefix="skep-bench-")
    try:
        root = make_root(scratch)
        if options.against:
            print(f"{where}\n\n{compare(root, options)}")
            return 0
        npm_root = None
        if not options.quick and not options.no_programs:
            npm_root = try_npm_root(scratch)
        systems = find_systems(root, scratch)
        if options.only:
            wanted = options.only.split(",") + ["native"]
            systems = [system for system in systems if system.name in wanted]
        rounds = {system.name: [] for system in systems}
        floors = []
        for number in range(1 if options.quick else 3):
            floors.append(host_floors())
            for system in systems:
                print(f"bench: round {number + 1}: {system.name}", file=sys.stderr)
                rows = rows_of(system, options)
                if npm_root:
                    rows.update(npm_ci(system, npm_root))
                rounds[system.name].append(rows)
        results = {name: median_of(all_rows) for name, all_rows in rounds.items()}
        for system in systems:
            if not options.no_programs:
                # The first system's rows make the table: a failure there must not hide the row.
                results[system.name].setdefault("npm ci", None if npm_root else "not measured")
            results[system.name]["CPU seconds per second of dd bs=1"] = cpu_of_calls(system)
        floor = median_of(floors)
        text = (f"{where}\n\nThe host's own round trips, with nothing of ours: "
                + ", ".join(f"{name} {human(value)}" for name, value in floor.items())
                + ".\n\n" + table(results, systems) + "\n")
        if not options.no_programs and not npm_root:
            text += "\nnpm ci was not measured: " + (
                "--quick leaves it out.\n" if options.quick else
                "no root with Node.js and a full npm cache could be had.\n")
        for system in systems:
            if isinstance(system, Skep):
                text += "\n" + idle(system) + "\n"
        print(text, end="")
        if options.write:
            write_budgets(text)
    finally:
        subprocess.run(["umount", "-R", "-l", scratch], check=False)
        os.rmdir(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
