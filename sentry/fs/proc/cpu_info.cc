// /proc/cpuinfo from the CPUID instruction (Linux: arch/x86/kernel/cpu/proc.c).
#include <cpuid.h>
#include <fmt/format.h>
#include <array>
#include <cstring>
#include <iterator>

#include "sentry/fs/proc/proc_fs.h"

namespace skep::fs {
namespace {

struct Leaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

// Each CPUID is a trap to the hypervisor (0.5 ms on some): no more of them than needed.
Leaf RawCpuid(unsigned leaf, unsigned subleaf = 0) {
  Leaf r;
  __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
  return r;
}

class Processor {
 public:
  Leaf Cpuid(unsigned leaf, unsigned subleaf = 0) const {
    const unsigned highest = leaf >= 0x80000000 ? highest_extended_ : zero_.a;
    return leaf > highest ? Leaf{} : RawCpuid(leaf, subleaf);
  }
  const Leaf& zero() const { return zero_; }
  const Leaf& one() const { return one_; }
  const Leaf& sizes() const { return sizes_; }  // leaf 0x80000008

  std::string Vendor() const;
  std::string ModelName() const;
  std::string Flags() const;
  unsigned CacheKiB() const;
  // MHz, where the processor tells.
  unsigned BaseMegahertz() const { return Cpuid(0x16).a & 0xffff; }

 private:
  const Leaf zero_ = RawCpuid(0);
  const unsigned highest_extended_ = RawCpuid(0x80000000).a;
  const Leaf one_ = RawCpuid(1);
  const Leaf sizes_ = Cpuid(0x80000008);
};

// A register of a leaf and the names of its bits, as Linux spells them; "" has no name.
enum class Word : uint8_t { k1D, kExt1D, k1C, kExt1C, kD1A, k7B, kExt8B, k7C, k7D, kCount };
struct Flag {
  Word word;
  uint8_t bit;
  const char* name;
};

// In the order of Linux's words.
constexpr Flag kFlags[] = {
    {Word::k1D, 0, "fpu"},
    {Word::k1D, 1, "vme"},
    {Word::k1D, 2, "de"},
    {Word::k1D, 3, "pse"},
    {Word::k1D, 4, "tsc"},
    {Word::k1D, 5, "msr"},
    {Word::k1D, 6, "pae"},
    {Word::k1D, 7, "mce"},
    {Word::k1D, 8, "cx8"},
    {Word::k1D, 9, "apic"},
    {Word::k1D, 11, "sep"},
    {Word::k1D, 12, "mtrr"},
    {Word::k1D, 13, "pge"},
    {Word::k1D, 14, "mca"},
    {Word::k1D, 15, "cmov"},
    {Word::k1D, 16, "pat"},
    {Word::k1D, 17, "pse36"},
    {Word::k1D, 19, "clflush"},
    {Word::k1D, 23, "mmx"},
    {Word::k1D, 24, "fxsr"},
    {Word::k1D, 25, "sse"},
    {Word::k1D, 26, "sse2"},
    {Word::k1D, 27, "ss"},
    {Word::k1D, 28, "ht"},
    {Word::kExt1D, 11, "syscall"},
    {Word::kExt1D, 20, "nx"},
    {Word::kExt1D, 22, "mmxext"},
    {Word::kExt1D, 25, "fxsr_opt"},
    {Word::kExt1D, 26, "pdpe1gb"},
    {Word::kExt1D, 27, "rdtscp"},
    {Word::kExt1D, 29, "lm"},
    {Word::k1C, 0, "pni"},
    {Word::k1C, 1, "pclmulqdq"},
    {Word::k1C, 3, "monitor"},
    {Word::k1C, 9, "ssse3"},
    {Word::k1C, 12, "fma"},
    {Word::k1C, 13, "cx16"},
    {Word::k1C, 17, "pcid"},
    {Word::k1C, 19, "sse4_1"},
    {Word::k1C, 20, "sse4_2"},
    {Word::k1C, 21, "x2apic"},
    {Word::k1C, 22, "movbe"},
    {Word::k1C, 23, "popcnt"},
    {Word::k1C, 25, "aes"},
    {Word::k1C, 26, "xsave"},
    {Word::k1C, 28, "avx"},
    {Word::k1C, 29, "f16c"},
    {Word::k1C, 30, "rdrand"},
    {Word::k1C, 31, "hypervisor"},
    {Word::kExt1C, 0, "lahf_lm"},
    {Word::kExt1C, 1, "cmp_legacy"},
    {Word::kExt1C, 4, "cr8_legacy"},
    {Word::kExt1C, 5, "abm"},
    {Word::kExt1C, 6, "sse4a"},
    {Word::kExt1C, 7, "misalignsse"},
    {Word::kExt1C, 8, "3dnowprefetch"},
    {Word::kExt1C, 9, "osvw"},
    {Word::kExt1C, 11, "xop"},
    {Word::kExt1C, 16, "fma4"},
    {Word::kExt1C, 21, "tbm"},
    {Word::kExt1C, 22, "topoext"},
    {Word::k7B, 0, "fsgsbase"},
    {Word::k7B, 1, "tsc_adjust"},
    {Word::k7B, 3, "bmi1"},
    {Word::k7B, 4, "hle"},
    {Word::k7B, 5, "avx2"},
    {Word::k7B, 7, "smep"},
    {Word::k7B, 8, "bmi2"},
    {Word::k7B, 9, "erms"},
    {Word::k7B, 10, "invpcid"},
    {Word::k7B, 11, "rtm"},
    {Word::k7B, 16, "avx512f"},
    {Word::k7B, 17, "avx512dq"},
    {Word::k7B, 18, "rdseed"},
    {Word::k7B, 19, "adx"},
    {Word::k7B, 20, "smap"},
    {Word::k7B, 21, "avx512ifma"},
    {Word::k7B, 23, "clflushopt"},
    {Word::k7B, 24, "clwb"},
    {Word::k7B, 28, "avx512cd"},
    {Word::k7B, 29, "sha_ni"},
    {Word::k7B, 30, "avx512bw"},
    {Word::k7B, 31, "avx512vl"},
    {Word::kD1A, 0, "xsaveopt"},
    {Word::kD1A, 1, "xsavec"},
    {Word::kD1A, 2, "xgetbv1"},
    {Word::kD1A, 3, "xsaves"},
    {Word::kExt8B, 0, "clzero"},
    {Word::kExt8B, 2, "xsaveerptr"},
    {Word::kExt8B, 9, "wbnoinvd"},
    {Word::k7C, 1, "avx512vbmi"},
    {Word::k7C, 2, "umip"},
    {Word::k7C, 3, "pku"},
    {Word::k7C, 4, "ospke"},
    {Word::k7C, 6, "avx512_vbmi2"},
    {Word::k7C, 8, "gfni"},
    {Word::k7C, 9, "vaes"},
    {Word::k7C, 10, "vpclmulqdq"},
    {Word::k7C, 11, "avx512_vnni"},
    {Word::k7C, 12, "avx512_bitalg"},
    {Word::k7C, 14, "avx512_vpopcntdq"},
    {Word::k7C, 16, "la57"},
    {Word::k7C, 22, "rdpid"},
    {Word::k7C, 27, "movdiri"},
    {Word::k7C, 28, "movdir64b"},
    {Word::k7D, 4, "fsrm"},
    {Word::k7D, 8, "avx512_vp2intersect"},
    {Word::k7D, 14, "serialize"},
    {Word::k7D, 22, "amx_bf16"},
    {Word::k7D, 23, "avx512_fp16"},
    {Word::k7D, 24, "amx_tile"},
    {Word::k7D, 25, "amx_int8"},
};

std::string Processor::Flags() const {
  const Leaf seven = Cpuid(7), ext1 = Cpuid(0x80000001);
  const bool invariant_tsc = (Cpuid(0x80000007).d & 0x100) != 0;
  std::array<unsigned, static_cast<size_t>(Word::kCount)> words{};
  const auto set = [&](Word word, unsigned bits) { words[static_cast<size_t>(word)] = bits; };
  set(Word::k1D, one_.d);
  set(Word::k1C, one_.c);
  set(Word::kExt1D, ext1.d);
  set(Word::kExt1C, ext1.c);
  set(Word::k7B, seven.b);
  set(Word::k7C, seven.c);
  set(Word::k7D, seven.d);
  set(Word::kD1A, Cpuid(0xd, 1).a);
  set(Word::kExt8B, sizes_.b);
  std::string text;
  for (const Flag& flag : kFlags) {
    if ((words[static_cast<size_t>(flag.word)] >> flag.bit & 1) == 0) continue;
    if (!text.empty()) text += ' ';
    text += flag.name;
    // What Linux makes up itself comes before the words that follow.
    if (strcmp(flag.name, "lm") == 0) {
      if (invariant_tsc) text += " constant_tsc rep_good nopl nonstop_tsc";
      text += " cpuid";
    }
  }
  return text;
}

std::string Processor::Vendor() const {
  char vendor[12];
  memcpy(vendor, &zero_.b, 4);
  memcpy(vendor + 4, &zero_.d, 4);
  memcpy(vendor + 8, &zero_.c, 4);
  return std::string(vendor, strnlen(vendor, sizeof vendor));
}

std::string Processor::ModelName() const {
  std::array<char, 48> name{};
  for (unsigned i = 0; i < 3; ++i) {
    const Leaf part = Cpuid(0x80000002 + i);
    const unsigned words[] = {part.a, part.b, part.c, part.d};
    memcpy(name.data() + i * sizeof words, words, sizeof words);
  }
  std::string text(name.data(), strnlen(name.data(), name.size()));
  text.erase(0, std::min(text.find_first_not_of(' '), text.size()));
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text.empty() ? "unknown" : text;
}

// The cache that Linux shows: the last level of Intel's, the second of AMD's.
unsigned Processor::CacheKiB() const {
  if (zero_.b == signature_AMD_ebx) return Cpuid(0x80000006).c >> 16;
  unsigned size = 0;
  for (unsigned i = 0; i < 8; ++i) {
    const Leaf c = Cpuid(4, i);
    if ((c.a & 0x1f) == 0) break;
    size = ((c.b >> 22) + 1) * ((c.b >> 12 & 0x3ff) + 1) * ((c.b & 0xfff) + 1) * (c.c + 1) / 1024;
  }
  return size;
}

}  // namespace

std::string CpuInfoText(int cpu_count) {
  const Processor processor;
  const Leaf &one = processor.one(), &sizes = processor.sizes();
  unsigned family = one.a >> 8 & 0xf, model = one.a >> 4 & 0xf;
  if (family == 0xf) family += one.a >> 20 & 0xff;
  if (family >= 6) model += (one.a >> 16 & 0xf) << 4;
  const unsigned megahertz = processor.BaseMegahertz(), cache = processor.CacheKiB();
  const std::string vendor = processor.Vendor(), name = processor.ModelName();
  const std::string flags = processor.Flags();
  std::string text;
  const auto out = std::back_inserter(text);
  for (int cpu = 0; cpu < cpu_count; ++cpu) {
    fmt::format_to(out, "processor\t: {}\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\n", cpu,
                   vendor, family, model);
    fmt::format_to(out, "model name\t: {}\nstepping\t: {}\n", name, one.a & 0xf);
    if (megahertz != 0) fmt::format_to(out, "cpu MHz\t\t: {}.000\n", megahertz);
    fmt::format_to(out, "cache size\t: {} KB\nphysical id\t: 0\nsiblings\t: {}\ncore id\t\t: {}\n",
                   cache, cpu_count, cpu);
    fmt::format_to(out, "cpu cores\t: {}\napicid\t\t: {}\ninitial apicid\t: {}\n", cpu_count, cpu,
                   cpu);
    fmt::format_to(out, "fpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: {}\nwp\t\t: yes\n",
                   processor.zero().a);
    fmt::format_to(out, "flags\t\t: {}\nbugs\t\t:\n", flags);
    if (megahertz != 0) fmt::format_to(out, "bogomips\t: {}.00\n", megahertz * 2);
    fmt::format_to(out, "clflush size\t: {0}\ncache_alignment\t: {0}\n", (one.b >> 8 & 0xff) * 8);
    fmt::format_to(out, "address sizes\t: {} bits physical, {} bits virtual\npower management:\n\n",
                   sizes.a & 0xff, sizes.a >> 8 & 0xff);
  }
  return text;
}

}  // namespace skep::fs
