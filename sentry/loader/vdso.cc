#include "sentry/loader/vdso.h"

#include <elf.h>
#include <cstring>

#include "base/limits.h"
#include "sentry/loader/vdso/page.h"

extern "C" const std::byte skep_vdso_start[];
extern "C" const std::byte skep_vdso_end[];

namespace skep::loader {

std::span<const std::byte> VdsoImage() { return {skep_vdso_start, skep_vdso_end}; }

uint64_t VdsoSymbol(std::string_view name) {
  const std::byte* image = skep_vdso_start;
  // SAFETY: our own image, made by the build.
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(image);
  const auto* segments = reinterpret_cast<const Elf64_Phdr*>(image + header->e_phoff);
  const Elf64_Sym* symbols = nullptr;
  const char* strings = nullptr;
  const uint32_t* hash = nullptr;
  for (int i = 0; i < header->e_phnum; ++i) {
    if (segments[i].p_type != PT_DYNAMIC) continue;
    for (const auto* d = reinterpret_cast<const Elf64_Dyn*>(image + segments[i].p_offset);
         d->d_tag != DT_NULL; ++d) {
      if (d->d_tag == DT_SYMTAB)
        symbols = reinterpret_cast<const Elf64_Sym*>(image + d->d_un.d_ptr);
      if (d->d_tag == DT_STRTAB) strings = reinterpret_cast<const char*>(image + d->d_un.d_ptr);
      if (d->d_tag == DT_HASH) hash = reinterpret_cast<const uint32_t*>(image + d->d_un.d_ptr);
    }
  }
  if (symbols == nullptr || strings == nullptr || hash == nullptr) return 0;
  for (uint32_t i = 1; i < hash[1]; ++i) {
    if (name == strings + symbols[i].st_name) return symbols[i].st_value;
  }
  return 0;
}

HostResult<Ref<VdsoPages>> VdsoPages::Make(mm::MemoryFile& memory) {
  auto extent = memory.Allocate(kPageSize + ImageSize());
  if (!extent) return HostFail("cannot allocate the vDSO's pages", extent.error().code());
  std::byte* window = memory.Window((*extent)->offsets().start);
  memset(window, 0, kPageSize);
  memcpy(window + kPageSize, VdsoImage().data(), ImageSize());
  return MakeRef<VdsoPages>(std::move(*extent));
}

skep_vdso_page& VdsoPages::page() const {
  // SAFETY: guests map it read-only; the window is always mapped.
  return *reinterpret_cast<skep_vdso_page*>(extent_->file().Window(extent_->offsets().start));
}

Result<mm::Piece> VdsoPages::Translate(Range range, bool write) {
  if (write) return Fail(EACCES);
  if (range.start >= extent_->size()) return Fail(ENXIO);
  const uint64_t end = range.end < extent_->size() ? range.end : extent_->size();
  return mm::Piece{extent_->file().id(), extent_->offsets().start + range.start, end - range.start,
                   extent_};
}

}  // namespace skep::loader
