// A sentry that has been taken over, against its gofer. Messages are two bytes of size and that
// many bytes; each is answered, nothing outside the tree is reached.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <array>
#include <filesystem>
#include <fstream>

#include "gofer/server/server.h"
#include "tests/fuzz/fuzz.h"

namespace skep::fuzz {
namespace {

using namespace skep::gofer;

std::string Message(Op op, const std::string& body) {
  const std::string message = Bytes(RequestHeader{1, static_cast<uint16_t>(op), 0}) + body;
  return Bytes(static_cast<uint16_t>(message.size())) + message;
}
std::string Name(std::string_view name) {
  return Bytes(static_cast<uint16_t>(name.size())) + std::string(name);
}

struct Tree {
  Tree() {
    std::string pattern = "/tmp/skep-fuzz-XXXXXX";
    path = mkdtemp(pattern.data());
    std::filesystem::create_directories(path + "/root/d");
    std::ofstream(path + "/root/f") << "text";
    std::filesystem::create_symlink("../secret", path + "/root/link");
    std::ofstream(path + "/secret") << "secret";
  }
  ~Tree() { std::filesystem::remove_all(path); }
  std::string path;
};

std::vector<std::string> Seeds() {
  const NodeId root{1};
  const MakeRequest make{root, 0644, kKeepId, kKeepId, O_RDWR};
  return {Message(Op::kMounts, "") + Message(Op::kAttach, Bytes(AttachRequest{0, 0})),
          Message(Op::kWalk, Bytes(WalkRequest{root, 2, kWalkOpens}) + Name("d") + Name("x")) +
              Message(Op::kReaddir, Bytes(ReaddirRequest{root, 0, 4096, kReaddirNodes})),
          Message(Op::kCreate, Bytes(make) + Name("new")) + Message(Op::kGetAttr, Bytes(NodeId{2})),
          Message(Op::kSymlink, Bytes(make) + Name("s") + Name("../../etc/passwd")) +
              Message(Op::kWalk, Bytes(WalkRequest{root, 1, kWalkOpens}) + Name("s")),
          Message(Op::kRename, Bytes(RenameRequest{root, root, 0, 0}) + Name("f") + Name("g")),
          Message(Op::kSetXattr, Bytes(XattrRequest{root, 0, 3}) + Name("user.a") + "abc") +
              Message(Op::kListXattr, Bytes(XattrRequest{root, 0, 100}) + Name("")),
          Message(Op::kRelease,
                  Bytes(uint32_t{1}) + Bytes(uint32_t{0}) + Bytes(ReleaseRecord{root, 1})),
          Message(Op::kReopen, Bytes(ReopenRequest{NodeId{9}, 0, 0}) + Name("d/../f"))};
}

int TestOneInput(const uint8_t* data, size_t size) {
  const fuzz::Tree tree;
  gofer::ServerConfig config;
  config.attach_points.push_back(
      {OwnedFd(open((tree.path + "/root").c_str(), O_PATH | O_CLOEXEC)), false});
  config.proc_self_fd = OwnedFd(open("/proc/self/fd", O_PATH | O_CLOEXEC));
  config.max_nodes = 64;
  config.max_open_fds = 16;
  auto server = gofer::Server::Make(std::move(config));
  if (!server) fuzz::Fail("no server");
  std::vector<std::byte> reply(gofer::kMessageMax);
  struct stat secret;
  stat((tree.path + "/secret").c_str(), &secret);
  for (fuzz::Input in(data, size); !in.empty();) {
    const std::string_view message = in.Text(in.Take<uint16_t>());
    const auto answer = (*server)->Handle(std::as_bytes(std::span(message)), reply);
    if (answer.size > reply.size()) fuzz::Fail("an answer beyond its buffer");
    struct stat donated;
    if (answer.file && fstat(answer.file.get(), &donated) == 0 && donated.st_ino == secret.st_ino &&
        donated.st_dev == secret.st_dev) {
      fuzz::Fail("a file outside the tree");
    }
  }
  if (std::filesystem::file_size(tree.path + "/secret") != 6)
    fuzz::Fail("written outside the tree");
  return 0;
}

const Target kTarget("gofer_server", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
