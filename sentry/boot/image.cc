#include "sentry/boot/image.h"

#include <fmt/format.h>
#include <algorithm>
#include <cstring>
#include <set>

#include "base/range.h"

namespace skep::boot {
namespace {

constexpr std::string_view kMagic = "skepimg2";
constexpr uint64_t kMaxRuns = 16 << 20;
constexpr uint64_t kMaxFiles = 64;
constexpr uint64_t kMaxResources = 1 << 20;
constexpr uint64_t kMaxName = 64 << 10;
constexpr uint64_t kMaxOffset = uint64_t{1} << 56;

class Packer {
 public:
  void Word(uint64_t value) { out_.append(reinterpret_cast<const char*>(&value), sizeof value); }
  void Text(std::string_view text) {
    Word(text.size());
    out_ += text;
  }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_;
};

// Anything but what a Packer has written makes it fail, and it goes on failing.
class Unpacker {
 public:
  explicit Unpacker(std::string_view in) : in_(in) {}

  uint64_t Word() {
    uint64_t value = 0;
    if (in_.size() < sizeof value) return Fail();
    memcpy(&value, in_.data(), sizeof value);
    in_.remove_prefix(sizeof value);
    return value;
  }
  // One that is `most` or less.
  uint64_t Word(uint64_t most) {
    const uint64_t value = Word();
    return value <= most ? value : Fail();
  }
  // `count` elements of at least `size` bytes must be there.
  uint64_t Count(uint64_t most, size_t size) {
    const uint64_t count = Word(most);
    return count <= in_.size() / size ? count : Fail();
  }
  std::string Text() {
    const uint64_t size = Word(kMaxName);
    if (size > in_.size()) return Fail(), std::string();
    std::string text(in_.substr(0, size));
    in_.remove_prefix(size);
    return text;
  }
  uint64_t Fail() {
    good_ = false;
    in_ = {};
    return 0;
  }
  bool good() const { return good_; }
  bool AllTaken() const { return good_ && in_.empty(); }

 private:
  std::string_view in_;
  bool good_ = true;
};

std::vector<PageRun> UnpackRuns(Unpacker& in) {
  std::vector<PageRun> runs(in.Count(kMaxRuns, sizeof(PageRun)));
  uint64_t end = 0;
  for (PageRun& run : runs) {
    run.offset = in.Word(kMaxOffset);
    run.size = in.Word(kMaxOffset);
    run.at = in.Word(kMaxOffset);
    if (run.size == 0 || run.offset < end || !IsPageAligned(run.offset | run.size | run.at)) {
      in.Fail();
    }
    end = run.offset + run.size;
  }
  return runs;
}

}  // namespace

std::string InWords(const ResourceName& name) {
  const std::string of = fmt::format(" of container '{}'", name.container);
  switch (name.kind) {
    case ResourceName::Kind::kTree:
      return fmt::format("the host's files at the mount {}{}", name.name, of);
    case ResourceName::Kind::kStdio:
      return (name.name == "0"   ? "standard input"
              : name.name == "1" ? "standard output"
                                 : "standard error") +
             of;
    case ResourceName::Kind::kTerminal:
      return "the terminal" + of;
    case ResourceName::Kind::kStrace:
      return "the file of --strace";
  }
  return "something unknown" + of;
}

std::string Encode(const ImageStart& start) {
  Packer out;
  out.Word(start.head_offset);
  out.Word(start.head_size);
  return std::string(kMagic) + out.Take();
}

HostResult<ImageStart> DecodeImageStart(std::string_view bytes) {
  if (!bytes.starts_with(kMagic)) return HostFail("not the image of a sandbox");
  Unpacker in(bytes.substr(kMagic.size()));
  const ImageStart start = {in.Word(kMaxOffset), in.Word(kImageHeadMax)};
  if (!in.AllTaken()) return HostFail("the image is damaged");
  return start;
}

std::string Encode(const ImageHead& head) {
  Packer out;
  out.Text(head.starters);
  out.Word(head.resources.size());
  for (const ImageResource& resource : head.resources) {
    out.Word(static_cast<uint64_t>(resource.name.kind));
    out.Text(resource.name.container);
    out.Text(resource.name.name);
    out.Word(resource.number);
  }
  out.Word(head.memory_files.size());
  for (const std::vector<PageRun>& runs : head.memory_files) {
    out.Word(runs.size());
    for (const PageRun& run : runs) {
      out.Word(run.offset);
      out.Word(run.size);
      out.Word(run.at);
    }
  }
  out.Word(head.arena_offset);
  return out.Take();
}

HostResult<ImageHead> DecodeImageHead(std::string_view bytes) {
  Unpacker in(bytes);
  ImageHead head;
  std::set<ResourceName> names;
  head.starters = in.Text();
  head.resources.resize(in.Count(kMaxResources, 4 * sizeof(uint64_t)));
  for (ImageResource& resource : head.resources) {
    constexpr auto kLast = static_cast<uint64_t>(ResourceName::Kind::kStrace);
    resource.name.kind = static_cast<ResourceName::Kind>(in.Word(kLast));
    resource.name.container = in.Text();
    resource.name.name = in.Text();
    resource.number = static_cast<uint32_t>(in.Word(UINT32_MAX));
    if (in.good() && !names.insert(resource.name).second) in.Fail();
  }
  head.memory_files.resize(in.Count(kMaxFiles, sizeof(uint64_t)));
  for (std::vector<PageRun>& runs : head.memory_files) runs = UnpackRuns(in);
  head.arena_offset = in.Word(kMaxOffset);
  if (!in.AllTaken() || !IsPageAligned(head.arena_offset)) return HostFail("the image is damaged");
  return head;
}

HostResult<void> MatchNames(const std::vector<ImageResource>& needed,
                            const std::vector<ResourceName>& given) {
  for (const ImageResource& resource : needed) {
    if (std::find(given.begin(), given.end(), resource.name) == given.end()) {
      return HostFail(fmt::format("the image needs {}: it is missing", InWords(resource.name)));
    }
  }
  for (const ResourceName& name : given) {
    const auto is_it = [&](const ImageResource& resource) { return resource.name == name; };
    if (std::none_of(needed.begin(), needed.end(), is_it)) {
      return HostFail(fmt::format("the image does not know {}", InWords(name)));
    }
  }
  return {};
}

}  // namespace skep::boot
