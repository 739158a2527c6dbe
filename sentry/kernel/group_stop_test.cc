#include "sentry/kernel/group_stop.h"

#include <gtest/gtest.h>
#include <csignal>

namespace skep::kernel {
namespace {

constexpr bool kTake = false, kKeep = true;

TEST(GroupStop, IsReportedOnce) {
  GroupStop stop;
  stop.Begin(SIGTSTP);
  EXPECT_TRUE(stop.under_way());
  EXPECT_FALSE(stop.ReportStop(kTake)) << "not all threads sleep yet";
  EXPECT_TRUE(stop.Complete());
  EXPECT_FALSE(stop.Complete()) << "it was";
  EXPECT_TRUE(stop.ReportStop(kKeep));
  EXPECT_TRUE(stop.ReportStop(kTake));
  EXPECT_FALSE(stop.ReportStop(kTake));
  EXPECT_EQ(stop.signal(), SIGTSTP);
}

TEST(GroupStop, AContinuationTakesTheReportOfTheStopWithIt) {
  GroupStop stop;
  stop.Begin(SIGSTOP);
  EXPECT_TRUE(stop.Complete());
  EXPECT_TRUE(stop.Continue());
  EXPECT_FALSE(stop.under_way());
  EXPECT_FALSE(stop.ReportStop(kTake));
  EXPECT_TRUE(stop.ReportContinue(kKeep));
  EXPECT_TRUE(stop.ReportContinue(kTake));
  EXPECT_FALSE(stop.ReportContinue(kTake));
}

TEST(GroupStop, ThatWasNotCompleteContinuesSilently) {
  GroupStop stop;
  stop.Begin(SIGSTOP);
  EXPECT_FALSE(stop.Continue());
  EXPECT_FALSE(stop.ReportContinue(kTake));
}

TEST(GroupStop, ANewStopForgetsTheContinuation) {
  GroupStop stop;
  stop.Begin(SIGSTOP);
  EXPECT_TRUE(stop.Complete());
  EXPECT_TRUE(stop.Continue());
  stop.Begin(SIGTTIN);
  EXPECT_FALSE(stop.ReportContinue(kTake));
}

TEST(GroupStop, EndsWithTheProcessWithoutAWord) {
  GroupStop stop;
  stop.Begin(SIGSTOP);
  EXPECT_TRUE(stop.Complete());
  EXPECT_TRUE(stop.End());
  EXPECT_FALSE(stop.complete());
  EXPECT_FALSE(stop.ReportStop(kTake));
  EXPECT_FALSE(stop.ReportContinue(kTake));
}

}  // namespace
}  // namespace skep::kernel
