// Copies to and from windows of memory files. The host may refuse a page of a window (memory limit,
// a frozen image that shrank): the copy then ends early instead of killing the sentry.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace skep::mm {

// Once per process, before the first copy: SIGSEGV and SIGBUS inside the routines below end them;
// elsewhere these signals kill the process as they would have.
void InstallCopyFaultHandler();

// Each returns how many bytes it did: less than `size` if the host refused a page. Both sides may
// be windows or plain memory; they may not overlap.
size_t CopyTolerant(void* to, const void* from, size_t size);
size_t ZeroTolerant(void* to, size_t size);

// On an aligned word; nullopt: the host refused the page.
std::optional<uint32_t> LoadWordTolerant(const void* word);
// What was there: `expected` if `desired` is there now.
std::optional<uint32_t> ExchangeWordTolerant(void* word, uint32_t expected, uint32_t desired);

}  // namespace skep::mm
