#include "platform/fake/fake_engine.h"

#include <gtest/gtest.h>

namespace skep::platform::fake {
namespace {

class Poller final : public HostPoller {
 public:
  int epoll_fd() const override { return -1; }
  bool watching() const override { return false; }
};

TEST(FakeEngine, RunsScripts) {
  FakeEngine engine;
  Poller poller;
  int calls = 0;
  uint64_t answer = 0;
  engine.SetScript([&](FakeContext& context) -> std::optional<Stop> {
    if (calls++ == 0) return context.Syscall(39);
    answer = context.guest().rax;
    return std::nullopt;
  });
  auto space = *engine.NewAddressSpace();
  auto context = *engine.NewContext(*space, Registers{}, {});
  context->Resume();
  Event event = engine.Wait(std::nullopt, poller);
  ASSERT_TRUE(std::holds_alternative<Stopped>(event));
  EXPECT_EQ(std::get<SyscallStop>(context->stop()).number, 39u);
  context->SetReturn(7);
  context->Resume();
  EXPECT_TRUE(std::holds_alternative<Woken>(engine.Wait(0, poller)));
  EXPECT_EQ(answer, 7u);
  context->Interrupt();
  event = engine.Wait(std::nullopt, poller);
  ASSERT_TRUE(std::holds_alternative<Stopped>(event));
  EXPECT_TRUE(std::holds_alternative<Interrupted>(context->stop()));
}

TEST(FakeEngine, RecordsMappings) {
  FakeEngine engine;
  auto space = *engine.NewAddressSpace();
  auto& fake = static_cast<FakeSpace&>(*space);
  const MapOp ops[] = {{MapOp::Kind::kMap, 3, false, 0x10000, 0x4000, HostFileId{1}, 0x1000},
                       {MapOp::Kind::kProtect, 1, false, 0x11000, 0x1000, {}, 0},
                       {MapOp::Kind::kUnmap, 0, false, 0x13000, 0x1000, {}, 0}};
  EXPECT_EQ(space->Apply(ops).done, 3u);
  EXPECT_EQ(fake.Find(0x10fff)->prot, 3);
  EXPECT_EQ(*fake.Find(0x11000), (FakeSpace::Mapping{0x1000, 1, HostFileId{1}, 0x2000}));
  EXPECT_EQ(*fake.Find(0x12abc), (FakeSpace::Mapping{0x1000, 3, HostFileId{1}, 0x3000}));
  EXPECT_FALSE(fake.Find(0x13000));
  fake.FailAfter(1, ENOMEM);
  const auto applied = space->Apply(ops);
  EXPECT_EQ(applied.done, 1u);
  EXPECT_EQ(applied.error, ENOMEM);
}

TEST(FakeEngine, DeathIsReported) {
  FakeEngine engine;
  Poller poller;
  auto space = *engine.NewAddressSpace();
  auto context = *engine.NewContext(*space, Registers{}, {});
  context->Resume();
  space->Kill();
  const Event event = engine.Wait(std::nullopt, poller);
  ASSERT_TRUE(std::holds_alternative<Died>(event));
  EXPECT_EQ(std::get<Died>(event).space, space.get());
  EXPECT_EQ(space->Apply({}).error, 0);
  EXPECT_EQ(context->Load(LoadXsave::kNo).error(), Errno(EIO));
}

TEST(FakeEngine, GuestsRunInTheOrderOfTheirResumes) {
  FakeEngine engine;
  Poller poller;
  auto space = *engine.NewAddressSpace();
  engine.SetScript([](FakeContext&) { return Stop(SyscallStop{}); });
  auto one = *engine.NewContext(*space, Registers{}, {});
  auto two = *engine.NewContext(*space, Registers{}, {});
  one->Resume();
  two->Resume();
  for (int round = 0; round < 3; ++round) {
    for (Context* next : {&*one, &*two}) {
      const Event event = engine.Wait(std::nullopt, poller);
      ASSERT_TRUE(std::holds_alternative<Stopped>(event));
      EXPECT_EQ(std::get<Stopped>(event).context, next);
      next->Resume();
    }
  }
}

TEST(FakeEngine, ContextsMoveBetweenEnginesThatShare) {
  FakeEngine one, other;
  Poller poller;
  auto space = *one.NewAddressSpace();
  auto context = *one.NewContext(*space, Registers{}, {});
  EXPECT_EQ(context->MoveTo(other).error(), Errno(ENOTSUP));
  other.set_shares_spaces(true);
  ASSERT_TRUE(context->MoveTo(other));
  context->Interrupt();
  context->Resume();
  EXPECT_TRUE(std::holds_alternative<Woken>(one.Wait(0, poller)));
  const Event event = other.Wait(0, poller);
  ASSERT_TRUE(std::holds_alternative<Stopped>(event));
  EXPECT_EQ(std::get<Stopped>(event).context, context.get());
  context.reset();
}

TEST(FakeEngine, AHoleCannotBeProtected) {
  FakeEngine engine;
  auto space = *engine.NewAddressSpace();
  const MapOp map = {MapOp::Kind::kMap, 3, true, 0x10000, 0x1000, HostFileId{1}, 0};
  const MapOp protect = {MapOp::Kind::kProtect, 1, false, 0x10000, 0x2000, {}, 0};
  EXPECT_EQ(space->Apply(std::span(&map, 1)).error, 0);
  EXPECT_EQ(space->Apply(std::span(&protect, 1)).error, ENOMEM);
  EXPECT_EQ(static_cast<FakeSpace&>(*space).populated(), 0x1000u);
}

}  // namespace
}  // namespace skep::platform::fake
