#include "sentry/sched/sched_test_util.h"

namespace skep::sched {
namespace {

// A fiber with a guest that makes calls all the time, until `over`.
struct Caller {
  Caller(TestScheduler& s, FakeSpace& space, int worker)
      : guest(s.engine(worker), space, TestGuest::Kind::kCalls) {}
  Ref<Fiber> fiber;
  TestGuest guest;
};

class Moving : public testing::Test {
 protected:
  Moving() : s(2) {
    s.Start();
    space = std::make_unique<FakeSpace>(s.engine(0));
  }
  ~Moving() override {
    over = true;
    for (Caller* caller : {&*one, &*two}) {
      caller->fiber->Unpark();
      EXPECT_TRUE(WaitFor([&] { return caller->fiber->finished(); }));
    }
  }
  // Each does `work` between the stops of its guest.
  void StartCallers(int first_on, int second_on, const std::function<void(Caller& peer)>& work) {
    one.emplace(s, *space, first_on);
    two.emplace(s, *space, second_on);
    const auto spawn = [&](Caller& self, Caller& peer, int worker) {
      self.fiber = s.Spawn(worker, [this, &self, &peer, work] {
        while (!go) Yield();
        while (!over) {
          work(peer);
          MaybeMove(self.guest.context);
          ASSERT_EQ(self.guest.Run(), GuestEnd::kStopped);
        }
      });
    };
    spawn(*one, *two, first_on);
    spawn(*two, *one, second_on);
    go = true;
  }
  int WorkerOf(const std::optional<Caller>& caller) { return caller->fiber->worker().index(); }

  TestScheduler s;
  std::unique_ptr<FakeSpace> space;
  std::optional<Caller> one, two;
  std::atomic<bool> over{false}, go{false};
};

TEST_F(Moving, ACrowdSpreads) {
  StartCallers(0, 0, [](Caller&) {});
  EXPECT_TRUE(WaitFor([&] { return WorkerOf(one) != WorkerOf(two); }));
}

TEST_F(Moving, NotUnderAnEngineThatCannot) {
  for (int i : {0, 1}) s.engine(i).set_shares_spaces(false);
  StartCallers(0, 0, [](Caller&) {});
  EXPECT_FALSE(WaitFor([&] { return WorkerOf(one) != 0 || WorkerOf(two) != 0; }, 50 * kMs));
}

TEST_F(Moving, PeersThatWaitForEachOtherComeTogether) {
  StartCallers(0, 1, [this](Caller& peer) {
    peer.fiber->Unpark();
    if (!over) Suspend(std::nullopt, Sleep::kUninterruptible);
  });
  EXPECT_TRUE(WaitFor([&] { return WorkerOf(one) == WorkerOf(two); }));
}

TEST_F(Moving, AllTheTimeForTest) {
  // Where it has been, as bits.
  std::atomic<int> seen{0};
  space.reset();
  s.Stop();
  s->MoveForTest();
  s.Start();
  space = std::make_unique<FakeSpace>(s.engine(0));
  StartCallers(0, 1, [&](Caller&) { seen |= 1 << Fiber::Current().worker().index(); });
  EXPECT_TRUE(WaitFor([&] { return seen == 3; }));
}

}  // namespace
}  // namespace skep::sched
