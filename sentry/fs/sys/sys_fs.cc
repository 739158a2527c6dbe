#include "sentry/fs/sys/sys_fs.h"

#include <cpuid.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <array>

#include "base/host_call.h"

namespace skep::fs {
namespace {

constexpr std::string_view kEmptyDirectories[] = {
    "block",    "bus",      "class/block", "class/net",  "class/tty", "dev/block",
    "dev/char", "firmware", "fs/cgroup",   "hypervisor", "module",    "power",
};

std::string RangeText(int count) { return count == 1 ? "0\n" : fmt::format("0-{}\n", count - 1); }

// A mask of the CPUs [first, first + count), as Linux writes cpumasks ("%*pb").
std::string MaskText(int first, int count) {
  std::string text;
  for (int word = (first + count - 1) / 32; word >= 0; --word) {
    uint32_t bits = 0;
    for (int bit = 0; bit < 32; ++bit) {
      const int cpu = word * 32 + bit;
      if (cpu >= first && cpu < first + count) bits |= uint32_t{1} << bit;
    }
    text += text.empty() ? fmt::format("{:x}", bits) : fmt::format(",{:08x}", bits);
  }
  return text + "\n";
}

struct Cache {
  unsigned level = 0, type = 0;  // 1 data, 2 instruction, 3 unified
  unsigned line = 0, partitions = 0, ways = 0, sets = 0;
  uint64_t size() const { return uint64_t{line} * partitions * ways * sets; }
};

// The deterministic cache leaf: 4 of Intel's, 0x8000001d of AMD's.
std::vector<Cache> HostCaches() {
  std::vector<Cache> caches;
  unsigned a = 0, b = 0, c = 0, d = 0;
  __cpuid(0, a, b, c, d);
  const unsigned leaf = b == signature_AMD_ebx ? 0x8000001d : 4;
  __cpuid(leaf & 0x80000000, a, b, c, d);
  if (a < leaf) return caches;
  for (unsigned index = 0; index < 8; ++index) {
    __cpuid_count(leaf, index, a, b, c, d);
    if ((a & 0x1f) == 0) break;
    caches.push_back({.level = a >> 5 & 7,
                      .type = a & 0x1f,
                      .line = (b & 0xfff) + 1,
                      .partitions = (b >> 12 & 0x3ff) + 1,
                      .ways = (b >> 22) + 1,
                      .sets = c + 1});
  }
  return caches;
}

// cpuN/cache: filled when somebody looks, since asking the processor is a trap to the hypervisor
// (0.5 ms on some). Which CPUs share a cache is not told, so each has its own.
class CacheDirectory final : public FixedDirectory {
 public:
  CacheDirectory(PseudoFs& fs, int cpu)
      : FixedDirectory(fs, fs.NextIno(), uint32_t{S_IFDIR | 0755}), pseudo_fs_(fs), cpu_(cpu) {}

  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override {
    Fill();
    return FixedDirectory::Lookup(name);
  }
  void List(uint64_t after, size_t max, std::vector<Entry>& to) override {
    sched::SleepLockHold hold(directory_lock());
    Fill();
    FixedDirectory::List(after, max, to);
  }

 private:
  void Fill();  // under the directory lock
  Ref<PseudoInode> IndexOf(const Cache& cache);
  PseudoFs& pseudo_fs_;
  const int cpu_;
};

void CacheDirectory::Fill() {
  if (size() != 0) return;
  size_t index = 0;
  for (const Cache& cache : HostCaches()) Add(fmt::format("index{}", index++), IndexOf(cache));
}

Ref<PseudoInode> CacheDirectory::IndexOf(const Cache& cache) {
  constexpr std::array<const char*, 4> kTypes = {"", "Data", "Instruction", "Unified"};
  auto made = MakeRef<FixedDirectory>(fs(), pseudo_fs_.NextIno(), uint32_t{S_IFDIR | 0755});
  const auto add = [&](std::string_view name, std::string text) {
    made->Add(name, MakeRef<PseudoText>(
                        fs(), pseudo_fs_.NextIno(), uint32_t{S_IFREG | 0444}, uint64_t{4096},
                        [text = std::move(text) + "\n"] { return text; }, PseudoText::Sink()));
  };
  add("level", std::to_string(cache.level));
  add("type", kTypes[cache.type & 3]);
  add("size", fmt::format("{}K", cache.size() / 1024));
  add("coherency_line_size", std::to_string(cache.line));
  add("physical_line_partition", std::to_string(cache.partitions));
  add("ways_of_associativity", std::to_string(cache.ways));
  add("number_of_sets", std::to_string(cache.sets));
  std::string mask = MaskText(cpu_, 1);
  mask.pop_back();
  add("shared_cpu_map", std::move(mask));
  add("shared_cpu_list", std::to_string(cpu_));
  return made;
}

std::string NodeMeminfo() {
  struct sysinfo host{};
  (void)host::Call(SYS_sysinfo, &host);
  const uint64_t total = host.totalram * host.mem_unit / 1024;
  const uint64_t free = host.freeram * host.mem_unit / 1024;
  return fmt::format(
      "Node 0 MemTotal:       {:>8} kB\nNode 0 MemFree:        {:>8} kB\n"
      "Node 0 MemUsed:        {:>8} kB\n",
      total, free, total - free);
}

}  // namespace

SysFs::SysFs(uint32_t dev_minor, int cpu_count) : PseudoFs(dev_minor, 0755, 4096) {
  source = "sysfs";
  SetRoot(MakeRef<FixedDirectory>(*this, NextIno(), uint32_t{S_IFDIR | 0555}));
  for (const std::string_view path : kEmptyDirectories) AddDirectory(path);
  AddCpus(cpu_count);
  AddNode(cpu_count);
  AddConstant("kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
  AddConstant("kernel/mm/transparent_hugepage/defrag",
              "always defer defer+madvise [madvise] never\n");
  AddConstant("kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152\n");
  AddConstant("kernel/mm/transparent_hugepage/use_zero_page", "1\n");
  AddDirectory("kernel/mm/hugepages");
}

Result<vfs::StatFs> SysFs::GetStatFs() { return vfs::StatFs{.type = SYSFS_MAGIC}; }

void SysFs::AddConstant(std::string_view path, std::string text) {
  AddText(path, 0444, [text = std::move(text)] { return text; });
}

void SysFs::AddCpus(int count) {
  for (const char* name : {"online", "possible", "present"}) {
    AddConstant(fmt::format("devices/system/cpu/{}", name), RangeText(count));
  }
  AddConstant("devices/system/cpu/offline", "\n");
  AddConstant("devices/system/cpu/isolated", "\n");
  AddConstant("devices/system/cpu/kernel_max", "8191\n");
  AddConstant("devices/system/cpu/smt/active", "0\n");
  AddConstant("devices/system/cpu/smt/control", "notsupported\n");
  const std::string all = RangeText(count);
  for (int i = 0; i < count; ++i) {
    const std::string cpu = fmt::format("devices/system/cpu/cpu{}/", i);
    const std::string topology = cpu + "topology/";
    if (i != 0) AddConstant(cpu + "online", "1\n");  // CPU 0 cannot be taken offline
    AddConstant(topology + "core_id", fmt::format("{}\n", i));
    AddConstant(topology + "physical_package_id", "0\n");
    AddConstant(topology + "die_id", "0\n");
    AddConstant(topology + "cluster_id", "65535\n");
    for (const char* name : {"thread_siblings", "core_cpus"}) {
      AddConstant(topology + name, MaskText(i, 1));
      AddConstant(topology + name + "_list", fmt::format("{}\n", i));
    }
    for (const char* name : {"core_siblings", "package_cpus", "die_cpus"}) {
      AddConstant(topology + name, MaskText(0, count));
      AddConstant(topology + name + "_list", all);
    }
    Add(cpu + "cache", MakeRef<CacheDirectory>(*this, i));
  }
}

void SysFs::AddNode(int cpu_count) {
  const std::string nodes = "devices/system/node/";
  for (const char* name : {"online", "possible", "has_cpu", "has_memory", "has_normal_memory"}) {
    AddConstant(nodes + name, "0\n");
  }
  AddConstant(nodes + "node0/cpulist", RangeText(cpu_count));
  AddConstant(nodes + "node0/cpumap", MaskText(0, cpu_count));
  AddConstant(nodes + "node0/distance", "10\n");
  AddText(nodes + "node0/meminfo", 0444, NodeMeminfo);
  for (int i = 0; i < cpu_count; ++i) {
    AddLink(fmt::format("{}node0/cpu{}", nodes, i), fmt::format("../../cpu/cpu{}", i));
  }
}

}  // namespace skep::fs
