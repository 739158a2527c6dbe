// Every fuzz target without libFuzzer: its seeds, and random mutations of them for a while.
//
//   SKEP_SEED=N        the seed of the mutations; each run prints its own
//   SKEP_SECONDS=N     for each target (default: half a second)
//
// The input of a failed CHECK is written to /tmp/skep-fuzz-NAME; a fault is repeated by its seed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>
#include <memory>
#include <random>

#include "base/host_call.h"
#include "tests/fuzz/fuzz.h"

namespace skep::fuzz {
namespace {

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  std::string Mutate(std::string input, const std::string& other) {
    for (size_t changes = 1 + Below(6); changes > 0; --changes) Change(input, other);
    if (input.size() > kMax) input.resize(kMax);
    return input;
  }
  size_t Below(size_t end) { return end == 0 ? 0 : static_cast<size_t>(random_() % end); }

 private:
  static constexpr size_t kMax = 8192;

  void Change(std::string& input, const std::string& other) {
    constexpr uint64_t kWords[] = {0,      1,          0x7f,       0x80,      0xff, 0x7fff,
                                   0xffff, 0x7fffffff, 0x80000000, ~0U,       4096, 4095,
                                   ~0ULL,  1ULL << 63, 1ULL << 47, 1ULL << 32};
    const size_t at = Below(input.size());
    switch (input.empty() ? 3 : Below(7)) {
      case 0:
        input[at] = static_cast<char>(input[at] ^ (1 << Below(8)));
        break;
      case 1:
        input[at] = static_cast<char>(random_());
        break;
      case 2:
        input.erase(at, 1 + Below(8));
        break;
      case 3:
        input.insert(at, 1 + Below(16), static_cast<char>(random_()));
        break;
      case 4: {  // a number
        const uint64_t word = kWords[Below(std::size(kWords))];
        const size_t size = std::min(size_t{1} << Below(4), input.size() - at);
        memcpy(input.data() + at, &word, size);
        break;
      }
      case 5:  // a piece of another
        if (!other.empty()) input.insert(at, other.substr(Below(other.size()), Below(64)));
        break;
      default:  // a piece of itself
        input.insert(at, input.substr(Below(input.size()), Below(64)));
        break;
    }
  }

  std::mt19937_64 random_;
};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  return text == nullptr ? otherwise : strtoull(text, nullptr, 0);
}

// What is being tried, for the handler of a crash.
const Target* g_target = nullptr;
std::string g_input;

void KeepInput(int signo) {
  char path[128];
  snprintf(path, sizeof path, "/tmp/skep-fuzz-%s", g_target == nullptr ? "none" : g_target->name);
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd >= 0 && write(fd, g_input.data(), g_input.size()) >= 0) {
    fprintf(stderr, "fuzz: the input is in %s\n", path);
  }
  raise(signo);  // its handler was reset
}

void Try(const Target& target, std::string input) {
  g_target = &target;
  g_input = std::move(input);
  target.test(reinterpret_cast<const uint8_t*>(g_input.data()), g_input.size());
}

class Fuzz : public testing::TestWithParam<const Target*> {};

TEST_P(Fuzz, SeedsAndTheirMutations) {
  const Target& target = *GetParam();
  struct sigaction action = {};
  action.sa_handler = KeepInput;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signo : {SIGABRT, SIGFPE}) sigaction(signo, &action, nullptr);
  const uint64_t seed = FromEnvironment("SKEP_SEED", host::MonotonicNs());
  printf("SKEP_SEED=%lu\n", seed);
  fflush(stdout);
  const auto mutator = std::make_unique<Mutator>(seed);
  const std::vector<std::string> seeds = target.seeds();
  ASSERT_FALSE(seeds.empty());
  for (const std::string& input : seeds) Try(target, input);
  uint64_t runs = 0;
  const uint64_t seconds = FromEnvironment("SKEP_SECONDS", 0);
  const uint64_t end = host::MonotonicNs() + (seconds == 0 ? 500'000'000 : seconds * 1'000'000'000);
  for (; host::MonotonicNs() < end; ++runs) {
    const std::string& one = seeds[mutator->Below(seeds.size())];
    Try(target, mutator->Mutate(one, seeds[mutator->Below(seeds.size())]));
  }
  printf("%lu mutations\n", runs);
  EXPECT_GT(runs, 0U);
}

INSTANTIATE_TEST_SUITE_P(Targets, Fuzz, testing::ValuesIn(Target::All()),
                         [](const auto& instance) { return std::string(instance.param->name); });

}  // namespace
}  // namespace skep::fuzz
