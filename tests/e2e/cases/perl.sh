# perl.

### text
seq 1 1000 | perl -ne '$s += $_; END { print "$s\n" }'; perl -pe 's/(\w+) (\w+)/$2 $1/' <<<"hello world"
perl -e 'my %h = map { $_ => length } qw(a bb ccc); print join(",", map { "$_=$h{$_}" } sort keys %h), "\n"'
perl -MList::Util=sum -e 'print sum(map { $_ ** 2 } 1 .. 100), "\n"; printf("%.3f %s\n", atan2(1, 1) * 4, ucfirst lc "ABC")'
perl -MDigest::MD5=md5_hex -MPOSIX=floor -e 'print md5_hex("x" x 100000), floor(3.7), "\n"; exit 5'; echo $?

### files_and_processes
perl -e 'open my $f, ">", "f" or die; print $f "line $_\n" for 1 .. 100; close $f; print -s "f", "\n"; rename "f", "g"; print join(" ", glob("*")), "\n"'
perl -i -pe 's/line/row/' g; head -n 1 g; perl -e 'opendir D, "/etc"; print scalar(grep { /^passwd$/ } readdir D), "\n"'
perl -e '$| = 1; my $p = fork; if (!$p) { print "child\n"; exit 3 } waitpid $p, 0; print $? >> 8, "\n"; print `echo back`; system("exit 4"); print $? >> 8, "\n"'
perl -e 'pipe R, W; if (!fork) { close R; print W "through\n" x 3; exit } close W; print <R>; wait; open P, "-|", "seq 3"; print <P>; close P'
perl -e '$SIG{USR1} = sub { print "usr1\n" }; kill USR1 => $$; $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; sleep 10 }; print $@'
perl -MSocket -e 'socketpair(A, B, AF_UNIX, SOCK_STREAM, 0); syswrite A, "sock\n"; sysread B, $x, 10; print $x; select(undef, undef, undef, 0.01)'
perl -MIO::File -MFcntl=:flock -e '$f = IO::File->new("lock", "w"); print flock($f, LOCK_EX | LOCK_NB), "\n"; print((stat "lock")[7], "\n")'
perl -e 'print "not a terminal\n" unless -t STDIN; print((times)[0] >= 0, "\n"); print $0, " @ARGV\n"' a b
