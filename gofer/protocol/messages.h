// The messages between a sentry and its gofer, as they lie on the wire.
//
// One SOCK_SEQPACKET message is one request or one reply: the kernel keeps the boundaries and binds
// a donated descriptor to its reply, so nothing has to be reassembled from a hostile peer. Many
// requests may be under way; each reply carries its request's id and they come in any order: a
// client that needs an order waits for the first reply. kRelease has no reply. A client may have
// several connections (kConnect); handles are the same on all of them.
//
// A handle (NodeId) names an inode. Every time a reply carries a handle, the receiver owns one more
// reference to it and gives it back through kRelease; so a release can cross a lookup of the same
// inode without harm.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/limits.h"
#include "gofer/protocol/codec.h"

namespace skep::gofer {

// An inode as the gofer knows it. Never reused while a gofer lives; 0 is none. The root of attach
// point i is i + 1.
enum class NodeId : uint64_t { kNone = 0 };

// A whole message fits one socket buffer of the kernel's default size and needs no contiguous
// allocation above 16 KiB there; the largest xattr value (64 KiB) fits a message.
inline constexpr size_t kMessageMax = size_t{80} << 10;
static_assert(kMessageMax <= kGoferMessageMax);

inline constexpr uint32_t kMaxWalkNames = 2048;                // PATH_MAX / 2
inline constexpr size_t kXattrSizeMax = size_t{64} << 10;      // Linux: XATTR_SIZE_MAX, _LIST_MAX
inline constexpr size_t kPathOfMax = size_t{60} << 10;         // the longest path that PathOf gives
inline constexpr uint32_t kKeepId = UINT32_MAX;                // uid or gid: as the host makes it
inline constexpr uint64_t kMaxChosenNode = uint64_t{1} << 48;  // ids that Reopen may ask for

enum class Op : uint16_t {
  kMounts = 1,   // -> u32 count, AttachRecord...
  kAttach,       // AttachRequest -> AttachRecord
  kWalk,         // WalkRequest, string... -> WalkReply, NodeRecord..., bytes of a symlink's target
                 //   [+ descriptor]
  kReaddir,      // ReaddirRequest -> ReaddirReply, (DirEntryHeader, name, [NodeRecord])...
  kOpen,         // OpenRequest -> Attributes + descriptor
  kCreate,       // MakeRequest, name -> NodeRecord + descriptor
  kMkdir,        // MakeRequest, name -> NodeRecord
  kMknod,        // MakeRequest, name -> NodeRecord
  kSymlink,      // MakeRequest, name, string target -> NodeRecord
  kLink,         // LinkRequest, name -> NodeRecord
  kUnlink,       // UnlinkRequest, name
  kRename,       // RenameRequest, old name, new name
  kSetAttr,      // SetAttrRequest -> Attributes
  kGetAttr,      // NodeId -> Attributes
  kReadlink,     // NodeId -> string
  kStatfs,       // NodeId -> FsStatistics
  kGetXattr,     // XattrRequest, name -> bytes
  kSetXattr,     // XattrRequest, name, bytes
  kListXattr,    // XattrRequest, "" -> bytes, each name with its NUL
  kRemoveXattr,  // XattrRequest, name
  kFsync,        // FsyncRequest
  kRelease,      // u32 count, u32 reserved, ReleaseRecord...; no reply
  kPathOf,       // NodeId -> u32 attach, u32 reserved, string path
  kReopen,       // ReopenRequest, string path -> NodeRecord
  kConnect,      // -> the client's end of one more connection
  kEnd,
};

// cpu: the client waits there, so the gofer should run there; 0 says nothing, else 1 + its number.
struct RequestHeader {
  uint32_t id;
  uint16_t op;
  uint16_t cpu;
};

// If error is not 0 nothing follows.
struct ReplyHeader {
  uint32_t id;
  uint16_t op;
  uint16_t error;
};

// An owner or group that has no counterpart in the gofer's user namespace.
inline constexpr uint32_t kUnmappedId = UINT32_MAX;

// As statx(2) has it, but for owners: see kUnmappedId.
struct Attributes {
  uint64_t ino = 0;
  uint64_t size = 0;
  uint64_t blocks = 0;
  int64_t atime_sec = 0;
  int64_t mtime_sec = 0;
  int64_t ctime_sec = 0;
  int64_t btime_sec = 0;
  uint32_t atime_nsec = 0;
  uint32_t mtime_nsec = 0;
  uint32_t ctime_nsec = 0;
  uint32_t btime_nsec = 0;  // both 0 where the file system has none
  uint32_t mode = 0;        // with the type
  uint32_t nlink = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t blksize = 0;
  uint32_t dev_major = 0;
  uint32_t dev_minor = 0;
  uint32_t rdev_major = 0;
  uint32_t rdev_minor = 0;
  uint32_t remote = 0;  // 1: its file system may wait for more than a disk
};

struct NodeRecord {
  NodeId node = NodeId::kNone;
  Attributes attributes;
};

struct AttachRequest {
  uint32_t attach;
  uint32_t reserved;
};
inline constexpr uint32_t kAttachReadOnly = 1;
struct AttachRecord {
  uint32_t attach = 0;
  uint32_t flags = 0;
  NodeRecord root;
};

// If the last name is reached and is a regular file, the reply donates a descriptor that can read
// it; without one the client asks again, to hear why.
inline constexpr uint32_t kWalkOpens = 1;
struct WalkRequest {
  NodeId parent;
  uint32_t count;
  uint32_t flags;
};
// Why a walk ended where it did.
enum class WalkStop : uint16_t {
  kDone,     // every name was resolved
  kSymlink,  // the last node reached is a symlink (maybe the last name); its target follows
  kError,    // the next name failed; ENOENT is a negative entry of its directory
  kFull,     // the reply is full: walk on from the last node
};
struct WalkReply {
  uint16_t reached;
  uint16_t stop;
  uint16_t error;
  uint16_t target_size;
};

inline constexpr uint32_t kReaddirNodes = 1;  // a handle and attributes with every entry
struct ReaddirRequest {
  NodeId dir;
  uint64_t cookie;  // 0: from the start
  uint32_t max_bytes;
  uint32_t flags;
};
struct ReaddirReply {
  uint32_t count;
  uint32_t at_end;
};
struct DirEntryHeader {
  uint64_t ino;
  uint64_t next_cookie;
  uint16_t name_size;
  uint8_t type;  // DT_*
  uint8_t has_node;
  uint32_t reserved;
};

struct OpenRequest {
  NodeId node;
  uint32_t flags;
  uint32_t reserved;
};

// A new inode. `mode` is final (no umask is applied); mknod's carries the type. flags: kCreate's
// open flags.
struct MakeRequest {
  NodeId dir;
  uint32_t mode;
  uint32_t uid;
  uint32_t gid;
  uint32_t flags;
};

struct LinkRequest {
  NodeId node;
  NodeId dir;
};

inline constexpr uint32_t kUnlinkDirectory = 1;
struct UnlinkRequest {
  NodeId dir;
  uint32_t flags;
  uint32_t reserved;
};

struct RenameRequest {
  NodeId old_dir;
  NodeId new_dir;
  uint32_t flags;  // RENAME_NOREPLACE, RENAME_EXCHANGE
  uint32_t reserved;
};

inline constexpr uint32_t kSetMode = 1, kSetUid = 2, kSetGid = 4, kSetSize = 8, kSetAtime = 16,
                          kSetMtime = 32, kSetAtimeNow = 64, kSetMtimeNow = 128, kSetAll = 255;
struct SetAttrRequest {
  NodeId node = NodeId::kNone;
  uint32_t mask = 0;
  uint32_t mode = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint64_t size = 0;
  int64_t atime_sec = 0;
  int64_t mtime_sec = 0;
  uint32_t atime_nsec = 0;
  uint32_t mtime_nsec = 0;
};

struct FsStatistics {
  uint64_t type = 0;
  uint64_t block_size = 0;
  uint64_t fragment_size = 0;
  uint64_t blocks = 0;
  uint64_t blocks_free = 0;
  uint64_t blocks_available = 0;
  uint64_t files = 0;
  uint64_t files_free = 0;
  uint64_t name_max = 0;
};

// size: of the value to set, or the most bytes wanted.
struct XattrRequest {
  NodeId node;
  uint32_t flags;  // XATTR_CREATE, XATTR_REPLACE
  uint32_t size;
};

struct FsyncRequest {
  NodeId node;
  uint32_t data_only;
  uint32_t reserved;
};

struct ReleaseRecord {
  NodeId node;
  uint64_t count;
};

struct ReopenRequest {
  NodeId wanted;
  uint32_t attach;
  uint32_t reserved;
};

}  // namespace skep::gofer
