#include "base/last_words.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <functional>

#include "base/check.h"
#include "base/log.h"

namespace skep {
namespace {

struct Death {
  int status = -1;
  LastWords words;
};

Death DieIn(const std::function<void()>& body) {
  const HostResult<OwnedFd> file = MakeLastWords();
  EXPECT_TRUE(file);
  Death death;
  const pid_t child = fork();
  if (child == 0) {
    KeepLastWords(file->get());
    CatchFatalSignals();
    ConfigureLog(-1, LogFormat::kText, LogLevel::kWarning, "test");
    body();
    _exit(0);
  }
  waitpid(child, &death.status, 0);
  death.words = ReadLastWords(file->get(), 3);
  return death;
}

TEST(LastWords, ACheckNamesFileAndLine) {
  const Death death = DieIn([] { CHECK(getpid() == 0); });
  EXPECT_TRUE(WIFEXITED(death.status) && WEXITSTATUS(death.status) == 134) << death.status;
  EXPECT_TRUE(death.words.said.contains("CHECK failed at")) << death.words.said;
  EXPECT_TRUE(death.words.said.contains("last_words_test.cc:")) << death.words.said;
  EXPECT_TRUE(death.words.said.ends_with("getpid() == 0")) << death.words.said;
}

TEST(LastWords, FaultsAndAbortSayWhatTheyAre) {
  volatile char* nowhere = nullptr;
  const Death fault = DieIn([&] { nowhere[16] = 1; });
  EXPECT_TRUE(fault.words.said.contains("SIGSEGV")) << fault.words.said;
  EXPECT_TRUE(fault.words.said.contains("0x10")) << fault.words.said;
  const Death aborted = DieIn([] { abort(); });
  EXPECT_TRUE(aborted.words.said.contains("abort() was called")) << aborted.words.said;
}

TEST(LastWords, KeepsTheNewestLines) {
  const Death death = DieIn([] {
    for (int i = 0; i < 1000; ++i) LogText(LogLevel::kError, "line " + std::to_string(i));
    raise(SIGKILL);
  });
  EXPECT_TRUE(WIFSIGNALED(death.status));
  EXPECT_EQ(death.words.said, "");
  ASSERT_EQ(death.words.log.size(), 3U);
  EXPECT_TRUE(death.words.log[0].ends_with("line 997")) << death.words.log[0];
  EXPECT_TRUE(death.words.log[2].ends_with("line 999")) << death.words.log[2];
}

// A process that dies may have written anything.
TEST(LastWords, TrustsNothing) {
  const HostResult<OwnedFd> file = MakeLastWords();
  ASSERT_TRUE(file);
  constexpr size_t kSize = 4096;
  void* page = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, file->get(), 0);
  ASSERT_NE(page, MAP_FAILED);
  memset(page, 0xff, kSize);
  const LastWords words = ReadLastWords(file->get(), 3);
  EXPECT_LE(words.said.size(), 1024U);
  EXPECT_LE(words.log.size(), 3U);
  munmap(page, kSize);
}

}  // namespace
}  // namespace skep
