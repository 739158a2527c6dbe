#!/usr/bin/env bash
# tools/dev new syscall NAME: a conformance test skeleton, and what to write where for the handler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage="usage: tools/dev new syscall NAME     (as in: tools/dev new syscall sched_getattr)"
to=tests/conformance
if [[ ${1:-} == --to ]]; then  # where new_test.py wants the skeleton
  to=$2
  shift 2
fi
[[ ${1:-} == syscall && ${2:-} =~ ^[a-z][a-z0-9_]*$ && $# == 2 ]] || { echo "$usage" >&2; exit 2; }
name=$2
camel=$(sed -E 's/(^|_)([a-z0-9])/\u\2/g' <<<"$name")
number=$(printf '#include "base/missing_defs.h"\nSYS_%s\n' "$name" |
  g++ -I. -E -P -x c++ - 2>/dev/null | tail -n 1)
[[ $number =~ ^[0-9]+$ ]] || {
  echo "new: <sys/syscall.h> has no SYS_$name; add it to base/missing_defs.h first" >&2
  exit 1
}
families=$(cd sentry/syscalls && echo sys_*.cc)
row=$(grep -n "SYSCALL($name)" sentry/syscalls/*.cc | head -n 1 || true)
case $row in
  "") where="at the end of your family's file, in the order of the numbers ($number), the row" ;;
  *Refused*) where="in place of the row of $(cut -d: -f1-2 <<<"$row")
   (if that is not your family's file: at the end of that one) the row" ;;
  *)
    echo "new: $name is there: ${row%%:*}:$(cut -d: -f2- <<<"$row")" >&2
    exit 1
    ;;
esac

test_file=$to/${name}_test.cc
if [[ -e $test_file ]]; then
  echo "note: $test_file exists; left as it is"
else
  cat >"$test_file" <<END
// ${name}(2).
#include "base/missing_defs.h"
#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

// Write what Linux does here first, and see it pass: tools/dev test -R conformance.${name}.native
TEST(${camel}, OfABadDescriptorFails) {
  EXPECT_THAT(syscall(SYS_${name}, -1, 0, 0, 0, 0, 0), FailsWith(EBADF));
}

}  // namespace
}  // namespace skep::test
END
  echo "made  $test_file"
fi

cat <<END

1. Make $test_file say what Linux does; see it pass natively:
     tools/dev test -R conformance.$name.native
   (Or put its tests into the program of its family, tests/conformance/*_test.cc.)
2. Write the handler into the file of its family, sentry/syscalls/sys_*.cc, above the rows. Its
   signature is the decoding, the arity and the strace format; UserPtr<T> is a guest pointer:
     Result<int32_t> $camel(Task& task, Fd fd, UserPtr<const char> path, uint32_t flags) {
       // check flags, look up, call one function of the subsystem, copy out
     }
   Families: $families
3. Write $where
     Full<$camel>(SYSCALL($name)),
   or Partial<$camel>(SYSCALL($name), "what is missing").
4. tools/dev docs && tools/dev test -R $name
END
