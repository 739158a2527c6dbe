#!/usr/bin/env python3
"""The sentry tries to leave its jail from inside, once it is closed: each way must be refused.

usage: tests/hostile/jail_test.py --skep FILE

(The gofer's jail is tried in gofer/main/gofer_main_test.cc; that the sentry's trial can fail, in
sentry/boot/jail_test.cc.)
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skep", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skep-jail.") as scratch:
        log = os.path.join(scratch, "log")
        run = subprocess.run([options.skep, "--debug", "--debug-log", log, "do", "--jail-self-test",
                              "--", "echo", "the guest ran"],
                             capture_output=True, text=True, timeout=60, check=False)
        with open(log, encoding="utf-8") as file:
            said = file.read()
    refused = re.search(r"jail refused (\d+) ways out", said)
    if run.returncode != 0 or run.stdout != "the guest ran\n" or not refused:
        sys.exit(f"FAILED: exit code {run.returncode}\n{run.stdout}{run.stderr}{said}")
    print(f"the sentry was refused {refused[1]} ways out of its jail")


if __name__ == "__main__":
    main()
