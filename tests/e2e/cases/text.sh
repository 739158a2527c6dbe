# grep, sed, awk, and the archivers: tar, gzip, xz.

### grep
for i in $(seq 200); do echo "line $i of text, id=$((i * 37 % 101))"; done > f
grep -c 'id=1' f; grep -n 'id=42$' f; grep -o 'id=[0-9]*' f | sort -u | wc -l; grep -v line f; echo $?
grep -E '^line (1|2)0 ' f; grep -P 'id=(\d)\1$' f | head -n 3; grep -F 'of text,' f | wc -l
mkdir -p d/e; cp f d/e/g; echo needle > d/h; grep -rl needle d; grep -rc 'id=7$' d | sort
printf 'a\0b' > bin; grep -c b bin; grep -q nothing f; echo $?; grep x nofile 2>/dev/null; echo $?
grep -A1 -B1 -m1 'id=50' f; grep -iw LINE f | wc -l; echo abc | grep --color=always b | od -c | head -n 1
grep -r --include='*.h' -l 'define' /usr/include 2>/dev/null | wc -l

### sed
seq 1 20 > n; sed -n '5,7p' n; sed '1~3d' n | wc -l; sed 's/1/one/2' <<<"1 1 1"; sed -E 's/(.)(.)/\2\1/' <<<abcd
sed -i 's/^/x/' n; head -n 1 n; sed -i.bak '1d' n; ls; sed '$!d' n; sed -n '/x9/,/x12/p' n
sed ':a;N;$!ba;s/\n/,/g' n; sed 'y/abc/xyz/' <<<aabbcc; sed -n '$=' n; sed '2i\inserted' n | sed -n 2p
sed -n 'w out' n; cmp n out && echo written; printf 'a\nb\n' | sed 'G;s/\n$/-/'; sed 10q n | wc -l

### awk
seq 1 1000 | awk '{ s += $1; q += $1 * $1 } END { print s, q, s / NR }'
awk -F: '{ n[$7]++ } END { for (k in n) print k, n[k] }' /etc/passwd | sort | head -n 3
awk 'BEGIN { while (("echo a; echo b" | getline line) > 0) print "got " line; close("x") }'
awk 'BEGIN { print "z\ny\nx" | "sort"; close("sort"); print "after"; r = system("exit 3"); print r }'
awk 'BEGIN { printf "%5.2f|%-4s|%03d|%x\n", 3.14159, "ab", 7, 255; print substr("hello", 2, 3), toupper("up") }'
awk '{ a[NR] = $0 } END { for (i = NR; i > 0; i--) print a[i] > "reversed" }' <(seq 5); cat reversed
awk 'BEGIN { x = "a b c"; n = split(x, p, " "); print n, p[3]; gsub(/b/, "[&]", x); print x, index(x, "c") }'
awk -v v=5 'BEGIN { exit v }'; echo $?
awk 'BEGIN { srand(1); for (i = 0; i < 100000; i++) s += i % 7; print s }'

### tar
mkdir -p t/sub/deep; seq 1 5000 > t/a; echo b > t/sub/b; ln t/a t/hard; ln -s ../a t/sub/link
chmod 750 t/sub; touch -d @1000000000 t/a; mkfifo t/fifo; truncate -s 2M t/sparse
tar -cf t.tar --sort=name t; tar -tf t.tar; tar -tvf t.tar | awk '{ print $1 }' | sort | uniq -c
mkdir x; tar -xpf t.tar -C x; diff -r --no-dereference -x fifo t x/t && echo same
stat -c '%n %a %h %Y' x/t/a; stat -c %a x/t/sub; readlink x/t/sub/link; [ -p x/t/fifo ] && echo fifo
tar -cSf sparse.tar t/sparse; stat -c %s sparse.tar; tar -rf t.tar -C / etc/hostname; tar -tf t.tar | tail -n 1
tar -C t -cf - . | tar -xf - -O ./sub/b; tar -df t.tar t; echo $?
tar --exclude='sub' -cf - t | tar -tf - | wc -l; tar -xf nofile.tar 2>/dev/null; echo $?

### tar_compressed timeout=120
mkdir d; for i in $(seq 200); do seq "$i" $((i + 500)) > "d/f$i"; done
for z in gzip bzip2 xz; do
  command -v $z > /dev/null || continue
  tar -cf "$z.tar" --$z d; mkdir "out-$z"; tar -xf "$z.tar" -C "out-$z"; diff -r d "out-$z/d" && echo "$z same"
done
find d -type f | wc -l; cat d/* | md5sum

### gzip
seq 1 100000 > n; gzip -k n; gzip -t n.gz; gzip -l n.gz | awk 'NR == 2 { print $2 }'
zcat n.gz | cmp - n && echo same; gunzip -c < n.gz | md5sum; gzip -9c n | gzip -dc | tail -n 1
echo more | gzip >> n.gz; zcat n.gz | tail -n 1; rm n; gunzip n.gz; stat -c %s n
zgrep -c 99 <(gzip -c n); echo broken > b.gz; gzip -t b.gz 2>/dev/null; echo $?

### xz timeout=120
seq 1 100000 > n; xz -k n; xz -t n.xz && echo valid; xzcat n.xz | cmp - n && echo same
xz -T2 -2 -c n | xz -dc | md5sum; md5sum < n; xz -l n.xz | awk 'NR == 2 { print $1 }'
tar -cJf n.tar.xz n; tar -tJf n.tar.xz; rm n; unxz n.xz; stat -c %s n
