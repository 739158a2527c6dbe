// A guest that tries to reach a file beside its root; see root_test.py, which prepares the trees
// and swaps directories with symlinks from outside meanwhile. Prints "ESCAPED: how" and exits with
// 99 if it ever reads the secret, and how many ways it tried otherwise.
//
// usage: root_guest HOST_PATH_OF_THE_SECRET
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr char kSecret[] = "the host's secret";
const char* g_host_path;
int g_tried;

std::string Up(int levels) {
  std::string path;
  for (int i = 0; i < levels; ++i) path += "../";
  return path;
}

void Judge(int fd, const std::string& how) {
  ++g_tried;
  if (fd < 0) return;
  char text[64] = {};
  const ssize_t n = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (n > 0 && strstr(text, kSecret) != nullptr) {
    printf("ESCAPED: %s\n", how.c_str());
    exit(99);
  }
}

// From a directory: by name, upwards, and by what the host calls the file.
void TryFrom(int directory, const std::string& how) {
  for (const int levels : {0, 1, 2, 3, 5, 40}) {
    for (const char* tail : {"outside/secret", "secret"}) {
      const std::string path = Up(levels) + tail;
      Judge(openat(directory, path.c_str(), O_RDONLY), how + ", " + path);
    }
    const std::string host = Up(levels) + (g_host_path + 1);
    Judge(openat(directory, host.c_str(), O_RDONLY), how + ", " + host);
  }
  Judge(openat(directory, g_host_path, O_RDONLY), how + ", the host's path");
}

void TryPath(const std::string& path) {
  TryFrom(AT_FDCWD, "from the working directory");
  Judge(open(path.c_str(), O_RDONLY), path);
  const int directory = open(path.c_str(), O_PATH);
  if (directory < 0) return;
  TryFrom(directory, "from " + path);
  close(directory);
}

// What the image or the volume brought along, and the links of /proc.
void FoundLinks(const std::string& base) {
  for (const char* link : {"to_secret", "to_outside", "to_root", "up", "loop/../to_secret"}) {
    TryPath(base + link);
    Judge(open((base + link + "/secret").c_str(), O_RDONLY), base + link + "/secret");
    Judge(open((base + link + "/outside/secret").c_str(), O_RDONLY), base + link);
  }
}

void MagicLinks() {
  const int root = open("/", O_PATH);
  for (const std::string& path :
       {std::string("/proc/self/root"), std::string("/proc/1/root"), std::string("/proc/self/cwd"),
        std::string("/proc/self/exe"), "/proc/self/fd/" + std::to_string(root),
        "/proc/thread-self/fd/" + std::to_string(root)}) {
    TryPath(path);
    TryPath(path + "/..");
  }
  close(root);
}

void OwnLinks(const std::string& base) {
  const std::string link = base + "own_link";
  for (const std::string& target : {std::string(g_host_path), Up(40) + (g_host_path + 1),
                                    Up(3) + "outside/secret", std::string("/proc/1/root/..")}) {
    unlink(link.c_str());
    if (symlink(target.c_str(), link.c_str()) != 0) continue;
    TryPath(link);
  }
  Judge(linkat(AT_FDCWD, g_host_path, AT_FDCWD, (base + "hard").c_str(), AT_SYMLINK_FOLLOW),
        "a hard link");
}

// A directory is held open and moved up, so that its ".." is nearer to the root than its path was.
void MovedDirectories(const std::string& base) {
  const std::string deep = base + "a/b/c";
  mkdir((base + "a").c_str(), 0777);
  mkdir((base + "a/b").c_str(), 0777);
  mkdir(deep.c_str(), 0777);
  const int held = open(deep.c_str(), O_RDONLY | O_DIRECTORY);
  TryFrom(held, "a held directory");
  rename(deep.c_str(), (base + "c").c_str());
  TryFrom(held, "a moved directory");
  rmdir((base + "c").c_str());
  TryFrom(held, "a removed directory");
  close(held);
}

void NewRoots() {
  const int root = open("/", O_RDONLY | O_DIRECTORY);
  mkdir("/jail", 0777);
  if (chroot("/jail") == 0) {
    TryFrom(AT_FDCWD, "below a new root");
    TryFrom(root, "the root held over chroot");
    if (fchdir(root) == 0 && chroot(".") == 0) TryFrom(AT_FDCWD, "back at the old root");
  }
  mkdir("/bound", 0777);
  if (mount("/..", "/bound", nullptr, MS_BIND | MS_REC, nullptr) == 0) TryPath("/bound");
  if (syscall(SYS_pivot_root, "/bound", "/bound") == 0) TryPath("/");
  close(root);
}

// One thread moves what another walks through.
void Races(const std::string& base, int rounds) {
  const std::string swap = base + "swap", other = base + "other", link = base + "swap_link";
  mkdir(swap.c_str(), 0777);
  mkdir((swap + "/in").c_str(), 0777);
  mkdir(other.c_str(), 0777);
  symlink("..", link.c_str());
  std::atomic<bool> stop = false;
  std::thread mover([&] {
    while (!stop) {
      rename((swap + "/in").c_str(), (other + "/in").c_str());
      rename((other + "/in").c_str(), (swap + "/in").c_str());
      syscall(SYS_renameat2, AT_FDCWD, swap.c_str(), AT_FDCWD, link.c_str(), 2 /* EXCHANGE */);
    }
  });
  for (int i = 0; i < rounds; ++i) {
    Judge(open((swap + "/in/../../../outside/secret").c_str(), O_RDONLY), "a race of renames");
    Judge(open((swap + "/../../outside/secret").c_str(), O_RDONLY), "a race with a symlink");
    Judge(open((base + "flip/secret").c_str(), O_RDONLY), "a race with the host");
    Judge(open((base + "flip/../../outside/secret").c_str(), O_RDONLY), "a race with the host");
  }
  stop = true;
  mover.join();
}

}  // namespace

int main(int, char** argv) {
  g_host_path = argv[1];
  for (const char* base : {"/", "/volume/"}) {
    FoundLinks(base);
    OwnLinks(base);
    MovedDirectories(base);
    Races(base, 2'000);
  }
  MagicLinks();
  NewRoots();
  printf("tried %d ways\n", g_tried);
}
