#include "gofer/server/client_cpu.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <thread>

namespace skep::gofer {
namespace {

TEST(ClientCpu, IsFollowedAfterSomeMessages) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  uint16_t here = 0;
  while (!CPU_ISSET(here, &allowed)) here++;
  const auto wanted = static_cast<uint16_t>(here + 1);
  std::thread([&] {
    ClientCpu cpu;
    const auto say = [&](uint16_t where, int times) {
      for (int i = 0; i < times; i++) cpu.Follow(where);
      return cpu.pinned();
    };
    EXPECT_EQ(say(0, 100), 0);
    EXPECT_EQ(say(wanted, 3), 0);
    EXPECT_EQ(say(UINT16_MAX, 1), 0);
    EXPECT_EQ(say(wanted, 3), 0);  // not yet so many in a row
    EXPECT_EQ(say(wanted, 1), wanted);
    EXPECT_EQ(sched_getcpu(), here);
    EXPECT_EQ(say(UINT16_MAX, 100), wanted);  // no such CPU
    EXPECT_EQ(sched_getcpu(), here);
  }).join();
}

}  // namespace
}  // namespace skep::gofer
