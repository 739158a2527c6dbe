#!/usr/bin/env bash
# tools/dev fuzz [TARGET] [SECONDS]: builds and runs one target of tests/fuzz, or all (10 s each).
# In a slice of CI (SLICE of SLICES) it runs each SLICES-th of them.
# What they learn stays in build/fuzz/corpus; an input that fails in build/fuzz/failures.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

only=${1:-} seconds=${2:-10}
[[ $only =~ ^[0-9]+$ ]] && { seconds=$only; only=; }
targets=()
for source in tests/fuzz/*_fuzz.cc; do
  target=$(basename "$source" .cc)
  [[ -z $only || $target == "$only" || $target == "${only}_fuzz" ]] && targets+=("$target")
done
if [[ -n ${SLICES:-} ]]; then
  slice=()
  for i in "${!targets[@]}"; do
    ((i % SLICES == SLICE)) && slice+=("${targets[i]}")
  done
  targets=("${slice[@]}")
fi
((${#targets[@]} > 0)) || { echo "fuzz: no target '$only' in tests/fuzz" >&2; exit 2; }
mkdir -p build/fuzz
tools/dev configure asan
cmake --build build/asan --parallel "${JOBS:-$(nproc)}" --target "${targets[@]}"

failed=0
for target in "${targets[@]}"; do
  printf '\n== fuzzing %s for %s s\n' "$target" "$seconds" >&2
  mkdir -p "build/fuzz/corpus/$target" build/fuzz/failures
  # Absolute: a target may change its directory.
  "$PWD/build/asan/tests/fuzz/$target" -max_total_time="$seconds" -print_final_stats=1 \
    -max_len=8192 -timeout=25 -rss_limit_mb=4096 \
    -artifact_prefix="$PWD/build/fuzz/failures/$target-" \
    "$PWD/build/fuzz/corpus/$target" 2>"build/fuzz/$target.log" || {
    tail -n 60 "build/fuzz/$target.log" >&2
    echo "fuzz: $target FAILED (build/fuzz/$target.log)" >&2
    failed=1
    continue
  }
  grep -E 'number_of_executed_units|average_exec_per_sec' "build/fuzz/$target.log" >&2
done
exit "$failed"
