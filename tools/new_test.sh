#!/usr/bin/env bash
# What `tools/dev new syscall` makes and prints compiles as it stands (the test unit.new).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scratch=$(mktemp -d /tmp/skep-new.XXXXXX)
trap 'rm -rf "$scratch"' EXIT

name=sched_getattr
handler=SchedGetattr
if grep -qE "(Full|Partial)<.*SYSCALL\($name\)" sentry/syscalls/sys_sched.cc; then
  name=kcmp  # the example has been implemented
  handler=Kcmp
fi
tools/new.sh --to "$scratch" syscall "$name" >"$scratch/steps"
[[ -s $scratch/${name}_test.cc ]] || { echo "no skeleton was made" >&2; exit 1; }
# A file or row that the steps name is there.
named=$(grep -oE 'sentry/syscalls/[a-z_]+\.cc:[0-9]+' "$scratch/steps" | head -n 1)
sed -n "${named#*:}p" "${named%:*}" | grep -q "SYSCALL($name)" ||
  { echo "the steps name $named, which has no row of $name" >&2; exit 1; }

# The handler and the row as printed, in a file as the families' are.
{
  printf '#include "sentry/syscalls/families.h"\nnamespace skep::syscalls {\nnamespace {\n'
  sed -n "/^ *Result<.*$handler/p" "$scratch/steps"
  printf '(void)task, (void)fd, (void)path, (void)flags; return 0; }\nconstexpr Row kRows[] = {\n'
  sed -n "/^ *Full</p" "$scratch/steps"
  printf '};\n}\nconst Syscall& Made() { return kRows[0].syscall; }\n}\n'
} >"$scratch/family.cc"
grep -q "$handler(Task" "$scratch/family.cc" || { echo "no handler in the steps" >&2; exit 1; }

flags=(-std=gnu++23 -D_GNU_SOURCE -I. -Wall -Wextra -Werror -fsyntax-only)
g++ "${flags[@]}" "$scratch/${name}_test.cc"
g++ "${flags[@]}" "$scratch/family.cc"

# A call that is there is said to be, and nothing is made.
if tools/new.sh --to "$scratch" syscall openat >"$scratch/steps" 2>&1; then
  echo "openat is there already, and new.sh did not say so" >&2
  exit 1
fi
grep -q "sentry/syscalls/sys_open.cc" "$scratch/steps"
