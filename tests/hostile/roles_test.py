#!/usr/bin/env python3
"""Judges the processes of a running sandbox, seen from the host, by the table of roles.

usage: tests/hostile/roles_test.py --skep FILE

Every row of `skep help processes --json` must be met by at least one process, and every process of
the sandbox must have a row. Then a process that is no sandbox's is judged in the same way, and must
be found to be free: a judge that cannot say no says nothing.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

UNUSED = range(0x70000000, 0x80000000)
EVERY_ID = 4294967295


def status_of(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return dict(line.split(":", 1) for line in lines)


def namespaces_of(pid):
    folder = f"/proc/{pid}/ns"
    return {name: os.readlink(f"{folder}/{name}") for name in os.listdir(folder)
            if not name.endswith("_for_children")}


def children_of(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        text = pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="utf-8")
        found += [int(child) for child in text.split()]
    return found


def family_of(pid):
    found = []
    for child in children_of(pid):
        found += [child] + family_of(child)
    return found


def map_of(pid, kind):
    text = pathlib.Path(f"/proc/{pid}/{kind}_map").read_text(encoding="utf-8")
    return [tuple(map(int, line.split())) for line in text.splitlines()]


def faults_of_ids(pid, status, row, sentry):
    """Who the process is: its user, groups and user namespace."""
    root = os.geteuid() == 0
    uids = {int(uid) for uid in status["Uid"].split()}
    faults = []
    if row["ids"] == "those of its files":
        wanted = [(0, 0, EVERY_ID)] if root else [(os.getuid(), os.getuid(), 1)]
        if map_of(pid, "uid") != wanted:
            faults.append(f"its namespace maps {map_of(pid, 'uid')}")
    elif root and not all(uid in UNUSED for uid in uids):
        faults.append(f"it is host user {uids}")
    if row["ids"] != "those of its files" and len(uids) == 1:
        uid = next(iter(uids))
        if map_of(pid, "uid") != [(uid, uid, 1)]:
            faults.append(f"its namespace maps {map_of(pid, 'uid')}")
    if row["ids"] == "the sentry's" and status["Uid"] != status_of(sentry)["Uid"]:
        faults.append("it is not the sentry's user")
    if root and status["Groups"].strip():
        faults.append(f"it has the groups {status['Groups']}")
    return faults


def faults_of(pid, row, sentry):
    """What of the row does not hold for the process."""
    status = status_of(pid)
    faults = faults_of_ids(pid, status, row, sentry)
    host, own, sentrys = namespaces_of("self"), namespaces_of(pid), namespaces_of(sentry)
    shared = [name for name, value in own.items() if value == host[name]]
    if shared:
        faults.append(f"it is in the host's namespaces: {' '.join(shared)}")
    if not row["namespaces"] and own != sentrys:
        faults.append("it is not in the sentry's namespaces")
    for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        if int(status[kind], 16) & ~row["capabilities"]:
            faults.append(f"{kind} is {status[kind]}")
    for name, wanted in (("NoNewPrivs", "1"), ("Seccomp", "2")):
        if status[name].strip() != wanted:
            faults.append(f"{name} is {status[name]}")
    limits = pathlib.Path(f"/proc/{pid}/limits").read_text(encoding="utf-8")
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    if core.split()[4:6] != ["0", "0"]:
        faults.append(f"core limit: {core}")
    # A process that may be dumped owns its files in /proc; else they are root's of its namespace
    # (or, where that has none, of the host).
    owner = os.stat(f"/proc/{pid}/fd").st_uid
    uid = int(status["Uid"].split()[0])
    if owner == uid and uid != 0:
        faults.append("it may be dumped and traced by its user")
    return faults


def judge(skep):
    rows = json.loads(subprocess.run([skep, "help", "processes", "--json"], check=True,
                                     capture_output=True, text=True).stdout)
    rows = {row["name"]: row for row in rows}
    met = {name: 0 for name in rows}
    for engine in ("notify", "ptrace"):
        script = "sleep 100 & echo up; wait"
        command = [skep, f"--platform={engine}", "do", "--", "sh", "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sandbox:
            try:
                assert sandbox.stdout.readline() == "up\n", f"no guest with {engine}"
                time.sleep(0.2)
                family = {pid: status_of(pid)["Name"].strip() for pid in family_of(sandbox.pid)}
                sentry = next(pid for pid, name in family.items() if name == "skep-sentry")
                for pid, name in family.items():
                    if name not in rows:
                        sys.exit(f"FAILED: {name} has no row in the table of roles")
                    faults = faults_of(pid, rows[name], sentry)
                    if faults:
                        sys.exit(f"FAILED: {name} with {engine}: {'; '.join(faults)}")
                    met[name] += 1
            finally:
                sandbox.terminate()
    unmet = [name for name, count in met.items() if count == 0]
    if unmet:
        sys.exit(f"FAILED: rows that no process met: {' '.join(unmet)}")
    return met, rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    options = parser.parse_args()
    met, rows = judge(options.skep)
    free = faults_of(os.getpid(), rows["skep-sentry"], os.getpid())
    wanted = ("host's namespaces", "NoNewPrivs", "Seccomp")
    missed = [word for word in wanted if not any(word in fault for fault in free)]
    if missed:
        sys.exit(f"FAILED: the judge did not see that a free process lacks: {missed}")
    print("judged: " + ", ".join(f"{count} {name}" for name, count in met.items()))


if __name__ == "__main__":
    main()
