# python3: threads, subprocess, multiprocessing, sqlite3, venv, and the modules that lean on the kernel.

### basics
python3 - <<'END'
import hashlib, json, os, re, sys, time
print(sum(i * i for i in range(200000)), sys.argv, os.getcwd() == os.environ.get("PWD"))
print(hashlib.sha256(b"x" * 1000000).hexdigest(), json.loads('{"a": [1, 2]}'))
names = sorted(os.listdir("/usr/bin"))
print(len(names) > 100, re.sub(r"\d", "#", "a1b2"))
t = time.monotonic(); time.sleep(0.05); print(0.04 < time.monotonic() - t < 5)
print(len(os.urandom(16)), os.path.exists("/nonexistent"), abs(time.time() - time.time_ns() / 1e9) < 1)
END
python3 -c 'import sys; sys.exit(7)'; echo $?
python3 -c 'raise ValueError("x")' 2>&1 | tail -n 1
python3 -c 'import json,re,subprocess,asyncio,ssl,decimal,unittest; print("imported")'

### files
python3 - <<'END'
import fcntl, mmap, os, shutil, stat, tempfile
with open("f", "w+b") as f:
    f.write(bytes(range(256)) * 64); f.flush()
    with mmap.mmap(f.fileno(), 0) as m:
        print(m[1000], m.find(b"\xff\x00")); m[0:3] = b"abc"; m.flush()
    f.seek(0); print(f.read(4)); fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_UN)
    os.truncate("f", 10); print(os.fstat(f.fileno()).st_size, os.pread(f.fileno(), 3, 0))
os.makedirs("d/e/f"); os.symlink("../f", "d/l"); os.link("f", "d/h"); os.rename("f", "d/e/g")
print(sorted((p, sorted(a), sorted(b)) for p, a, b in os.walk("d")), os.readlink("d/l"))
print(stat.filemode(os.lstat("d/l").st_mode), os.stat("d/h").st_nlink)
shutil.copytree("d", "c", symlinks=True); shutil.rmtree("d"); print(sorted(os.listdir("c")))
with tempfile.TemporaryDirectory(dir=".") as t, tempfile.TemporaryFile() as x:
    x.write(b"1"); print(os.path.isdir(t))
for call in (lambda: os.rmdir("c"), lambda: open("no"), lambda: os.mkdir("c"), lambda: os.chdir("c/h")):
    try: call()
    except OSError as e: print(e.errno, type(e).__name__)
fd = os.memfd_create("m"); os.write(fd, b"memfd"); print(os.pread(fd, 9, 0)); r, w = os.pipe()
os.write(w, b"pipe"); print(os.read(r, 10), os.get_blocking(r), os.get_inheritable(r))
os.utime("c/h", ns=(10**18, 10**18 + 5)); print(os.stat("c/h").st_mtime_ns)
print(os.sendfile(w, fd, 0, 5), os.read(r, 10), os.copy_file_range(os.open("c/h", os.O_RDONLY), os.open("o", os.O_CREAT | os.O_RDWR), 3))
END

### threads timeout=120
python3 - <<'END'
import concurrent.futures, queue, threading, time
lock = threading.Lock(); total = 0
def add():
    global total
    for _ in range(2000):
        with lock: total += 1
threads = [threading.Thread(target=add) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]; print(total)
q = queue.Queue(4)
def produce():
    for i in range(500): q.put(i)
    q.put(None)
threading.Thread(target=produce).start()
print(sum(iter(q.get, None)))
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    print(sum(pool.map(lambda n: n * n, range(500))))
b = threading.Barrier(5); seen = []
def meet():
    b.wait(); seen.append(1)
ts = [threading.Thread(target=meet) for _ in range(5)]
[t.start() for t in ts]; [t.join() for t in ts]; print(len(seen))
e = threading.Event(); print(e.wait(0.05)); threading.Timer(0.05, e.set).start(); print(e.wait(10))
c = threading.Condition(); print(c.acquire(), c.wait(0.05), threading.get_native_id() > 0)
END

### many_threads timeout=120
python3 - <<'END'
import threading
go = threading.Event(); done = []
ts = [threading.Thread(target=lambda i=i: (go.wait(), done.append(i))) for i in range(200)]
[t.start() for t in ts]; print(threading.active_count()); go.set(); [t.join() for t in ts]
print(sorted(done) == list(range(200)))
END

### subprocess timeout=120
python3 - <<'END'
import os, signal, subprocess, sys, time
print(subprocess.run(["echo", "hi"], capture_output=True, text=True).stdout)
print(subprocess.check_output("seq 10 | wc -l", shell=True))
p = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(len(p.communicate(b"x" * 300000)[0]), p.returncode)
p = subprocess.Popen(["sleep", "30"]); print(p.poll()); p.terminate(); print(p.wait())
p = subprocess.Popen(["sleep", "30"], start_new_session=True); os.killpg(p.pid, signal.SIGKILL); print(p.wait())
try: subprocess.run(["sleep", "30"], timeout=0.1)
except subprocess.TimeoutExpired: print("timeout")
try: subprocess.run(["/nonexistent"])
except FileNotFoundError as e: print(e.errno)
r = subprocess.run([sys.executable, "-c", "import sys; print(sys.stdin.read()); sys.exit(3)"], input="in", text=True,
                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={"A": "b"}, cwd="/")
print(r.returncode, r.stdout)
print([subprocess.run(["sh", "-c", f"exit {i}"]).returncode for i in range(20)])
pid = os.fork()
if pid == 0: os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn("/bin/false", ["false"], {}), 0)[1]))
END

### multiprocessing timeout=180
cat > mp.py <<'END'
import multiprocessing as mp, os, sys
def square(x): return x * x
def send(conn, n): conn.send(list(range(n))); conn.close()
def add(v, a, n):
    for _ in range(n):
        with v.get_lock(): v.value += 1
    a[0] += 1.5
def put(q, n): q.put((n, os.getpid() != os.getppid()))
if __name__ == "__main__":
    mp.set_start_method(sys.argv[1])
    with mp.Pool(3) as pool: print(pool.map(square, range(50)))
    a, b = mp.Pipe(); p = mp.Process(target=send, args=(b, 1000)); p.start(); print(len(a.recv())); p.join()
    v, s = mp.Value("i", 0), mp.Array("d", 2)
    ps = [mp.Process(target=add, args=(v, s, 200)) for _ in range(3)]
    [p.start() for p in ps]; [p.join() for p in ps]; print(v.value)
    q = mp.Queue(); ps = [mp.Process(target=put, args=(q, i)) for i in range(3)]
    [p.start() for p in ps]; print(sorted(q.get() for _ in ps)); [p.join() for p in ps]
    print([p.exitcode for p in ps])
END
for m in fork spawn forkserver; do echo $m; python3 mp.py $m; done

### shared_memory
python3 - <<'END'
from multiprocessing import shared_memory
import os
a = shared_memory.SharedMemory(create=True, size=8192); b = shared_memory.SharedMemory(a.name)
pid = os.fork()
if pid == 0: b.buf[:5] = b"child"; os._exit(0)
os.waitpid(pid, 0); print(bytes(a.buf[:5])); b.close(); a.close(); a.unlink()
END

### sqlite timeout=120
python3 - <<'END'
import sqlite3, threading
db = sqlite3.connect("t.db")
db.execute("create table t(a integer primary key, b text)")
with db: db.executemany("insert into t(b) values (?)", ((f"row {i}",) for i in range(5000)))
print(db.execute("select count(*), max(b), sum(a) from t").fetchone())
print(db.execute("pragma journal_mode=wal").fetchone())
def insert(n):
    d = sqlite3.connect("t.db", timeout=60)
    for i in range(20):
        with d: d.execute("insert into t(b) values (?)", (f"{n}-{i}",))
ts = [threading.Thread(target=insert, args=(n,)) for n in range(4)]
[t.start() for t in ts]; [t.join() for t in ts]
print(db.execute("select count(*) from t").fetchone(), db.execute("pragma integrity_check").fetchone())
END
sqlite3 t.db 'select a from t where b = "row 77"; delete from t where a > 100; vacuum; select count(*) from t;'

### venv timeout=180
python3 -m venv --without-pip v
v/bin/python -c 'import sys; print(sys.prefix == sys.base_prefix, sys.prefix)'
site=$(echo v/lib/python3*/site-packages); mkdir "$site/mine"; echo 'x = 42' > "$site/mine/__init__.py"
. v/bin/activate; python -c 'import mine; print(mine.x)'; deactivate
cat v/pyvenv.cfg | grep -c home; ls v/bin | grep -c python

### signals_and_timers
python3 - <<'END'
import os, signal, time, threading, select
got = []
signal.signal(signal.SIGUSR1, lambda s, f: got.append(s)); os.kill(os.getpid(), signal.SIGUSR1); print(got)
signal.signal(signal.SIGALRM, lambda s, f: got.append(s)); signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
while len(got) < 4: signal.pause()
signal.setitimer(signal.ITIMER_REAL, 0); print(len(got) >= 4)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); os.kill(os.getpid(), signal.SIGUSR2)
print(signal.sigpending() == {signal.SIGUSR2}, signal.sigwait([signal.SIGUSR2]), signal.sigtimedwait([signal.SIGHUP], 0.01))
r, w = os.pipe(); p = select.poll(); p.register(r, select.POLLIN); print(p.poll(10)); os.write(w, b"x"); print(len(p.poll(10)))
e = select.epoll(); e.register(r, select.EPOLLIN | select.EPOLLET); print(len(e.poll(0.1)), len(e.poll(0.01)))
print(select.select([r], [w], [], 0)[1] == [w], time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) > 0)
END

### asyncio timeout=60
python3 - <<'END'
import asyncio, socket
async def main():
    async def work(i): await asyncio.sleep(0.01 * (i % 5)); return i
    print(sum(await asyncio.gather(*(work(i) for i in range(200)))))
    p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1); print(await p.communicate(b"async"))
    async def serve(r, w): w.write((await r.readline()).upper()); await w.drain(); w.close()
    s = await asyncio.start_unix_server(serve, "sock"); r, w = await asyncio.open_unix_connection("sock")
    w.write(b"echo\n"); print(await r.read()); w.close(); s.close()
    try: await asyncio.wait_for(asyncio.sleep(10), 0.02)
    except asyncio.TimeoutError: print("timeout")
    print(await asyncio.get_running_loop().run_in_executor(None, lambda: 5))
asyncio.run(main())
END

### unix_sockets
python3 - <<'END'
import os, socket, threading
a, b = socket.socketpair(); total = []
def drain():
    while data := b.recv(4096): total.append(len(data))
t = threading.Thread(target=drain); t.start(); a.sendall(b"x" * 100000); a.close(); t.join(); print(sum(total))
s = socket.socket(socket.AF_UNIX); s.bind("s"); s.listen(2)
c = socket.socket(socket.AF_UNIX); c.connect("s"); d, _ = s.accept()
r, w = os.pipe(); socket.send_fds(c, [b"m"], [w]); m, fds, _, _ = socket.recv_fds(d, 10, 1); os.write(fds[0], b"via"); print(os.read(r, 9), m)
c.shutdown(socket.SHUT_WR); print(d.recv(5)); d.close(); print(c.recv(5))
try: socket.socket(socket.AF_UNIX).connect("none")
except OSError as e: print(e.errno)
try: socket.socket(socket.AF_UNIX).bind("s")
except OSError as e: print(e.errno)
END

### pty
python3 - <<'END'
import fcntl, os, pty, struct, termios, tty
pid, fd = pty.fork()
if pid == 0: os.execvp("sh", ["sh", "-c", "test -t 0 && echo terminal; read x; echo got $x; stty size; exit 4"])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0)); os.write(fd, b"line\n"); out = b""
try:
    while True: out += os.read(fd, 100)
except OSError as e: print(e.errno)
print(sorted(out.replace(b"\r", b"").split(b"\n")), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
m, s = os.openpty(); print(os.isatty(s), os.ttyname(s).startswith("/dev/pts/")); tty.setraw(s); os.write(m, b"\x03"); print(os.read(s, 5))
END
