#include "base/last_words.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>

#include "base/host_call.h"

namespace skep {
namespace {

constexpr size_t kTextMax = 1024;
constexpr size_t kRing = 8192;
constexpr int kOwnFault = 134;  // as a shell shows an abort
constexpr size_t kSignalStack = size_t{64} << 10;

struct Page {
  std::atomic<uint32_t> claimed;
  std::atomic<uint32_t> size;  // of text; set once it is complete
  char text[kTextMax];
  std::atomic<uint64_t> written;  // bytes of log ever; the ring has the last kRing of them
  char ring[kRing];
};

// Host-side state of the process, not of the guest's kernel.
constinit std::atomic<Page*> page{nullptr};

void OnFatal(int signo, siginfo_t* info, void* context) { DieOfSignal(signo, info, context, ""); }

const char* NameOf(int signo) {
  const char* name = sigabbrev_np(signo);
  return name == nullptr ? "?" : name;
}

std::string Printable(std::string_view text) {
  std::string out;
  for (const char c : text) out += c >= 0x20 && c < 0x7f ? c : '?';
  return out;
}

}  // namespace

void KeepLastWords(int fd) {
  const Result<void*> mapped =
      host::Mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped) page = static_cast<Page*>(*mapped);
}

void SayLastWords(std::string_view text) {
  Page* p = page;
  if (p == nullptr || p->claimed.exchange(1) != 0) return;
  const size_t size = std::min(text.size(), kTextMax);
  memcpy(p->text, text.data(), size);
  p->size.store(static_cast<uint32_t>(size), std::memory_order_release);
}

void NoteLogLine(std::string_view line) {
  Page* p = page;
  if (p == nullptr) return;
  line = line.substr(0, kRing);
  const uint64_t at = p->written.fetch_add(line.size());
  for (size_t i = 0; i < line.size(); ++i) p->ring[(at + i) % kRing] = line[i];
}

void EndByOwnFault() {
  // abort() ends in a fault when the process is the first of its namespace, and in a core file.
  if (page.load() != nullptr) {
    for (;;) syscall(SYS_exit_group, kOwnFault);
  }
  abort();
}

void DieOfSignal(int signo, const siginfo_t* info, const void* context, std::string_view what) {
  const auto& registers = static_cast<const ucontext_t*>(context)->uc_mcontext.gregs;
  char text[512];
  const char* at = signo == SIGABRT ? "abort() was called" : "a fault";
  const int n = snprintf(
      text, sizeof text, "%.*s%s%s (SIG%s, code %d, address %p, instruction %#llx)\n",
      static_cast<int>(what.size()), what.data(), what.empty() ? "" : ": ", at, NameOf(signo),
      info->si_code, info->si_addr, static_cast<unsigned long long>(registers[REG_RIP]));
  const auto size = static_cast<size_t>(std::clamp(n, 0, static_cast<int>(sizeof text) - 1));
  SayLastWords({text, size});
  if (page.load() == nullptr) (void)!write(STDERR_FILENO, text, size);
  EndByOwnFault();
}

void GiveSignalStack() {
  const Result<void*> stack = host::Mmap(nullptr, kSignalStack, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!stack) return;
  stack_t own = {};
  own.ss_sp = *stack;
  own.ss_size = kSignalStack;
  (void)sigaltstack(&own, nullptr);
}

void CatchFatalSignals() {
  GiveSignalStack();
  struct sigaction action = {};
  action.sa_sigaction = OnFatal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (const int signo : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) {
    (void)sigaction(signo, &action, nullptr);
  }
}

HostResult<OwnedFd> MakeLastWords() {
  Result<OwnedFd> file = host::MemfdCreate("skep-last-words", 0);
  if (!file) return HostFail("cannot make a memory file", file.error().code());
  const Result<void> sized = host::Truncate(file->get(), sizeof(Page));
  if (!sized) return HostFail("cannot size a memory file", sized.error().code());
  return std::move(*file);
}

LastWords ReadLastWords(int fd, size_t most_lines) {
  LastWords words;
  std::string bytes(sizeof(Page), '\0');
  const Result<size_t> got = host::PRead(fd, std::as_writable_bytes(std::span(bytes)), 0);
  if (!got || *got != sizeof(Page)) return words;
  uint32_t size = 0;
  uint64_t written = 0;
  memcpy(&size, bytes.data() + offsetof(Page, size), sizeof size);
  memcpy(&written, bytes.data() + offsetof(Page, written), sizeof written);
  words.said = Printable(
      std::string_view(bytes).substr(offsetof(Page, text), std::min<size_t>(size, kTextMax)));
  while (words.said.ends_with('?') || words.said.ends_with(' ')) words.said.pop_back();
  const std::string_view ring = std::string_view(bytes).substr(offsetof(Page, ring), kRing);
  std::string log;
  const uint64_t first = written > kRing ? written - kRing : 0;
  for (uint64_t i = first; i < written && log.size() < kRing; ++i) log += ring[i % kRing];
  for (size_t end = log.find('\n'); end != std::string::npos; end = log.find('\n')) {
    words.log.push_back(Printable(std::string_view(log).substr(0, end)));
    log.erase(0, end + 1);
  }
  if (words.log.size() > most_lines) {
    words.log.erase(words.log.begin(), words.log.end() - static_cast<std::ptrdiff_t>(most_lines));
  }
  return words;
}

}  // namespace skep
