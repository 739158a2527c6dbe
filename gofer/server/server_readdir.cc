// Directories in bulk.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>

#include "base/host_call.h"
#include "base/limits.h"
#include "gofer/server/server.h"

namespace skep::gofer {
namespace {

// getdents64's record (man 2 getdents); the name follows, NUL-terminated.
struct HostEntry {
  uint64_t ino;
  int64_t next;
  uint16_t size;
  uint8_t type;
};
constexpr size_t kHostEntryNameAt = 19;
constexpr size_t kReplyBytesMin = sizeof(DirEntryHeader) + kNameMax + sizeof(NodeRecord);

}  // namespace

struct Server::RawEntry {
  uint64_t ino;
  uint64_t next_cookie;
  uint8_t type;
  std::string_view name;
};

// A readable descriptor of the directory, for this thread alone: one of a few that are kept, as one
// listing is many calls.
Result<Server::DirStream> Server::TakeStream(Node& dir) {
  for (DirStream& stream : streams_) {
    if (stream.dir == dir.id) return std::exchange(stream, {});
  }
  const HeldFd path = TRY(nodes_.Hold(dir));
  // "." of an O_PATH directory is that directory.
  OwnedFd readable =
      TRY(Outside([&] { return OpenBeneath(path.get(), ".", O_RDONLY | O_DIRECTORY); }));
  return DirStream{dir.id, std::move(readable), 0};
}

void Server::KeepStream(DirStream stream) {
  streams_[next_stream_++ % streams_.size()] = std::move(stream);
}

// False: no room is left, and nothing was written.
bool Server::PutEntry(Node& dir, const RawEntry& entry, bool with_nodes, ReplyWriter& out) {
  if (out.room() < kReplyBytesMin) return false;
  DirEntryHeader header = {
      entry.ino, entry.next_cookie, static_cast<uint16_t>(entry.name.size()), entry.type, 0, 0};
  NodeRecord record;
  KeptNode node;
  if (with_nodes) {
    if (const Result<FileInfo> info = Lookup(dir, std::string(entry.name), &node)) {
      nodes_.Reference(*node);
      header.has_node = 1;
      header.ino = info->identity.ino;
      record = RecordOf(*node, *info);
    }
  }
  out.Put(header);
  out.PutBytes(std::as_bytes(std::span(entry.name)));
  if (header.has_node != 0) out.Put(record);
  return true;
}

Result<void> Server::Readdir(Reader& in, ReplyWriter& out) {
  const ReaddirRequest request = TRY(in.Get<ReaddirRequest>());
  TRY(in.End());
  const KeptNode dir = TRY(nodes_.Find(request.dir));
  if (!dir->IsDirectory()) return Fail(ENOTDIR);
  if ((request.flags & ~kReaddirNodes) != 0 || request.cookie > INT64_MAX) return Fail(EINVAL);
  ReaddirReply reply{};
  const size_t reply_at = out.size();
  out.Put(reply);
  if (dir->hidden) {
    reply.at_end = 1;
    out.Patch(reply_at, reply);
    return {};
  }
  DirStream stream = TRY(TakeStream(*dir));
  const int fd = stream.fd.get();
  if (stream.position != request.cookie) {
    TRY(host::Call(SYS_lseek, fd, request.cookie, SEEK_SET));
  }
  stream.position = request.cookie;
  const size_t budget = std::max<size_t>(request.max_bytes, kReplyBytesMin);
  const auto buffer = std::make_unique_for_overwrite<char[]>(kDirentBytes);
  char* const raw = buffer.get();
  bool room = true;
  while (room && out.size() - reply_at < budget) {
    const Result<int64_t> size =
        Outside([&] { return host::Call(SYS_getdents64, fd, raw, kDirentBytes); });
    if (!size && reply.count == 0) return std::unexpected(size.error());
    // Handles that are in the reply have been counted: an error is for the next call.
    if (!size) break;
    reply.at_end = *size == 0;
    if (*size == 0) break;
    for (int64_t at = 0; at < *size;) {
      HostEntry host_entry;
      memcpy(&host_entry, raw + at, kHostEntryNameAt);
      const char* name = raw + at + kHostEntryNameAt;
      at += host_entry.size;
      const RawEntry entry = {host_entry.ino, static_cast<uint64_t>(host_entry.next),
                              host_entry.type, name};
      if (entry.name != "." && entry.name != "..") {
        room = out.size() - reply_at < budget &&
               PutEntry(*dir, entry, (request.flags & kReaddirNodes) != 0, out);
        if (!room) break;
        ++reply.count;
      }
      stream.position = entry.next_cookie;
    }
  }
  // Entries that were read and not sent are read again: the next call seeks.
  if (!room) stream.position = UINT64_MAX;
  KeepStream(std::move(stream));
  out.Patch(reply_at, reply);
  return {};
}

}  // namespace skep::gofer
