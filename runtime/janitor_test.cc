#include "runtime/janitor.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <cstdlib>
#include <string>

namespace skep::runtime {
namespace {

class JanitorTest : public testing::Test {
 protected:
  JanitorTest() {
    char name[] = "/tmp/skep-janitor-XXXXXX";
    const int fd = mkstemp(name);
    if (fd >= 0) close(fd);
    path_ = name;
  }
  ~JanitorTest() override { unlink(path_.c_str()); }
  HostResult<Janitor> Start() {
    return Janitor::Start([path = path_] { unlink(path.c_str()); });
  }
  bool Exists() const { return access(path_.c_str(), F_OK) == 0; }

  std::string path_;
};

TEST_F(JanitorTest, TidiesWhenItsObjectGoes) {
  {
    const HostResult<Janitor> janitor = Start();
    ASSERT_TRUE(janitor);
    EXPECT_TRUE(janitor->works());
    EXPECT_TRUE(Exists());
  }
  EXPECT_FALSE(Exists());
}

TEST_F(JanitorTest, TidiesWhenItsMakerIsKilled) {
  const pid_t maker = fork();
  ASSERT_GE(maker, 0);
  if (maker == 0) {
    const HostResult<Janitor> janitor = Start();
    raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(maker, &status, 0), maker);
  for (int tries = 0; Exists() && tries < 5000; ++tries) usleep(1000);
  EXPECT_FALSE(Exists());
}

TEST_F(JanitorTest, IsDoneWithoutWhenItWasKilled) {
  HostResult<Janitor> janitor = Start();
  ASSERT_TRUE(janitor);
  EXPECT_EQ(kill(janitor->pid(), SIGKILL), 0);
  janitor->Finish();
  EXPECT_FALSE(Exists());
}

TEST_F(JanitorTest, ADismissedOneTidiesNothing) {
  HostResult<Janitor> janitor = Start();
  ASSERT_TRUE(janitor);
  janitor->Dismiss();
  EXPECT_TRUE(Exists());
}

TEST_F(JanitorTest, TwoMayEndInAnyOrder) {
  HostResult<Janitor> first = Start();
  const HostResult<Janitor> second = Janitor::Start([] {});
  ASSERT_TRUE(first && second);
  first->Finish();
  EXPECT_FALSE(Exists());
}

}  // namespace
}  // namespace skep::runtime
