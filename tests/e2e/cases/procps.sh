# ps, top, free and what else reads /proc. Figures differ; their form does not.

### ps
executed() { until [[ $(</proc/$1/comm) == sleep ]]; do sleep 0.01; done; }
sleep 30 & p=$!; executed $p
ps -o pid= -p $p | grep -c "$p"; ps -o comm=,args= -p $p; ps -o stat= -p $p | cut -c1; ps -o ppid= -p $p | tr -d ' ' | grep -cx $$
ps -e -o comm= | grep -cx sleep; ps aux | awk 'NR == 1 { print NF }'; ps -ef | grep -c '[s]leep 30'; ps -o nlwp=,ni= -p $p
ps -T -p $p | wc -l; ps --ppid $$ -o comm= | sort | uniq | grep -c sleep; ps -o etimes= -p $p | awk '{ print ($1 < 100) }'
kill $p; wait $p; ps -p $p > /dev/null; echo $?; pgrep -x nonexistent; echo $?; ps -o rss=,vsz= -p $$ | awk '{ print ($1 > 500 && $2 > $1) }'
sleep 30 & executed $!; pkill -P $$ -x sleep; wait $!; echo $?

### top
top -b -n 1 > t; head -n 1 t | cut -c1-5; sed -n 2p t | cut -d: -f1; grep -c '^ *PID' t; awk '$NF == "top"' t | wc -l
top -b -n 2 -d 0.2 -p $$ | grep -c '^top'; sed -n '4p' t | awk '{ print $2, ($4 > 1) }'

### free
free | awk '{ print $1, NF }'; free -m | awk '/^Mem/ { print ($2 > 10 && $3 >= 0 && $7 > 0) }'; free -h > /dev/null; echo $?
uptime | grep -c load; vmstat | wc -l; nproc | grep -cE '^[0-9]+$'; w -h > /dev/null; echo $?; pmap $$ | tail -n 1 | awk '{ print $1 }'

### proc_files
cat /proc/self/comm; tr '\0' ' ' < /proc/self/cmdline; echo; readlink /proc/self/exe | sed 's,.*/,,'; readlink /proc/self/cwd | sed 's/[0-9]\+/N/'
(exec 9</etc/passwd; readlink /proc/self/fd/9; cat /proc/self/fdinfo/9 | head -n 1); ls /proc/self/fd | head -n 3; ls -d /proc/$$ | wc -l
grep -c '\[stack\]' /proc/self/maps; awk '/^(Name|State|Threads)/ { print $1, $2 }' /proc/self/status; awk '{ print NF }' /proc/self/stat
grep -c '^processor' /proc/cpuinfo | grep -cE '^[0-9]+$'; awk '/^(MemTotal|MemFree|MemAvailable):/ { print $1, $3 }' /proc/meminfo; head -n 1 /proc/stat | awk '{ print $1, NF }'
cat /proc/sys/kernel/ostype; awk '{ print NF }' /proc/loadavg /proc/uptime; cut -d' ' -f1,2 /proc/version; grep -c ' / ' /proc/self/mounts | grep -vc '^0'
tr '\0' '\n' < /proc/self/environ | grep -c '^TZ=UTC'; ls /proc/self/task | wc -l; cat /proc/sys/kernel/pid_max | grep -cE '^[0-9]+$'; ls /proc | grep -cx self
cat /proc/self/statm | wc -w; cat /proc/filesystems | grep -c proc; head -n 1 /proc/self/limits | cut -c1-5; cat /proc/self/oom_score_adj | wc -l
