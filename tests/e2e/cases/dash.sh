# dash: what /bin/sh scripts do.

### pipelines shell=dash
ls /usr/bin | sort | tail -n 5 | wc -l
seq 1 1000 | while read -r i; do echo $((i * i)); done | tail -n 1
echo a b c | { read -r x y; echo "$y $x"; }

### functions_and_loops shell=dash
fact() { if [ "$1" -le 1 ]; then echo 1; else echo $(($1 * $(fact $(($1 - 1))))); fi; }
fact 10
for f in 1 2 3; do case $f in 2) continue ;; *) echo "f$f" ;; esac; done
i=0; until [ $i -ge 3 ]; do i=$((i + 1)); done; echo $i
set -- -a val -b rest
while getopts a:b opt; do echo "$opt ${OPTARG:-none}"; done
shift $((OPTIND - 1)); echo "$@"

### here_documents shell=dash
x=1
cat <<END
x is $x, $(echo nested)
END
cat <<'END' > file
raw $x
END
cat file

### traps_and_children shell=dash
trap 'echo bye' EXIT
trap 'echo usr1' USR1
kill -USR1 $$
sleep 10 & pid=$!
kill $pid; wait $pid; echo $?
(exit 7) & wait $!; echo $?
sh -c 'kill -9 $$'; echo $?
echo end

### substitution shell=dash
v=/a/b/c.txt
echo "${v%/*} ${v##*/} ${v%.txt} ${unset:-default} ${v:+set} ${#v}"
export E=exported; sh -c 'echo $E'
E=once sh -c 'echo $E'; echo "$E"
eval 'echo evaluated'
command -v sh >/dev/null && echo found
test -d /usr -a -r /etc/passwd && echo yes

### script_file shell=dash
printf '#!/bin/sh\necho "$0" | sed "s,.*/,,"; echo "args: $*"; exit 4\n' > script
chmod +x script
./script one two; echo $?
printf '#!/usr/bin/env -S sh -e\nfalse\necho no\n' > second; chmod +x second
./second; echo $?
chmod -x script; (exec ./script) 2>/dev/null; echo $?
