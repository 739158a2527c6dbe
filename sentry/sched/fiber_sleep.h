// How a fiber sleeps, for those who show it (ps).
#pragma once

#include "sentry/sched/fiber.h"

namespace skep::sched {

// 'S': suspended until it is woken or interrupted; 'D': until it is woken or killed; 'R': neither.
// Any thread; it may be another by the time this returns.
char SleepLetterOf(const Fiber& fiber);

}  // namespace skep::sched
