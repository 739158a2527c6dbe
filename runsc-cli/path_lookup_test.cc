#include "runsc-cli/path_lookup.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cstdlib>
#include <filesystem>

namespace skep::cli {
namespace {

// A small root, and a volume at /opt.
class PathLookup : public testing::Test {
 protected:
  PathLookup() {
    char name[] = "/tmp/skep-lookup-XXXXXX";
    top_ = mkdtemp(name);
    for (const char* dir : {"root/bin", "root/usr/bin", "root/home", "root/opt", "volume/bin"}) {
      std::filesystem::create_directories(top_ + "/" + dir);
    }
    Program("root/bin/tool", 0755);
    Program("root/usr/bin/tool", 0755);
    Program("root/usr/bin/data", 0644);
    Program("root/home/run", 0700);
    Program("volume/bin/extra", 0755);
    Program("root/opt/hidden", 0755);
    std::filesystem::create_symlink("/bin/tool", top_ + "/root/usr/bin/link");
    std::filesystem::create_symlink("/../../../etc/passwd", top_ + "/root/usr/bin/escape");
    std::filesystem::create_symlink("nowhere", top_ + "/root/usr/bin/dangling");
    root_ = OwnedFd(open((top_ + "/root").c_str(), O_PATH | O_CLOEXEC));
    volume_ = OwnedFd(open((top_ + "/volume").c_str(), O_PATH | O_CLOEXEC));
  }
  ~PathLookup() override { std::filesystem::remove_all(top_); }

  void Program(const std::string& path, mode_t mode) {
    const int fd = open((top_ + "/" + path).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, mode);
    ASSERT_GE(fd, 0);
    fchmod(fd, mode);
    close(fd);
  }
  std::string Find(const std::string& program, const std::string& path = "/usr/bin:/bin",
                   const std::string& cwd = "/home") {
    const auto found = FindProgram({{"/", root_.get()}, {"/opt", volume_.get()}}, cwd, program,
                                   {"PATH=/nothing", "PATH=" + path});
    return found ? *found : "errno " + std::to_string(found.error().code());
  }

  std::string top_;
  OwnedFd root_, volume_;
};

TEST_F(PathLookup, SearchesPathInOrder) {
  EXPECT_EQ(Find("tool"), "/usr/bin/tool");
  EXPECT_EQ(Find("tool", "/bin:/usr/bin"), "/bin/tool");
  EXPECT_EQ(Find("run", "/bin:"), "./run");
  EXPECT_EQ(Find("run"), "errno 2");
  EXPECT_EQ(Find("link"), "/usr/bin/link");
}

TEST_F(PathLookup, WithASlashItIsTakenAsItIs) {
  EXPECT_EQ(Find("./run"), "./run");
  EXPECT_EQ(Find("../bin/tool"), "../bin/tool");
  EXPECT_EQ(Find("/bin/none"), "errno 2");
  EXPECT_EQ(Find("/bin/tool/x"), "errno 20");
}

TEST_F(PathLookup, NotExecutable) {
  EXPECT_EQ(Find("data"), "errno 13");
  EXPECT_EQ(Find("/usr/bin/data"), "errno 13");
  EXPECT_EQ(Find("/usr/bin"), "errno 13");
  EXPECT_EQ(Find("dangling"), "errno 2");
}

TEST_F(PathLookup, LinksStayInTheRoot) { EXPECT_EQ(Find("escape"), "errno 2"); }

TEST_F(PathLookup, VolumesCoverTheRoot) {
  EXPECT_EQ(Find("extra", "/opt/bin"), "/opt/bin/extra");
  EXPECT_EQ(Find("/opt/hidden"), "errno 2");
  EXPECT_EQ(Find("/opt/../bin/tool"), "/opt/../bin/tool");
}

TEST(FindEnv, TheLastOneWins) {
  const std::vector<std::string> env = {"A=1", "AB=2", "A=3"};
  EXPECT_STREQ(FindEnv(env, "A"), "3");
  EXPECT_STREQ(FindEnv(env, "AB"), "2");
  EXPECT_EQ(FindEnv(env, "B"), nullptr);
}

}  // namespace
}  // namespace skep::cli
