// ListingFile: an open directory. "." and ".." come from here, the other entries from List.
//
// Cookies are d_off: 1 and 2 are those of the dots, the directory's own begin at kFirstEntryCookie
// and ascend.
#pragma once

#include <concepts>
#include <vector>

#include "sentry/vfs/file.h"

namespace skep::vfs {

class ListingFile : public File {
 public:
  using File::File;

  Result<size_t> Read(Caller&, mm::IoSequence&, uint64_t) final { return Fail(EISDIR); }
  Result<void> Sync(bool) override { return {}; }
  Result<uint64_t> ReadDir(Caller& caller, uint64_t cookie, const DirSink& sink) override {
    uint64_t reached = cookie;
    if (!EmitDots(*this, &reached, sink)) return reached;
    TRY(List(caller, reached, [&](const DirEntry& entry) {
      if (!sink(entry)) return false;
      reached = entry.next_cookie;
      return true;
    }));
    return reached;
  }

 protected:
  // Hands `sink` the entries after this cookie, in order, until it returns false.
  virtual Result<void> List(Caller& caller, uint64_t cookie, const DirSink& sink) = 0;
  // No entry of its own has been read: time to take a snapshot.
  static bool IsStart(uint64_t cookie) { return cookie < kFirstEntryCookie; }

  // List's work for a snapshot: the entry at index i has the cookie kFirstEntryCookie + i.
  template <class Entry>
    requires requires(const Entry& e) {
      { e.name } -> std::convertible_to<std::string_view>;
      { e.ino } -> std::convertible_to<uint64_t>;
      { e.type } -> std::convertible_to<uint8_t>;
    }
  static void EmitSnapshot(const std::vector<Entry>& entries, uint64_t cookie,
                           const DirSink& sink) {
    uint64_t next = cookie < kFirstEntryCookie ? 0 : cookie - kFirstEntryCookie + 1;
    for (; next < entries.size(); ++next) {
      const Entry& entry = entries[next];
      if (!sink({.name = entry.name,
                 .ino = entry.ino,
                 .type = entry.type,
                 .next_cookie = kFirstEntryCookie + next})) {
        return;
      }
    }
  }
};

}  // namespace skep::vfs
