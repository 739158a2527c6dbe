#!/usr/bin/env bash
# The pages that the program itself knows best, written from it:
#   tools/docs.sh SKEP            writes docs/syscalls.md and docs/cli.md
#   tools/docs.sh --check SKEP    fails if a page is not what SKEP would write (the test unit.docs)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

check=0
[[ ${1:-} == --check ]] && { check=1; shift; }
[[ $# == 1 ]] || { sed -n '2,4s/^# \{0,1\}//p' tools/docs.sh >&2; exit 2; }
skep=$1
failed=0

page() {  # FILE COMMAND...
  local file=$1 fresh
  shift
  fresh=$(mktemp /tmp/skep-docs.XXXXXX)
  "$@" >"$fresh"
  if ((check == 0)); then
    cp "$fresh" "$file"
  elif ! diff -u "$file" "$fresh"; then
    echo "docs: $file is not what the program says; run tools/dev docs" >&2
    failed=1
  fi
  rm -f "$fresh"
}

page docs/syscalls.md "$skep" help syscalls
page docs/cli.md "$skep" help all --format markdown
exit "$failed"
