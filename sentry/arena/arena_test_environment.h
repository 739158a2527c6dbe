// For unit tests: makes the process's arena before the first test, unless the process was started
// to attach one (SKEP_TEST_IMAGE names the file).
#pragma once

#include <gtest/gtest.h>
#include <cstdlib>

#include "sentry/arena/arena.h"

namespace skep::arena {

class ArenaTestEnvironment final : public ::testing::Environment {
 public:
  void SetUp() override {
    if (getenv("SKEP_TEST_IMAGE") != nullptr) return;
    HostResult<void> created = Create();
    ASSERT_TRUE(created) << created.error().message;
  }
};

}  // namespace skep::arena
