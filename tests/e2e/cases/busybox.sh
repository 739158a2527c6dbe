# busybox: its shell and applets.

### shell shell="busybox sh"
for i in 1 2 3; do echo "n $i"; done | busybox tac | busybox sort
x=$(busybox seq 1 100 | busybox awk '{ s += $1 } END { print s }'); echo "$x"
busybox sleep 5 & p=$!
kill $p; wait $p; echo $?
cat <<END
here $x
END

### files shell="busybox sh"
busybox mkdir -p a/b/c; busybox touch a/b/f; busybox ln -s f a/b/l; busybox cp -r a z
busybox find z | busybox sort
busybox mv z/b/f z/g; busybox rm -r a; busybox ls -1 z z/b
busybox stat -c '%s %F' z/g
busybox dd if=/dev/zero of=d bs=1k count=7 2>/dev/null; busybox wc -c d
busybox du -a z >/dev/null && echo du
busybox readlink z/b/l

### text shell="busybox sh"
busybox seq 1 500 > n
busybox grep -c 9 n; busybox sed -n '10,12p' n; busybox head -n 2 n; busybox tail -n 2 n
busybox cut -c1 n | busybox sort | busybox uniq -c | busybox awk '{ print $2, $1 }'
busybox tr 0-9 a-j < n | busybox md5sum
busybox diff n n && echo same
busybox xargs -n 100 busybox echo < n | busybox wc -l
busybox expr 6 '*' 7; busybox printf '%03d\n' 7; busybox od -An -tx1 -N 4 n

### archives shell="busybox sh"
busybox mkdir t; busybox seq 1 3000 > t/a; busybox seq 5 > t/b
busybox tar -czf t.tgz t; busybox rm -r t; busybox tar -xzf t.tgz; busybox md5sum t/a t/b
busybox gzip -c t/a | busybox gunzip -c | busybox cmp - t/a && echo gzip
busybox bzip2 -c t/a | busybox bunzip2 -c | busybox cmp - t/a && echo bzip2
busybox find t -type f | busybox cpio -o -H newc 2>/dev/null | busybox cpio -t 2>/dev/null | busybox sort

### processes shell="busybox sh"
busybox sleep 30 & p=$!
busybox ps -o pid,comm | busybox grep -c "^ *$p "
busybox pidof busybox > /dev/null && echo pidof
busybox kill -TERM $p; wait $p; echo $?
busybox timeout 0.2 busybox sleep 10; echo $?
busybox nproc > /dev/null && echo nproc
busybox free | busybox awk '/^Mem/ { print ($2 > 0) }'
busybox env -i A=1 busybox env
busybox id -u > /dev/null && busybox uname -s
