#!/usr/bin/env bash
# tools/dev new syscall NAME: a conformance test skeleton, and what to write where for the handler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage="usage: tools/dev new syscall NAME     (as in: tools/dev new syscall copy_file_range)"
[[ ${1:-} == syscall && ${2:-} =~ ^[a-z][a-z0-9_]*$ && $# == 2 ]] || { echo "$usage" >&2; exit 2; }
name=$2
camel=$(sed -E 's/(^|_)([a-z0-9])/\u\2/g' <<<"$name")
number=$(printf '#include <sys/syscall.h>\nSYS_%s\n' "$name" |
  g++ -E -P -x c++ - 2>/dev/null | tail -n 1)
[[ $number =~ ^[0-9]+$ ]] || { echo "new: this host's headers know no SYS_$name" >&2; exit 1; }
if grep -qw "SYS_$name" sentry/syscalls/table*.cc 2>/dev/null; then
  echo "note: the table has a row of $name already:"
  grep -nw "SYS_$name" sentry/syscalls/table*.cc
fi

families=$(cd sentry/syscalls && echo sys_*.cc)
test_file=tests/conformance/${name}_test.cc
if [[ -e $test_file ]]; then
  echo "note: $test_file exists; left as it is"
else
  cat >"$test_file" <<END
// ${name}(2).
#include <sys/syscall.h>

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
2. Declare the handler in sentry/syscalls/handlers.h. Its signature is the decoding, the arity and
   the strace format; UserPtr<T> is a guest pointer:
     Result<int32_t> $camel(Task&, Fd fd, UserPtr<const char> path, uint32_t flags);
3. Define it in the file of its family, sentry/syscalls/sys_*.cc: check flags, look up, call one
   function of the subsystem, copy out. Families:
     $families
4. Give it its row in the table (sentry/syscalls/table.cc), in the order of the numbers:
     Full<$camel>(SYS_$name, "$name"),          // $number
   or Partial<$camel>(SYS_$name, "$name", "what is missing").
5. tools/dev test -R $name
END
