// The text of /proc/<pid>/maps, status and statm.
#include <fmt/format.h>
#include <iterator>
#include <string>
#include <vector>

#include "sentry/mm/state.h"

namespace skep::mm {

using sched::SleepLockHold;

namespace {

constexpr size_t kNameColumn = 73;  // Linux: seq_pad in show_vma_header_prefix

void AppendEscaped(std::string& text, const std::string& name) {
  for (const char c : name) {
    if (c == '\n') {
      text += "\\012";
    } else {
      text += c;
    }
  }
}

}  // namespace

std::string MemoryManager::State::NameOf(const Vma& vma) {
  if (!vma.name.empty()) return vma.name;
  if (vma.file) return vma.file->NameForMaps().path;
  if (brk > brk_start && vma.start <= brk && vma.end >= brk_start && !vma.shared) return "[heap]";
  const uint64_t stack = mm.layout.start_stack;
  if (stack != 0 && vma.start <= stack && vma.end >= stack) return "[stack]";
  return {};
}

std::string MemoryManager::MapsText() {
  SleepLockHold hold(state_->mmap_lock);
  std::string text;
  for (const auto& [start, vma] : state_->vmas) {
    MappableName name;
    if (vma.file) name = vma.file->NameForMaps();
    const size_t line = text.size();
    fmt::format_to(std::back_inserter(text), "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
                   vma.start, vma.end, (vma.prot & PROT_READ) != 0 ? 'r' : '-',
                   (vma.prot & PROT_WRITE) != 0 ? 'w' : '-',
                   (vma.prot & PROT_EXEC) != 0 ? 'x' : '-', vma.shared ? 's' : 'p',
                   vma.file ? vma.offset : 0, name.dev_major, name.dev_minor, name.inode);
    const std::string shown = state_->NameOf(vma);
    if (!shown.empty()) {
      const size_t width = text.size() - line;
      text.append(width < kNameColumn ? kNameColumn - width : 1, ' ');
      AppendEscaped(text, shown);
    }
    text += '\n';
  }
  return text;
}

// Pages of files count as resident as far as they are mapped; those of memory as the host has them.
MemoryStats MemoryManager::Stats() {
  State& state = *state_;
  SleepLockHold hold(state.mmap_lock);
  MemoryStats stats{};
  stats.virtual_size = state.vmas.total_bytes();
  stats.peak_virtual = std::max(state.peak_virtual, stats.virtual_size);
  for (const auto& [start, vma] : state.vmas) {
    if (vma.is_data()) stats.data += vma.size();
    if (vma.grows_down) stats.stack += vma.size();
    if (vma.locked) stats.locked += vma.size();
  }
  for (const auto& [start, segment] : state.segments) {
    if (segment.kind == Segment::Kind::kPrivate) {
      stats.resident += segment.extent->file().ResidentBytes(segment.offsets());
      continue;
    }
    const uint64_t bytes =
        segment.extent ? segment.extent->file().ResidentBytes(segment.offsets()) : segment.size();
    stats.resident += bytes;
    stats.shared += bytes;
  }
  stats.text = PageCeil(layout.end_code) - PageFloor(layout.start_code);
  return stats;
}

uint64_t MemoryManager::ResidentIn(Range addresses) {
  State& state = *state_;
  SleepLockHold hold(state.mmap_lock);
  uint64_t bytes = 0;
  for (auto it = state.segments.FirstEndingAfter(addresses.start);
       it != state.segments.end() && it->first < addresses.end; ++it) {
    const Segment& segment = it->second;
    const Range part = segment.range().Intersect(addresses);
    bytes += segment.extent ? segment.extent->file().ResidentBytes(segment.OffsetsOf(part))
                            : part.size();
  }
  return bytes;
}

uint64_t MemoryManager::MemoryBytes() {
  State& state = *state_;
  SleepLockHold hold(state.mmap_lock);
  uint64_t bytes = 0;
  for (const auto& [start, segment] : state.segments) {
    if (segment.extent) bytes += segment.extent->file().ResidentBytes(segment.offsets());
  }
  return bytes;
}

}  // namespace skep::mm
