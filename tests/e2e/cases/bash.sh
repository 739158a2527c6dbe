# bash: pipelines, here-documents, process substitution, job control, traps.

### pipeline
ls /usr/bin | sort | head -n 200 | awk '{ n += length($0) } END { print NR, n }'
ls -l /usr/bin | awk 'NR > 1 { size += $5 } END { print (size > 1000000) }'
seq 1 20000 | grep 7 | sed 's/7/seven/g' | sort -r | uniq -c | wc -l
yes | head -n 1000 | wc -c
set -o pipefail
false | true; echo "${PIPESTATUS[@]} $?"
true | false | true; echo $?

### pipeline_of_many
x=$(seq 1 50000)
for i in 1 2 3 4 5 6 7 8; do x=$(cat <<<"$x" | tail -n +2 | cat); done
echo "$x" | md5sum

### here_documents
name=world
cat <<END
hello $name $((6 * 7)) $(echo sub)
END
cat <<'END'
no $name expansion
END
cat <<-END
	tabs are stripped
	END
tr a-z A-Z <<<"here string"
while read -r a b; do echo "$b-$a"; done <<END
1 one
2 two
END
head -c 200000 /dev/zero | tr '\0' x > big
cat <<END | wc -c
$(cat big)
END

### process_substitution
diff <(seq 1 5) <(seq 1 2 9)
echo "status $?"
paste <(seq 3) <(seq 4 6) | tee >(wc -l > lines) | tail -n 1
for _ in $(seq 100); do [ -s lines ] && break; sleep 0.02; done
cat lines
while read -r line; do total=$((total + line)); done < <(seq 100)
echo "$total"

### job_control
set -m
sleep 30 & a=$!
sleep 30 & b=$!
jobs -r | wc -l
kill -STOP "$a"
for _ in $(seq 200); do [[ $(jobs -s | wc -l) == 1 ]] && break; sleep 0.01; done
jobs -s | sed 's/[0-9]\{2,\}//'
kill -CONT "$a"
for _ in $(seq 200); do [[ $(jobs -r | wc -l) == 2 ]] && break; sleep 0.01; done
jobs -r | wc -l
kill %1 %2
wait "$a"; echo $?
wait "$b"; echo $?
(exit 3) & wait $!; echo $?
[[ $(ps -o pgid= -p $$ 2>/dev/null || echo 0) ]] && echo grouped

### foreground_group timeout=30
set -m
bash -c 'kill -TSTP $$; echo continued' &
job=$!
# In no loop: bash leaves those when a job stops meanwhile.
wait $job
echo $?
jobs -s | awk '{ print $2 }'
kill -CONT %1
wait $job
echo $?

### wait_n
for n in 3 1 2; do (sleep 0.$n; exit $n) & done
for _ in 1 2 3; do wait -n; echo $?; done
wait -n; echo $?

### traps
trap 'echo exit trap $?' EXIT
trap 'echo usr1' USR1
trap 'echo term' TERM
trap '' HUP
kill -USR1 $$
kill -TERM $$
kill -HUP $$
echo still here
(trap 'echo sub exit' EXIT; exit 5)
echo $?
trap 'echo error on line' ERR
false
trap - USR1
bash -c 'trap "echo inner; exit 9" INT; kill -INT $$; echo not reached'
echo $?
exit 0

### trap_while_waiting
trap 'echo got it' USR1
sleep 20 & child=$!
(sleep 0.1; kill -USR1 $$) &
wait "$child"
echo $(($? > 128))
kill "$child"
wait "$child" 2>/dev/null
echo $?

### killed_children
for s in HUP INT QUIT KILL PIPE ALRM TERM USR1 SEGV ABRT; do
  bash -c "ulimit -c 0; kill -$s \$\$; sleep 1" 2>/dev/null
  echo "$s $?"
done
bash -c 'exec sh -c "exit 42"'; echo $?
/nonexistent 2>/dev/null; echo $?
/tmp 2>/dev/null; echo $?
yes 2>/dev/null | head -n 1; echo "${PIPESTATUS[@]}"

### redirections
exec 3>three 4<>four
echo to three >&3
echo to four >&4
{ echo out; echo err >&2; } >both 2>&1
{ echo out; echo err >&2; } 2>&1 >/dev/null | sed 's/^/piped /'
cat three four both
exec 3>&- 4>&-
echo x 2>/dev/null >&3 || echo closed
set -C; echo again 2>/dev/null > three || echo kept
echo more >> three; wc -l < three
echo hi > /dev/stderr 2>&1
ls -l /dev/fd/ > /dev/null && echo ok

### arrays_and_expansion
a=(one two three); declare -A m=([k]=v [x]=y)
echo "${#a[@]} ${a[@]:1} ${m[k]} ${!m[@]}" | tr ' ' '\n' | sort | tr '\n' ' '
s="hello world"; echo "${s^^} ${s/o/0} ${s:0:5} ${#s} ${s%% *} ${s##* }"
touch f{1..9}.txt .hidden
echo f[1-3].txt * ; shopt -s nullglob extglob; echo *.none
eval 'touch g; echo !(f*)'
echo $((2 ** 40)) $((0xff)) $((7 % 3)) $((1 ? 2 : 3))
printf '%05d|%-5s|%x\n' 42 ab 255
mapfile -t lines < <(printf 'a\nb\n'); echo "${#lines[@]}"
[[ abc123 =~ ([a-z]+)([0-9]+) ]] && echo "${BASH_REMATCH[2]}"

### coprocess
coproc BC { while read -r x; do echo $((x * 2)); done; }
pid=$BC_PID
for i in 1 21 300; do echo "$i" >&"${BC[1]}"; read -r r <&"${BC[0]}"; echo "$r"; done
eval "exec ${BC[1]}>&-"
wait "$pid"; echo $?

### read_timeouts
if read -r -t 0.1 x < <(sleep 5); then echo read; else echo $(($? > 128)); fi
printf 'abc' | { read -r -n 2 x; echo "$x"; }
printf 'a:b:c\n' | { IFS=: read -r x y z; echo "$z$y$x"; }

### many_children timeout=120
for i in $(seq 100); do (exit $((i % 7))) & done
wait
n=0; for i in $(seq 200); do n=$((n + $(echo 1))); done; echo $n
for i in $(seq 50); do /bin/true; done; echo done

### fifo
mkfifo pipe
(for i in 1 2 3; do echo "line $i"; done > pipe) &
cat pipe
wait
[ -p pipe ] && echo "is a fifo"

### limits_and_umask
umask 027; touch a; mkdir d; stat -c %a a d
ulimit -n 64; ulimit -n
bash -c 'ulimit -f 1; trap "" XFSZ; head -c 5000 /dev/zero > big 2>/dev/null; stat -c %s big'
(ulimit -n 10; exec 9>/dev/null && echo nine; (exec 10>/dev/null) 2>/dev/null || echo limited)

### standard_input stdin="first\nsecond"
read -r all; echo "$all" | tr '\\' /
[ -t 0 ] || echo "no terminal"
