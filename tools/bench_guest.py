#!/usr/bin/env python3
"""Runs inside each system that tools/bench.py compares: times real programs, prints JSON.

usage: bench_guest.py REPETITIONS [npm]      (npm: only npm ci, which needs another root)
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time

CXX = "#include <iostream>\nint main() { std::cout << 1; }\n"
PROGRAMS = {
    "fork+exec /bin/true from python": ["/bin/true"],
    "python3 -c 'import json,re,subprocess'": ["python3", "-c", "import json,re,subprocess"],
    "g++ -c, <iostream>": ["g++", "-c", "/tmp/bench/a.cc", "-o", "/tmp/bench/a.o"],
    "git status, 5,000 files": ["git", "-C", "/tmp/bench/repository", "status", "--short"],
    "find /usr": ["find", "/usr", "-type", "f", "-newer", "/tmp/bench/a.cc"],
    "tar of 5,000 files": ["tar", "-cf", "/dev/null", "-C", "/tmp/bench", "repository"],
}

# tools/bench.py puts the project and a cache with all of its packages there.
PROJECT = "/opt/bench/npm_project"
NPM_CACHE = "/opt/bench/npm_cache"
NPM_CI = ["npm", "ci", "--cache", NPM_CACHE, "--ignore-scripts", "--no-audit", "--no-fund",
          "--no-update-notifier"]


def prepare():
    shutil.rmtree("/tmp/bench", ignore_errors=True)
    os.makedirs("/tmp/bench")
    with open("/tmp/bench/a.cc", "w") as file:
        file.write(CXX)
    root = "/tmp/bench/repository"
    for i in range(5000):
        directory = f"{root}/d{i % 50}/e{i % 7}"
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/f{i}", "w") as file:
            file.write(f"file {i}\n" * (i % 20 + 1))
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", *identity, *command], cwd=root, check=True)


def measure(command, repetitions, result=None):
    """Times `command`; what it makes, `result`, is removed before each run."""
    walls, cpus = [], []
    for _ in range(repetitions + 1):
        if result:
            shutil.rmtree(result, ignore_errors=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.monotonic() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # The first run warms the caches.
    return {"wall": statistics.median(walls[1:]), "cpu": statistics.median(cpus[1:])}


def main():
    repetitions = int(sys.argv[1])
    os.environ["HOME"] = "/tmp"
    programs, made = PROGRAMS, None
    if sys.argv[2:] == ["npm"]:
        os.chdir(PROJECT)
        programs, made = {"npm ci": [*NPM_CI, "--offline"]}, "node_modules"
    else:
        prepare()
    results = {}
    for name, command in programs.items():
        try:
            results[name] = measure(command, repetitions, made)
        except (OSError, subprocess.CalledProcessError) as error:
            results[name] = {"error": str(error)}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
