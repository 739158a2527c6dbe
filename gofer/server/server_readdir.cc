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

// A readable descriptor of the directory: one of a few that are kept, as one listing is many calls.
Result<Server::DirStream*> Server::StreamOf(Node& dir) {
  for (DirStream& stream : streams_) {
    if (stream.dir == dir.id) return &stream;
  }
  const HeldFd path = TRY(nodes_.Hold(dir));
  // "." of an O_PATH directory is that directory.
  OwnedFd readable = TRY(OpenBeneath(path.get(), ".", O_RDONLY | O_DIRECTORY));
  DirStream& stream = streams_[next_stream_++ % streams_.size()];
  stream.dir = dir.id;
  stream.fd = std::move(readable);
  stream.position = 0;
  return &stream;
}

// False: no room is left, and nothing was written.
bool Server::PutEntry(Node& dir, int dir_fd, const RawEntry& entry, bool with_nodes, Writer& out) {
  if (out.room() < kReplyBytesMin) return false;
  DirEntryHeader header = {
      entry.ino, entry.next_cookie, static_cast<uint16_t>(entry.name.size()), entry.type, 0, 0};
  NodeRecord record;
  if (with_nodes) {
    const std::string name(entry.name);
    Node* node = nullptr;
    const Result<FileInfo> info = StatName(dir_fd, name);
    if (info) {
      const Result<Node*> found = nodes_.Intern(dir, name, *info);
      if (found) node = *found;
    }
    if (node != nullptr) {
      nodes_.Reference(*node);
      header.has_node = 1;
      header.ino = info->identity.ino;
      record = {node->id, info->attributes};
    }
  }
  out.Put(header);
  out.PutBytes(std::as_bytes(std::span(entry.name)));
  if (header.has_node != 0) out.Put(record);
  return true;
}

Result<void> Server::Readdir(Reader& in, Writer& out) {
  const ReaddirRequest request = TRY(in.Get<ReaddirRequest>());
  TRY(in.End());
  Node* dir = TRY(nodes_.Find(request.dir));
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
  DirStream* stream = TRY(StreamOf(*dir));
  const int fd = stream->fd.get();
  if (stream->position != request.cookie) {
    TRY(host::Call(SYS_lseek, fd, request.cookie, SEEK_SET));
  }
  stream->position = request.cookie;
  const size_t budget = std::max<size_t>(request.max_bytes, kReplyBytesMin);
  char* raw = dirent_buffer_.get();
  bool room = true;
  while (room && out.size() - reply_at < budget) {
    const int64_t size = TRY(host::Call(SYS_getdents64, fd, raw, kDirentBytes));
    reply.at_end = size == 0;
    if (size == 0) break;
    for (int64_t at = 0; at < size;) {
      HostEntry host_entry;
      memcpy(&host_entry, raw + at, kHostEntryNameAt);
      const char* name = raw + at + kHostEntryNameAt;
      at += host_entry.size;
      const RawEntry entry = {host_entry.ino, static_cast<uint64_t>(host_entry.next),
                              host_entry.type, name};
      if (entry.name != "." && entry.name != "..") {
        room = out.size() - reply_at < budget &&
               PutEntry(*dir, fd, entry, (request.flags & kReaddirNodes) != 0, out);
        if (!room) break;
        ++reply.count;
      }
      stream->position = entry.next_cookie;
    }
  }
  // Entries that were read and not sent are read again: the next call seeks.
  if (!room) stream->position = UINT64_MAX;
  out.Patch(reply_at, reply);
  return {};
}

}  // namespace skep::gofer
