#include "sentry/sched/timer_queue.h"

#include "base/check.h"
#include "sentry/arena/arena.h"

namespace skep::sched {

void TimerQueue::Place(TimerNode& node, size_t index) {
  heap_[index] = &node;
  node.index = static_cast<uint32_t>(index);
}

void TimerQueue::SiftUp(size_t index) {
  TimerNode& node = *heap_[index];
  while (index > 0) {
    const size_t parent = (index - 1) / 2;
    if (!Before(node, *heap_[parent])) break;
    Place(*heap_[parent], index);
    index = parent;
  }
  Place(node, index);
}

void TimerQueue::SiftDown(size_t index) {
  TimerNode& node = *heap_[index];
  for (;;) {
    size_t child = 2 * index + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && Before(*heap_[child + 1], *heap_[child])) ++child;
    if (!Before(*heap_[child], node)) break;
    Place(*heap_[child], index);
    index = child;
  }
  Place(node, index);
}

void TimerQueue::Publish() {
  const uint64_t first = heap_.empty() ? kNone : heap_.front()->deadline;
  if (first != first_.load(std::memory_order_relaxed)) {
    first_.store(first, std::memory_order_seq_cst);
  }
}

bool TimerQueue::Add(TimerNode& node, uint64_t deadline) {
  CHECK(!node.queued());
  node.deadline = deadline;
  node.order = next_order_++;
  {
    const arena::ArenaHeapScope arena;
    heap_.push_back(&node);
  }
  SiftUp(heap_.size() - 1);
  Publish();
  return node.index == 0;
}

void TimerQueue::Remove(TimerNode& node) {
  CHECK(node.queued());
  const size_t index = node.index;
  node.index = TimerNode::kNotQueued;
  TimerNode& last = *heap_.back();
  heap_.pop_back();
  if (&last != &node) {
    Place(last, index);
    SiftUp(index);
    SiftDown(last.index);
  }
  Publish();
}

TimerNode* TimerQueue::PopExpired(uint64_t now) {
  if (heap_.empty() || heap_.front()->deadline > now) return nullptr;
  TimerNode* node = heap_.front();
  Remove(*node);
  return node;
}

void TimerQueue::AddDue(TimerState& timer) {
  timer.due = true;
  timer.next_due = nullptr;
  timer.previous_due = last_due_;
  (last_due_ != nullptr ? last_due_->next_due : first_due_) = &timer;
  last_due_ = &timer;
}

void TimerQueue::RemoveDue(TimerState& timer) {
  CHECK(timer.due);
  timer.due = false;
  (timer.previous_due != nullptr ? timer.previous_due->next_due : first_due_) = timer.next_due;
  (timer.next_due != nullptr ? timer.next_due->previous_due : last_due_) = timer.previous_due;
}

}  // namespace skep::sched
