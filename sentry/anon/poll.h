// Waiting for several files at once: what poll, ppoll, select and pselect6 share.
#pragma once

#include <deque>
#include <vector>

#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"

namespace skep::anon {

class PollSet {
 public:
  // `wanted` as poll(2)'s events; EPOLLERR and EPOLLHUP are always told.
  void Add(Ref<vfs::File> file, vfs::EventMask wanted) {
    entries_.push_back({std::move(file), wanted, 0});
  }
  size_t size() const { return entries_.size(); }
  vfs::EventMask ready(size_t i) const { return entries_[i].ready; }

  // Suspends until a file is ready or the deadline has passed (0: looks once). How many are ready;
  // kRestartNoHand if interrupted with none. Once per set.
  Result<size_t> Wait(sched::Deadline deadline);

 private:
  struct Entry {
    Ref<vfs::File> file;
    vfs::EventMask wanted, ready;
  };
  size_t Look();
  std::vector<Entry> entries_;
};

}  // namespace skep::anon
