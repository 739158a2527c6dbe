#include "sentry/vfs/open_flags.h"

#include <gtest/gtest.h>
#include <linux/openat2.h>

#include "sentry/vfs/path.h"

namespace skep::vfs {
namespace {

int Code(const OpenHow& how, Strictness strictness) {
  const Result<OpenFlags> flags = OpenFlags::From(how, strictness);
  return flags ? 0 : flags.error().code();
}
int Open(uint64_t flags, uint64_t mode = 0) {
  return Code({.flags = flags, .mode = mode}, Strictness::kOpen);
}
int Openat2(uint64_t flags, uint64_t mode = 0, uint64_t resolve = 0) {
  return Code({.flags = flags, .mode = mode, .resolve = resolve}, Strictness::kOpenat2);
}

constexpr uint64_t kUnknown = uint64_t{1} << 40;

TEST(OpenFlags, OpenPassesOverWhatItDoesNotKnow) {
  EXPECT_EQ(Open(O_RDONLY | kUnknown, 0170777), 0);
  EXPECT_EQ(Openat2(O_RDONLY | kUnknown), EINVAL);
  EXPECT_EQ(Openat2(O_RDONLY, 0600), EINVAL) << "a mode without a new file";
  EXPECT_EQ(Openat2(O_CREAT | O_WRONLY, 0600), 0);
  EXPECT_EQ(Openat2(O_CREAT | O_WRONLY, 010600), EINVAL);
  EXPECT_EQ(Open(O_PATH | O_RDWR | O_CREAT), 0) << "O_PATH beats everything else";
  EXPECT_EQ(Openat2(O_PATH | O_RDWR), EINVAL);
}

TEST(OpenFlags, BothRefuseWhatExcludesOneAnother) {
  constexpr uint64_t kTmpFile = O_TMPFILE & ~O_DIRECTORY;
  for (const auto open : {+[](uint64_t flags) { return Open(flags); },
                          +[](uint64_t flags) { return Openat2(flags); }}) {
    EXPECT_EQ(open(O_CREAT | O_DIRECTORY | O_RDWR), EINVAL);
    EXPECT_EQ(open(kTmpFile | O_RDWR), EINVAL);
    EXPECT_EQ(open(O_TMPFILE | O_RDONLY), EINVAL);
    EXPECT_EQ(open(O_TMPFILE | O_CREAT | O_RDWR), EINVAL);
    EXPECT_EQ(open(O_TMPFILE | O_RDWR), 0);
  }
}

TEST(OpenFlags, Resolve) {
  EXPECT_EQ(Openat2(O_RDONLY, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT), EINVAL);
  EXPECT_EQ(Openat2(O_RDONLY, 0, 1 << 20), EINVAL);
  EXPECT_EQ(Openat2(O_RDONLY, 0, RESOLVE_CACHED), 0);
  EXPECT_EQ(Openat2(O_WRONLY | O_TRUNC, 0, RESOLVE_CACHED), EAGAIN);
  EXPECT_EQ(Openat2(O_RDONLY | O_DIRECTORY, 0, RESOLVE_CACHED), 0);
}

TEST(OpenFlags, WhatTheyMean) {
  const OpenFlags cut = *OpenFlags::From({.flags = O_RDONLY | O_TRUNC}, Strictness::kOpen);
  EXPECT_EQ(cut.access(), kMayRead | kMayWrite) << "to empty a file is to write to it";
  EXPECT_FALSE(cut.Writes());
  OpenFlags made =
      *OpenFlags::From({.flags = O_CREAT | O_EXCL | O_WRONLY | O_APPEND | O_CLOEXEC, .mode = 0666},
                       Strictness::kOpen);
  made.ApplyUmask(022);
  EXPECT_EQ(made.mode(), 0644u);
  EXPECT_FALSE(made.FollowsLast());
  EXPECT_TRUE(made.Writes());
  EXPECT_EQ(made.OfFile() & ~0100000u, uint32_t{O_WRONLY | O_APPEND});
  const OpenFlags path = *OpenFlags::From({.flags = O_PATH | O_RDWR}, Strictness::kOpen);
  EXPECT_EQ(path.access(), 0);
  EXPECT_FALSE(path.Writes());
  EXPECT_EQ(path.OfFile(), uint32_t{O_PATH});
}

}  // namespace
}  // namespace skep::vfs
