// What an image says of itself, checked before anything of it is believed.
#include <cpuid.h>
#include <elf.h>
#include <link.h>
#include <sys/auxv.h>
#include <algorithm>
#include <cstring>

#include "base/host_call.h"
#include "base/range.h"
#include "sentry/arena/arena.h"
#include "sentry/arena/image.h"
#include "sentry/arena/layout.h"

namespace skep::arena {
namespace {

constexpr std::array<char, 8> kMagic = {'s', 'k', 'e', 'p', 'a', 'r', 'n', '1'};
constexpr uint64_t kMaxExtents = 4 << 20;

std::array<uint8_t, 32> BuildId() {
  std::array<uint8_t, 32> id{};
  // SAFETY: the binary is static and not position independent: its headers and notes are mapped at
  // the addresses they name.
  const auto* headers = reinterpret_cast<const ElfW(Phdr)*>(getauxval(AT_PHDR));
  const size_t count = getauxval(AT_PHNUM);
  for (size_t i = 0; i < count; ++i) {
    if (headers[i].p_type != PT_NOTE) continue;
    uintptr_t at = headers[i].p_vaddr;
    const uintptr_t end = at + headers[i].p_memsz;
    while (at + sizeof(ElfW(Nhdr)) <= end) {
      const auto* note = reinterpret_cast<const ElfW(Nhdr)*>(at);
      const uintptr_t name = at + sizeof *note;
      const uintptr_t value = name + ((note->n_namesz + 3U) & ~3U);
      if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 &&
          memcmp(reinterpret_cast<const void*>(name), "GNU", 4) == 0) {
        memcpy(id.data(), reinterpret_cast<const void*>(value),
               std::min<size_t>(note->n_descsz, id.size()));
        return id;
      }
      at = value + ((note->n_descsz + 3U) & ~3U);
    }
  }
  return id;
}

std::array<uint32_t, 8> CpuFeatures() {
  std::array<uint32_t, 8> words{};
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0) {
    words[0] = ecx;
    words[1] = edx;
    if ((ecx & bit_OSXSAVE) != 0) {
      uint32_t low = 0, high = 0;
      asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
      words[2] = low;
      words[3] = high;
    }
  }
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0) {
    words[4] = ebx;
    words[5] = ecx;
    words[6] = edx;
  }
  if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) != 0) words[7] = ecx;
  return words;
}

bool InRegions(const ImageExtent& e) {
  if (!IsPageAligned(e.address | e.size | e.offset) || e.size == 0) return false;
  const auto within = [&](uint64_t base, uint64_t size) {
    return e.address >= base && e.size <= size && e.address - base <= size - e.size;
  };
  return within(kBase, kHeapSize) || within(kStacksBase, kStacksSize);
}

}  // namespace

HostResult<void> ReadImage(int fd, uint64_t offset, void* to, uint64_t size) {
  auto* bytes = static_cast<std::byte*>(to);
  while (size > 0) {
    Result<size_t> n = host::PRead(fd, {bytes, size}, offset);
    if (!n) return HostFail("cannot read the kernel arena", n.error().code());
    if (*n == 0) return HostFail("the image of the kernel arena is cut short");
    bytes += *n;
    offset += *n;
    size -= *n;
  }
  return {};
}

ImageHeader HeaderOfThisBuild(uint64_t extent_count) {
  return {kMagic, BuildId(), CpuFeatures(), extent_count};
}

HostResult<std::vector<ImageExtent>> ReadExtents(int fd, uint64_t offset) {
  const Result<struct stat> file = host::Stat(fd);
  if (!file) return HostFail("cannot read the kernel arena", file.error().code());
  const auto file_size = static_cast<uint64_t>(file->st_size);
  if (!IsPageAligned(offset)) return HostFail("an arena image starts at a page boundary");
  ImageHeader header{};
  if (offset > file_size) return HostFail("the image of the kernel arena is cut short");
  TRY(ReadImage(fd, offset, &header, sizeof header));
  if (header.magic != kMagic) return HostFail("not an image of a kernel arena");
  if (header.build_id != BuildId()) {
    return HostFail("the image was made by another build of skep; resume it with that one");
  }
  if (header.cpu != CpuFeatures()) {
    return HostFail("the image was made on a CPU with other features; resume it on such a one");
  }
  const uint64_t size = file_size - offset;
  if (header.extent_count > std::min(kMaxExtents, size / sizeof(ImageExtent))) {
    return HostFail("the image of the kernel arena is damaged");
  }
  std::vector<ImageExtent> extents(header.extent_count);
  TRY(ReadImage(fd, offset + sizeof header, extents.data(), extents.size() * sizeof(ImageExtent)));
  uint64_t end = 0;  // of the extent before
  for (const ImageExtent& e : extents) {
    const bool in_file = e.offset <= size && e.size <= size - e.offset;
    if (!InRegions(e) || !in_file || e.address < end) {
      return HostFail("the image of the kernel arena is damaged");
    }
    end = e.address + e.size;
  }
  return extents;
}

}  // namespace skep::arena
