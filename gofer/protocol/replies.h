// Replies as structs. Each Decode takes a whole body apart, in one place; EPROTO: it is not as
// agreed.
#pragma once

#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "gofer/protocol/messages.h"

namespace skep::gofer {

struct Walked {
  std::vector<NodeRecord> nodes;    // one per name reached, in order
  WalkStop stop = WalkStop::kDone;  // never kFull when it comes from a Client
  int error = 0;                    // kError: of name number nodes.size()
  std::string target;               // kSymlink: of nodes.back()
  OwnedFd file;                     // kDone, if asked for: can read nodes.back(), a regular file
};

struct DirEntry {
  std::string name;
  uint64_t ino = 0;
  uint64_t next_cookie = 0;  // resumes after this entry
  uint8_t type = 0;
  NodeRecord node;  // kNone unless asked for and to be had
};
struct DirPage {
  std::vector<DirEntry> entries;  // without "." and ".."
  bool at_end = false;
};

struct NodePath {
  uint32_t attach = 0;
  std::string path;  // relative to the attach point; "" is its root
};

Result<std::vector<AttachRecord>> DecodeMounts(Reader& body);
Result<Walked> DecodeWalk(Reader& body);
Result<DirPage> DecodeReaddir(Reader& body);
Result<NodePath> DecodePathOf(Reader& body);

}  // namespace skep::gofer
