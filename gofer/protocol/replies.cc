#include "gofer/protocol/replies.h"

namespace skep::gofer {

Result<std::vector<AttachRecord>> DecodeMounts(Reader& body) {
  const uint32_t count = TRY(body.Get<uint32_t>());
  if (count > body.left() / sizeof(AttachRecord)) return Fail(EPROTO);
  std::vector<AttachRecord> mounts(count);
  for (AttachRecord& mount : mounts) mount = TRY(body.Get<AttachRecord>());
  return mounts;
}

Result<Walked> DecodeWalk(Reader& body) {
  const WalkReply header = TRY(body.Get<WalkReply>());
  if (header.error >= 4096) return Fail(EPROTO);
  if (header.stop > static_cast<uint16_t>(WalkStop::kFull)) return Fail(EPROTO);
  if (header.reached > body.left() / sizeof(NodeRecord)) return Fail(EPROTO);
  Walked walked;
  walked.stop = static_cast<WalkStop>(header.stop);
  walked.error = header.error;
  walked.nodes.resize(header.reached);
  for (NodeRecord& node : walked.nodes) node = TRY(body.Get<NodeRecord>());
  if (walked.stop == WalkStop::kSymlink) {
    const std::span<const std::byte> target = TRY(body.GetBytes(header.target_size));
    walked.target.assign(reinterpret_cast<const char*>(target.data()), target.size());
  }
  const bool nowhere =
      walked.nodes.empty() && (walked.stop == WalkStop::kSymlink || walked.stop == WalkStop::kFull);
  const bool no_error = walked.stop == WalkStop::kError && walked.error == 0;
  if (nowhere || no_error) return Fail(EPROTO);
  return walked;
}

Result<DirPage> DecodeReaddir(Reader& body) {
  const ReaddirReply header = TRY(body.Get<ReaddirReply>());
  if (header.count > body.left() / sizeof(DirEntryHeader)) return Fail(EPROTO);
  DirPage page;
  page.at_end = header.at_end != 0;
  page.entries.resize(header.count);
  for (DirEntry& entry : page.entries) {
    const DirEntryHeader head = TRY(body.Get<DirEntryHeader>());
    const std::span<const std::byte> name = TRY(body.GetBytes(head.name_size));
    entry.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    entry.ino = head.ino;
    entry.next_cookie = head.next_cookie;
    entry.type = head.type;
    if (head.has_node != 0) entry.node = TRY(body.Get<NodeRecord>());
  }
  return page;
}

Result<NodePath> DecodePathOf(Reader& body) {
  const AttachRequest attach = TRY(body.Get<AttachRequest>());
  const std::string_view path = TRY(body.GetString());
  return NodePath{attach.attach, std::string(path)};
}

}  // namespace skep::gofer
