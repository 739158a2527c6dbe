# coreutils and findutils.

### files
mkdir -p d/e; echo one > d/a; cp d/a d/b; ln d/a d/hard; ln -s a d/soft; mv d/b d/e/c
ls d d/e; stat -c '%n %s %h %F %a' d/a d/soft d/e | sort
readlink d/soft; realpath --relative-to=. d/e/../soft
cp -a d copy; diff -r d copy && echo same
rm -r copy; rmdir d/e 2>/dev/null || echo "not empty"
install -m 640 d/a inst; stat -c %a inst
cp --sparse=always /dev/null empty; stat -c %s empty
cp -u d/a d/new; cat d/new; ls -i d/a d/hard | awk '{ print $1 }' | uniq | wc -l
touch -d '2020-02-03 04:05:06.789' t; stat -c %y t; touch -r t u; stat -c %Y u
truncate -s 1M big; stat -c '%s %b' big; du --apparent-size -k big | cut -f1
mkdir -m 1777 sticky; stat -c %A sticky
ln -s loop loop; cat loop 2>&1 | sed 's/.*: //'
cat nofile 2>&1 | sed 's/.*: //'; mkdir d 2>&1 | sed 's/.*: //'; rm d 2>&1 | sed 's/.*: //'

### listing
mkdir l; cd l; for i in $(seq 300); do echo "$i" > "file$i"; done; mkdir sub; touch .dot
ls | wc -l; ls -a | wc -l; ls -v | head -n 12 | tail -n 3; ls -S | head -n 1
ls -l file7 | awk '{ print $1, $2, $5, $NF }'
ls -ld sub | cut -c1-10; rm file1*; ls | wc -l
ls -lR .. | grep -c file; dir -w 40 | head -n 2

### permissions
touch f; chmod 000 f; stat -c %A f; chmod u=rw,g=r,o= f; stat -c %A f; chmod +x f; stat -c %a f
chmod 4755 f; stat -c %A f; chown 12:34 f && stat -c '%u:%g %a' f
mkdir s; chgrp 34 s; chmod g+s s; mkdir s/t; stat -c '%g %A' s/t
[ -r f ] && [ -w f ] && [ -x f ] && echo accessible

### text
seq 1 100 > n; shuf --random-source=n n | sort -n | cmp - n && echo sorted
sort -k2,2nr -k1 <<<$'a 2\nb 10\nc 2' ; sort -u <<<$'b\na\nb'
head -c 10 n | od -c | head -n 1; tail -c 4 n | xxd -p 2>/dev/null || tail -c 4 n | od -An -tx1
cut -d: -f1 /etc/passwd | head -n 1; paste -sd+ <(seq 5) | tr -d '\n'; echo
join <(printf '1 a\n2 b\n') <(printf '1 x\n3 y\n'); comm -12 <(seq 1 5) <(seq 3 8)
fold -w 20 <<<"the quick brown fox jumps over the lazy dog"; fmt -w 20 <<<"a b c d e f g h i j k l m"
nl <<<$'x\ny'; tac n | head -n 1; rev <<<abc; expand <<<$'a\tb'; column -t <<<$'a b\nccc d'
split -l 30 n part; wc -l part*; csplit -s n 50; wc -l xx0*; tsort <<<$'a b\nb c'
sha256sum n; md5sum n | md5sum --check; base64 <<<binary | base64 -d; cksum n; b2sum n | cut -c1-16
printf '%s\n' 3 1 2 | sort | tee sorted | wc -l; numfmt --to=iec 1048576; factor 123456; seq -w 8 11

### big_data timeout=120
dd if=/dev/zero bs=1M count=32 2>/dev/null | sha1sum
seq 1 200000 | sort -R --random-source=<(yes) | sort -n | md5sum
dd if=/dev/zero of=sparse bs=1 count=1 seek=10M 2>/dev/null; stat -c %s sparse; md5sum sparse
dd if=sparse of=copy bs=64k iflag=fullblock 2>/dev/null; cmp sparse copy && echo same
head -c 3M /dev/zero | split -b 1M - piece; cat piece* | wc -c
head -c 100000 /dev/urandom | wc -c

### processes
timeout 0.2 sleep 10; echo $?
timeout -s KILL 0.2 sleep 10; echo $?
nice -n 5 nice; nohup true 2>/dev/null; echo $?
env -i A=b env; env -C / pwd; date -u -d @86400 '+%F %T'; sleep 0.01; echo $?
tail -f -n 1 --pid=$$ /etc/hostname > /dev/null & sleep 0.1; kill $!; wait $! 2>/dev/null; echo $?
: > log; (tail -f log & echo $! > pid; wait) > followed & sleep 0.2; echo line >> log
for _ in $(seq 100); do [ -s followed ] && break; sleep 0.05; done; kill "$(cat pid)"; cat followed
uname -s -m; nproc > /dev/null && echo nproc; id -u > /dev/null; tty < /dev/null; echo $?
stdbuf -oL echo line; expr 3 + 4; test 1 -lt 2; echo $?; printenv HOME; logname 2>/dev/null; true
mktemp -u tmp.XXXX | wc -c; mktemp -d dXXXXX | wc -c; pathchk -p ok; basename /a/b.c .c; dirname /a/b/c
sync; df . > /dev/null && echo df; stat -f -c %T . > /dev/null && echo statfs

### fifo_and_tee
mkfifo p q; (tee q < p | wc -c > count) & cat q | md5sum > sum & seq 1000 > p; wait; cat count sum

### findutils
mkdir -p a/b/c 'with space'; touch a/1.txt a/b/2.txt a/b/c/3.log 'with space/4.txt'; ln -s a link
head -c 5000 /dev/zero > a/big; chmod 600 a/1.txt; touch -d '2001-01-01' a/b/old
find . -name '*.txt' | sort; find . -type d | sort; find . -size +4k -type f; find . -perm 600
find . -not -newermt 2010-01-01 -type f; find -L . -name 1.txt | sort; find . -maxdepth 1 | sort
find . -name '*.txt' -print0 | xargs -0 -n 1 -P 2 basename | sort
find . -name '*.txt' -exec sh -c 'echo "$#"' sh {} +
find . -type f -printf '%f %s %m %d\n' | sort; find . -name '*.log' -delete; find . -name '*.log' | wc -l
find . -empty | wc -l; find . -newer a/b/old -type f | wc -l; find . -inum "$(stat -c %i a/big)"
seq 1000 | xargs -n 50 echo | wc -l; seq 3 | xargs -I{} echo "<{}>"; echo x | xargs -r false; echo $?
seq 10000 | xargs echo | wc -l

### find_usr timeout=120
find /usr/bin -maxdepth 1 -type f | sort | md5sum
find /usr/share/doc -name copyright | wc -l
find /usr/lib -type l | sort | md5sum
find /etc -type f -size -8k 2>/dev/null | sort | head -n 50 | xargs cat 2>/dev/null | md5sum
