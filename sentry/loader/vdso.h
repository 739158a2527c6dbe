// The vDSO image and its clock page as guest memory.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "base/result.h"
#include "sentry/mm/mappable.h"
#include "sentry/mm/memory_file.h"

struct skep_vdso_page;

namespace skep::loader {

// The bytes of vdso.so, padded to pages.
std::span<const std::byte> VdsoImage();
// Offset of a symbol in the image, or 0.
uint64_t VdsoSymbol(std::string_view name);

// A few pages of the memory file that every guest maps: the clock page, then the vDSO. In the
// arena.
class VdsoPages final : public mm::Mappable {
 public:
  static HostResult<Ref<VdsoPages>> Make(mm::MemoryFile& memory);

  // The sentry's view of the clock page. The sentry is its only writer.
  skep_vdso_page& page() const;
  static size_t ImageSize() { return VdsoImage().size(); }

  Result<mm::Piece> Translate(Range range, bool write) override;
  void AddMapping(mm::MemoryManager&, Range, uint64_t) override {}
  void RemoveMapping(mm::MemoryManager&, Range, uint64_t) override {}
  mm::MappableName NameForMaps() override { return {}; }

 private:
  friend class RefCounted<VdsoPages>;
  template <class T, class... A>
  friend Ref<T> skep::MakeRef(A&&...);
  explicit VdsoPages(Ref<mm::Extent> extent) : extent_(std::move(extent)) {}
  Ref<mm::Extent> extent_;
};

}  // namespace skep::loader
