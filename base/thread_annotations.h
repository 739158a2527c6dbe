// Clang's thread-safety annotations; nothing under g++. CI checks them with clang
// (-Wthread-safety -Werror).
#pragma once

#if defined(__clang__)
#define SKEP_TS(x) __attribute__((x))
#else
#define SKEP_TS(x)
#endif

#define CAPABILITY(x) SKEP_TS(capability(x))
#define SCOPED_CAPABILITY SKEP_TS(scoped_lockable)
#define GUARDED_BY(x) SKEP_TS(guarded_by(x))
#define PT_GUARDED_BY(x) SKEP_TS(pt_guarded_by(x))
#define REQUIRES(...) SKEP_TS(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) SKEP_TS(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) SKEP_TS(acquire_capability(__VA_ARGS__))
#define RELEASE(...) SKEP_TS(release_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) SKEP_TS(try_acquire_capability(__VA_ARGS__))
#define ASSERT_CAPABILITY(x) SKEP_TS(assert_capability(x))
#define RETURN_CAPABILITY(x) SKEP_TS(lock_returned(x))
#define NO_THREAD_SAFETY_ANALYSIS SKEP_TS(no_thread_safety_analysis)
