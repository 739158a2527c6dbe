#!/usr/bin/env bash
# Runs real programs natively and inside a skep sandbox over this machine's own root, compares what
# they print, and shows how long each took. Exits non-zero on any difference. See tools/dev demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly skep=$PWD/build/release/skep
[[ -x $skep ]] || { echo "demo: $skep does not exist: run tools/dev build" >&2; exit 1; }
scratch=$(mktemp -d /tmp/skep-demo.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
failed=0

# Programs. Each writes only below $WORK, which it makes; in the sandbox nothing of it stays.
pipeline() {
  cat <<'END'
mkdir -p "$WORK" && cd "$WORK"
ls /usr/bin | sed 's/[^a-z].*//' | sort | uniq -c | sort -k1,1nr -k2 | head -n 3
find /usr/bin -maxdepth 1 -type f | sort | head -n 200 |
  while read -r f; do head -c 4 "$f" | tail -c 3; echo; done | grep -a -c ELF
while read -r f; do [[ $(head -c 2 "$f" | tr -d '\0') == '#!' ]] && echo "$f"; done 2>/dev/null \
  < <(printf '%s\n' /usr/bin/z*) | paste -sd ' ' | fold -sw 76
END
}

python() {
  cat <<'END'
mkdir -p "$WORK" && cd "$WORK"
exec python3 - <<'PYTHON'
import collections, hashlib, os, subprocess, sys, threading
words = collections.Counter()
for name in ("/etc/passwd", "/etc/services", "/etc/debian_version"):
    if os.path.exists(name):
        with open(name) as file:
            words.update(file.read().split())
print("files read:", sum(words.values()), "words")
print("computed:", sum(n * n % 7 for n in range(300000)))
children = [subprocess.Popen([sys.executable, "-c", f"print({n} ** 20)"], stdout=subprocess.PIPE)
            for n in (3, 5, 7)]
print("children:", [child.communicate()[0].decode().strip() for child in children])
digests = {}
def digest(n):
    digests[n] = hashlib.sha256(bytes([n]) * 500000).hexdigest()[:8]
threads = [threading.Thread(target=digest, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("threads:", [digests[n] for n in sorted(digests)])
PYTHON
END
}

cplusplus() {
  cat <<'END'
mkdir -p "$WORK" && cd "$WORK"
cat > primes.cc <<'CC'
#include <cstdio>
#include <thread>
#include <vector>
int main() {
  std::vector<long> counts(4);
  std::vector<std::thread> threads;
  for (int part = 0; part < 4; part++) threads.emplace_back([&, part] {
    for (int n = part * 25000; n < (part + 1) * 25000; n++) {
      bool prime = n > 1;
      for (int d = 2; d * d <= n && prime; d++) prime = n % d != 0;
      counts[part] += prime;
    }
  });
  for (auto& thread : threads) thread.join();
  std::printf("%ld primes below 100000\n", counts[0] + counts[1] + counts[2] + counts[3]);
}
CC
g++ -O1 -std=c++17 -pthread -o primes primes.cc && ./primes
END
}

git_tree() {
  cat <<'END'
export GIT_AUTHOR_NAME=demo GIT_AUTHOR_EMAIL=demo@example.com GIT_AUTHOR_DATE=2026-01-01T00:00:00Z
export GIT_COMMITTER_NAME=demo GIT_COMMITTER_EMAIL=demo@example.com
export GIT_COMMITTER_DATE=2026-01-01T00:00:00Z HOME=$WORK GIT_CONFIG_NOSYSTEM=1
mkdir -p "$WORK" && cd "$WORK"
git init -q -b main tree && cd tree
for i in $(seq 100); do mkdir -p "d$((i % 10))"; echo "file $i" > "d$((i % 10))/f$i"; done
git add . && git commit -q -m "Add a hundred files"
echo changed >> d1/f1 && git commit -q -am "Change one"
git log --stat --format='%h %s' | head -n 4
END
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# run NATIVE|SANDBOX SCRIPT OUTPUT: prints the milliseconds it took
run() {
  local start status=0
  start=$(now_ms)
  if [[ $1 == native ]]; then
    env WORK="$work" bash -c "$2" >"$3" 2>"$3.err" || status=$?
  else
    "$skep" do --cwd / --env "WORK=$work" --env "PATH=$PATH" -- bash -c "$2" >"$3" 2>"$3.err" ||
      status=$?
  fi
  echo "exit code $status" >>"$3"
  echo $(($(now_ms) - start))
}

show_difference() {
  diff -u --label native --label sandbox "$scratch/native" "$scratch/sandbox" | sed 's/^/    /'
  sed 's/^/    sandbox stderr: /' "$scratch/sandbox.err" | tail -n 20
}

demo() {  # TITLE FUNCTION
  local script native sandbox
  work=/tmp/skep-demo-work.$$
  script=$($2)
  printf '\n== %s\n' "$1"
  native=$(run native "$script" "$scratch/native")
  rm -rf "$work"
  sandbox=$(run sandbox "$script" "$scratch/sandbox")
  if [[ -e $work ]]; then
    echo "   FAILED: the sandbox left $work on the host"
    rm -rf "$work"
    failed=1
  fi
  sed '$d; s/^/   /' "$scratch/sandbox"
  if cmp -s "$scratch/native" "$scratch/sandbox" &&
    [[ $(tail -n 1 "$scratch/native") == "exit code 0" ]]; then
    printf '   same output: native %d ms, sandbox %d ms\n' "$native" "$sandbox"
  else
    echo '   FAILED: the sandbox differs from native, or the program failed:'
    show_difference
    failed=1
  fi
}

"$skep" --version 2>/dev/null | head -n 1 || true
echo "host: $(uname -sr), $(nproc) CPUs"
engine=$("$skep" platforms 2>/dev/null | sed -n 's/^\* *//p' | head -n 1 || true)
echo "engine: ${engine:-not said (skep platforms is not there yet)}"
demo "bash: a pipeline over /usr/bin" pipeline
demo "python3: files, computing, children, threads" python
demo "g++: compiled in the sandbox and run there" cplusplus
demo "git: init, add, commit, log" git_tree
echo
if ((failed)); then
  echo "demo: FAILED"
else
  echo "demo: everything printed what it prints natively"
fi
exit "$failed"
