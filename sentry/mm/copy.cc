#include "sentry/mm/copy.h"

#include <ucontext.h>
#include <csignal>
#include <cstring>

#include "base/check.h"
#include "base/last_words.h"
#include "sentry/arena/stack_guard.h"

extern "C" {

struct SkepCopyEnd {
  uint64_t value;
  uint64_t fault;
};
extern const char skep_copy_begin[];
extern const char skep_copy_end[];
extern const char skep_copy_fault[];
SkepCopyEnd skep_copy_bytes(void* to, const void* from, size_t size);
SkepCopyEnd skep_zero_bytes(void* to, size_t size);
SkepCopyEnd skep_load_word(const void* word);
SkepCopyEnd skep_exchange_word(void* word, uint32_t expected, uint32_t desired);

}  // extern "C"

namespace skep::mm {
namespace {

void OnFault(int signo, siginfo_t* info, void* context) {
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto ip = static_cast<uintptr_t>(registers[REG_RIP]);
  if (ip >= reinterpret_cast<uintptr_t>(skep_copy_begin) &&
      ip < reinterpret_cast<uintptr_t>(skep_copy_end)) {
    registers[REG_RIP] = static_cast<greg_t>(reinterpret_cast<uintptr_t>(skep_copy_fault));
    return;
  }
  const bool overflow = signo == SIGSEGV && arena::IsStackGuard(info->si_addr);
  DieOfSignal(signo, info, context, overflow ? "the stack of a fiber is full" : "");
}

}  // namespace

void InstallCopyFaultHandler() {
  struct sigaction action = {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  CHECK(sigaction(SIGSEGV, &action, nullptr) == 0);
  CHECK(sigaction(SIGBUS, &action, nullptr) == 0);
}

size_t CopyTolerant(void* to, const void* from, size_t size) {
  return size - skep_copy_bytes(to, from, size).value;
}

size_t ZeroTolerant(void* to, size_t size) { return size - skep_zero_bytes(to, size).value; }

std::optional<uint32_t> LoadWordTolerant(const void* word) {
  const SkepCopyEnd end = skep_load_word(word);
  if (end.fault != 0) return std::nullopt;
  return static_cast<uint32_t>(end.value);
}

std::optional<uint32_t> ExchangeWordTolerant(void* word, uint32_t expected, uint32_t desired) {
  const SkepCopyEnd end = skep_exchange_word(word, expected, desired);
  if (end.fault != 0) return std::nullopt;
  return static_cast<uint32_t>(end.value);
}

}  // namespace skep::mm
