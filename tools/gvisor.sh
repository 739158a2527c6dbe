#!/usr/bin/env bash
# Builds a current gVisor from Go's module registry, once, and prints the path of its runsc. For
# tools/bench.py only: without Go or the registry it says so and fails.
#
# It lies beside the Debian root ($SKEP_CACHE, default /var/cache/skep). GVISOR_VERSION chooses
# another version than the newest that the registry has.
set -euo pipefail

readonly cache=${SKEP_CACHE:-/var/cache/skep}
readonly module=gvisor.dev/gvisor

for tool in go curl; do
  command -v "$tool" >/dev/null || { echo "gvisor.sh: no $tool on this machine" >&2; exit 1; }
done
if [[ -z ${GVISOR_VERSION:-} ]]; then
  # Versions of gVisor's `go` branch, named by their time; `go list` does not show such.
  proxy=$(go env GOPROXY | cut -d, -f1)
  GVISOR_VERSION=$(curl -fsS "$proxy/$module/@v/list" | sort | tail -n 1)
fi
[[ -n $GVISOR_VERSION ]] || { echo "gvisor.sh: the registry lists no version" >&2; exit 1; }
readonly runsc=$cache/runsc-$GVISOR_VERSION
if [[ ! -x $runsc ]]; then
  mkdir -p "$cache"
  made=$(mktemp -d "$cache/.making.XXXXXX")
  trap 'rm -rf "$made"' EXIT
  (cd / && CGO_ENABLED=0 GOBIN=$made go install "$module/runsc@$GVISOR_VERSION") >&2
  mv "$made/runsc" "$runsc"
fi
printf '%s\n' "$runsc"
