# gcc, g++ and make: compiled here, run here.

### hello timeout=60
printf '#include <stdio.h>\nint main(int c, char** v) { printf("hello %%d %%s\\n", c, v[1]); return 3; }\n' > h.c
gcc -O1 -o h h.c && ./h x; echo $?
gcc -static -o hs h.c && ./hs y; echo $?
gcc -c h.c -o h.o && ar rcs libh.a h.o && nm libh.a | grep -c main; size h | wc -l; strip h && ./h z
echo 'int main( {' > bad.c; gcc bad.c 2>/dev/null; echo $?

### cplusplus timeout=120
cat > p.cc <<'END'
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <iostream>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>
int main() {
  std::map<std::string, int> m{{"b", 2}, {"a", 1}};
  for (auto& [k, v] : m) std::cout << k << v << "\n";
  try { throw std::runtime_error("caught"); } catch (std::exception& e) { std::cout << e.what() << "\n"; }
  std::atomic<long> n{0}; std::mutex mu; std::condition_variable cv; int ready = 0;
  std::vector<std::thread> ts;
  for (int i = 0; i < 8; i++) ts.emplace_back([&] { for (int j = 0; j < 10000; j++) n++;
    std::lock_guard l(mu); if (++ready == 8) cv.notify_one(); });
  { std::unique_lock l(mu); cv.wait(l, [&] { return ready == 8; }); }
  for (auto& t : ts) t.join();
  std::vector<double> v(1000000); for (size_t i = 0; i < v.size(); i++) v[i] = double((i * 7919) % 1000003);
  std::sort(v.begin(), v.end()); std::cout << n << " " << v[500000] << std::endl;
}
END
g++ -O1 -std=c++17 -pthread p.cc -o p && ./p

### shared_library timeout=60
echo 'int twice(int x) { return 2 * x; }' > l.c
cat > m.c <<'END'
#include <dlfcn.h>
#include <stdio.h>
int main() { void* h = dlopen("./libl.so", RTLD_NOW); int (*f)(int) = (int (*)(int))dlsym(h, "twice"); printf("%d\n", f(21)); return dlclose(h); }
END
gcc -shared -fPIC -o libl.so l.c && gcc m.c -o m -ldl && ./m; readelf -d libl.so | grep -c SONAME; ldd m | grep -c libc.so

### signals_and_memory timeout=60
cat > s.c <<'END'
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
static sigjmp_buf j; static volatile int code;
static void h(int s, siginfo_t* i, void* c) { code = i->si_code; siglongjmp(j, s); }
int main() {
  struct sigaction a; memset(&a, 0, sizeof a); a.sa_sigaction = h; a.sa_flags = SA_SIGINFO; sigaction(SIGSEGV, &a, 0); sigaction(SIGFPE, &a, 0);
  int s = sigsetjmp(j, 1); if (!s) *(volatile int*)8 = 1; printf("%d %d\n", s, code);
  char* p = mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); s = sigsetjmp(j, 1); if (!s) p[0] = 1; printf("%d %d\n", s, code);
  volatile int z = 0; s = sigsetjmp(j, 1); if (!s) z = 1 / z; printf("%d %d\n", s, code);
  int* q = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); if (!fork()) { *q = 5; abort(); }
  wait(&s); printf("%d %d\n", WTERMSIG(s), *q); char* big = malloc(100 << 20); memset(big, 1, 100 << 20); printf("%d\n", big[99 << 20]);
}
END
gcc -w s.c -o s && ulimit -c 0 && ./s

### project_of_50_files timeout=400
mkdir src; for i in $(seq 50); do
  printf '#include <string>\n#include <vector>\nstd::string f%d(int n) { std::vector<int> v(n, %d); int s = 0; for (int x : v) s += x; return std::to_string(s); }\n' "$i" "$i" > "src/f$i.cc"
done
{ echo '#include <cstdio>'; echo '#include <string>'; for i in $(seq 50); do echo "std::string f$i(int);"; done
  echo 'int main() {'; for i in $(seq 50); do echo "  std::printf(\"%s \", f$i(3).c_str());"; done; echo '}'; } > src/main.cc
cat > Makefile <<'END'
OBJECTS := $(patsubst src/%.cc,out/%.o,$(wildcard src/*.cc))
all: out/program
out/program: $(OBJECTS)
	g++ -o $@ $^
out/%.o: src/%.cc | out
	g++ -O1 -MMD -c -o $@ $<
out:
	mkdir -p $@
-include out/*.d
clean:
	rm -rf out
.PHONY: all clean
END
make -s -j2 && out/program && echo; ls out/*.o | wc -l
make -q; echo $?; touch src/f7.cc; make -n | grep -c 'g++'; make -s -j2 && out/program | md5sum; make -s clean; ls
