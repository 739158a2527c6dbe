#include "gofer/protocol/codec.h"

#include <gtest/gtest.h>
#include <array>
#include <random>

#include "gofer/protocol/messages.h"

namespace skep::gofer {
namespace {

TEST(Codec, WhatIsPutIsRead) {
  std::array<std::byte, 256> buffer;
  Writer out(buffer);
  out.Put(uint32_t{7});
  out.PutString("name");
  out.Put(AttachRequest{3, 0});
  ASSERT_TRUE(out.ok());
  Reader in(std::span<std::byte>(buffer).first(out.size()));
  EXPECT_EQ(in.Get<uint32_t>().value(), 7U);
  EXPECT_EQ(in.GetString().value(), "name");
  EXPECT_FALSE(in.End());
  EXPECT_EQ(in.Get<AttachRequest>()->attach, 3U);
  EXPECT_TRUE(in.End());
  EXPECT_EQ(in.Get<uint8_t>().error().code(), EPROTO);
}

TEST(Codec, StringLongerThanTheMessageIsRefused) {
  std::array<std::byte, 8> buffer;
  Writer out(buffer);
  out.Put(uint16_t{65535});
  Reader in(std::span<std::byte>(buffer).first(out.size()));
  EXPECT_EQ(in.GetString().error().code(), EPROTO);
}

TEST(Codec, WriterStopsAtTheEndOfItsBuffer) {
  std::array<std::byte, 8> buffer;
  Writer out(buffer);
  out.Put(uint64_t{1});
  EXPECT_TRUE(out.ok());
  out.Put(uint8_t{1});
  EXPECT_FALSE(out.ok());
  EXPECT_EQ(out.size(), 8U);
  out.Patch(4, uint64_t{0});
  EXPECT_FALSE(out.ok());
}

// Any bytes, read as any sequence of items: only answers or EPROTO, never beyond the end (ASan).
TEST(Codec, RandomBytesNeverReadOutside) {
  std::minstd_rand random(1);
  for (int i = 0; i < 100'000; ++i) {
    std::vector<std::byte> bytes(random() % 96);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random() >> 8);
    Reader in(bytes);
    for (int step = 0; step < 6; ++step) {
      const size_t before = in.left();
      switch (random() / 64 % 4) {
        case 0:
          (void)in.Get<NodeRecord>();
          break;
        case 1:
          (void)in.Get<uint16_t>();
          break;
        case 2:
          (void)in.GetBytes(random() % 128);
          break;
        default:
          (void)in.GetString();
          break;
      }
      ASSERT_LE(in.left(), before);
    }
  }
}

}  // namespace
}  // namespace skep::gofer
