#include "platform/ptrace/requests.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <climits>

#include "base/host_call.h"

namespace skep::platform::ptrace {

RequestQueue::~RequestQueue() {
  while (answering_.load() != 0) sched_yield();
}

void RequestQueue::AskAndWait(Request& request) {
  RequestQueue* const own = request.asker;
  Request* head = head_.load();
  do {
    request.next = head;
  } while (!head_.compare_exchange_weak(head, &request));
  waker_.Wake(kRequest);

  if (own == nullptr) {
    while (request.done.load() == 0) {
      (void)host::Call(SYS_futex, &request.done, FUTEX_WAIT_PRIVATE, 0, 0);
    }
    return;
  }
  for (;;) {
    own->waker_.Take(kAnswer);
    if (request.done.load() != 0) return;
    own->Serve();
    const uint32_t seen = own->waker_.reasons();
    if ((seen & (kAnswer | kRequest)) == 0) own->waker_.SleepWhile(seen);
  }
}

void RequestQueue::Answer(Request& request) {
  RequestQueue* const asker = request.asker;
  if (asker == nullptr) {
    request.done.store(1);
    // `request` may be gone by now; a wake-up of whatever is there does no harm.
    (void)host::Call(SYS_futex, &request.done, FUTEX_WAKE_PRIVATE, INT_MAX);
    return;
  }
  asker->answering_.fetch_add(1);
  request.done.store(1);
  asker->waker_.Wake(kAnswer);
  asker->answering_.fetch_sub(1);
}

void RequestQueue::Serve() {
  if (waker_.Take(kRequest) == 0) return;
  Request* newest = head_.exchange(nullptr);
  Request* oldest = nullptr;
  while (newest != nullptr) {
    Request* const next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  while (oldest != nullptr) {
    Request& request = *oldest;
    oldest = request.next;
    request.run(request.work);
    Answer(request);
  }
}

}  // namespace skep::platform::ptrace
