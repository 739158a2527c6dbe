// Values of the command line, and the /etc/passwd and /etc/group that names are looked up in.
#include "runsc-cli/parse.h"
#include "tests/fuzz/fuzz.h"

namespace skep::fuzz {
namespace {

std::vector<std::string> Seeds() {
  return {std::string("root:root\nroot:x:0:0:root:/root:/bin/sh\ng:x:1:root,a\nroot:x:0:\n"),
          "64k\n",
          "/a:/b:ro\n",
          "/a//b/./c\n",
          "18446744073709551615\n",
          "4294967295:1\n"};
}

int TestOneInput(const uint8_t* data, size_t size) {
  const std::string all(reinterpret_cast<const char*>(data), size);
  const size_t end = all.find('\n');
  const std::string first = all.substr(0, end);
  const std::string rest = end == std::string::npos ? "" : all.substr(end + 1);
  (void)cli::ParseNumber(first);
  (void)cli::ParseSize(first);
  if (const auto volume = cli::ParseVolume(first)) {
    if (volume->guest.empty() || volume->guest[0] != '/' || volume->guest == "/") {
      fuzz::Fail("a volume at no absolute path");
    }
  }
  const UserDatabase database{rest, rest};
  for (const UserDatabase* in : {static_cast<const UserDatabase*>(nullptr), &database}) {
    (void)ParseUser(first, in);
  }
  if (const auto path = cli::CleanAbsolutePath(first)) {
    const std::string walked = *path + "/";
    if ((*path)[0] != '/' || walked.find("//") != (*path == "/" ? 0 : std::string::npos) ||
        walked.find("/../") != std::string::npos) {
      fuzz::Fail("a path that is not clean");
    }
    if (cli::CleanAbsolutePath(*path) != path) fuzz::Fail("a clean path that can be cleaned");
  }
  return 0;
}

const Target kTarget("values", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
