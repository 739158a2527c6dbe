#include "sentry/sched/sched_test_util.h"

namespace skep::sched {
namespace {

// A fiber with a guest that makes calls all the time, until `over`.
struct Caller {
  Caller(TestScheduler& s, int worker) : context(s.engine(worker), /*at_once=*/true) {}
  Ref<Fiber> fiber;
  TestContext context;
};

class Moving : public testing::Test {
 protected:
  Moving() : s(2) {
    s.Start();
    space = std::make_unique<TestSpace>(s.engine(0));
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
    one.emplace(s, first_on);
    two.emplace(s, second_on);
    const auto spawn = [&](Caller& self, Caller& peer, int worker) {
      self.fiber = s.Spawn(worker, [this, &self, &peer, work] {
        while (!go) Yield();
        while (!over) {
          work(peer);
          MaybeMove(self.context);
          ASSERT_EQ(RunGuest(self.context, *space), GuestEnd::kStopped);
        }
      });
    };
    spawn(*one, *two, first_on);
    spawn(*two, *one, second_on);
    go = true;
  }
  int WorkerOf(const std::optional<Caller>& caller) { return caller->fiber->worker().index(); }

  TestScheduler s;
  std::unique_ptr<TestSpace> space;
  std::optional<Caller> one, two;
  std::atomic<bool> over{false}, go{false};
};

TEST_F(Moving, ACrowdSpreads) {
  StartCallers(0, 0, [](Caller&) {});
  EXPECT_TRUE(WaitFor([&] { return WorkerOf(one) != WorkerOf(two); }));
}

TEST_F(Moving, NotUnderAnEngineThatCannot) {
  s.engine(0).shares = s.engine(1).shares = false;
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
  s.Stop();
  s->MoveForTest();
  s.Start();
  space = std::make_unique<TestSpace>(s.engine(0));
  StartCallers(0, 1, [&](Caller&) { seen |= 1 << Fiber::Current().worker().index(); });
  EXPECT_TRUE(WaitFor([&] { return seen == 3; }));
}

}  // namespace
}  // namespace skep::sched
