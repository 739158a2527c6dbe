// An image's head survives the way; what is cut or made up is refused, and names are matched.
#include "sentry/boot/image.h"

#include <gtest/gtest.h>

namespace skep::boot {
namespace {

using Kind = ResourceName::Kind;

ImageHead Head() {
  ImageHead head;
  head.starters = "web";
  head.resources = {{{Kind::kTree, "web", "/"}, 0},
                    {{Kind::kTree, "web", "/data"}, 1},
                    {{Kind::kStdio, "web", "1"}, 12},
                    {{Kind::kStrace, "", ""}, 3}};
  head.memory_files = {{{0, 8192, 4096}, {1 << 20, 4096, 12288}}, {}};
  head.arena_offset = 1 << 21;
  return head;
}

TEST(Image, HeadComesBack) {
  const auto back = DecodeImageHead(Encode(Head()));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(Encode(*back), Encode(Head()));
  EXPECT_EQ(back->resources[1].name.name, "/data");
  EXPECT_EQ(back->memory_files[0][1].at, 12288U);
  const auto start = DecodeImageStart(Encode(ImageStart{4096, 77}));
  ASSERT_TRUE(start);
  EXPECT_EQ(start->head_offset, 4096U);
  EXPECT_EQ(start->head_size, 77U);
}

TEST(Image, EveryCutIsRefused) {
  const std::string bytes = Encode(Head());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(DecodeImageHead(std::string_view(bytes).substr(0, size))) << size;
  }
  EXPECT_FALSE(DecodeImageHead(bytes + "x"));
  const std::string start = Encode(ImageStart{4096, 77});
  ASSERT_EQ(start.size(), kImageStartSize);
  for (size_t size = 0; size < start.size(); ++size) {
    EXPECT_FALSE(DecodeImageStart(start.substr(0, size))) << size;
  }
}

TEST(Image, WhatNoSandboxWritesIsRefused) {
  const auto refused = [](auto change) {
    ImageHead head = Head();
    change(head);
    return !DecodeImageHead(Encode(head));
  };
  EXPECT_TRUE(refused([](ImageHead& h) { h.resources.push_back(h.resources[0]); }));
  EXPECT_TRUE(refused([](ImageHead& h) { h.resources[0].name.kind = static_cast<Kind>(9); }));
  EXPECT_TRUE(refused([](ImageHead& h) { h.memory_files[0][0].size = 1; }));
  EXPECT_TRUE(refused([](ImageHead& h) { h.memory_files[0][0].size = uint64_t{1} << 60; }));
  EXPECT_TRUE(refused([](ImageHead& h) { h.memory_files[0][1].offset = 4096; }));
  EXPECT_TRUE(refused([](ImageHead& h) { h.memory_files[0][1].at = 100; }));
  EXPECT_TRUE(refused([](ImageHead& h) { h.arena_offset = 5; }));
  EXPECT_FALSE(refused([](ImageHead&) {}));
}

TEST(Image, NamesAreMatchedWhateverTheirOrder) {
  const ImageHead head = Head();
  std::vector<ResourceName> given;
  for (size_t i = head.resources.size(); i-- > 0;) given.push_back(head.resources[i].name);
  EXPECT_TRUE(MatchNames(head.resources, given));
  std::vector<ResourceName> less = given;
  std::erase(less, ResourceName{Kind::kTree, "web", "/data"});
  const auto missing = MatchNames(head.resources, less);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message,
            "the image needs the host's files at the mount /data of container 'web': it is "
            "missing");
  given.push_back({Kind::kTree, "web", "/more"});
  const auto unknown = MatchNames(head.resources, given);
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("/more"), std::string::npos);
}

}  // namespace
}  // namespace skep::boot
