// Thousands of random calls on several address spaces, against a model of one record per page: what
// the guest, the sentry's copies and the host's page tables see must agree with it.
#include <gtest/gtest.h>
#include <array>
#include <csignal>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "sentry/mm/mm_test_util.h"

namespace skep::mm {
namespace {

constexpr uint64_t kPage = kPageSize;
constexpr uint64_t kPages = 192;
constexpr uint64_t kBase = 0x40000000 - 64 * kPage;  // across a boundary of homes
constexpr uint64_t kFilePages = 48;
constexpr std::array<uint64_t, 2> kWords = {0, kPage - 8};

using Value = std::array<uint64_t, 2>;  // of the words at kWords

struct ModelFile {
  Ref<Mappable> file;
  Ref<FilePages> pages;  // if it may be truncated
  uint64_t size = 0;     // pages
  std::map<uint64_t, Value> data;
};

struct ModelPage {
  int prot = 0;
  bool shared = false;
  std::shared_ptr<ModelFile> file;
  uint64_t file_page = 0;
  bool copied = false;  // private: `own` counts
  Value own{};

  bool Same(const ModelPage& next, uint64_t distance) const {
    return prot == next.prot && shared == next.shared && file == next.file &&
           (!file || file_page + distance == next.file_page);
  }
  bool BeyondEnd() const { return file && file_page >= file->size; }
  Value Read() const {
    if (copied) return own;
    return file ? file->data[file_page] : Value{};
  }
  void Write(size_t word, uint64_t value) {
    if (shared) {
      file->data[file_page][word] = value;
      return;
    }
    if (!copied) own = Read();
    copied = true;
    own[word] = value;
  }
};

struct Process {
  Ref<MemoryManager> mm;
  std::map<uint64_t, ModelPage> pages;  // by page number from kBase
};

class MmFuzz : public MmTest {
 protected:
  uint64_t Random(uint64_t n) { return random_() % n; }
  static uint64_t At(uint64_t page) { return kBase + page * kPage; }

  void SetUp() override {
    MmTest::SetUp();
    fixed_ = std::make_shared<ModelFile>();
    auto host_file = MakeRef<HostFile>(kFilePages * kPage);
    fixed_->size = kFilePages;
    for (uint64_t p = 0; p < kFilePages; ++p) {
      for (size_t w = 0; w < 2; ++w) {
        fixed_->data[p][w] = random_();
        host_file->Put(p * kPage + kWords[w], fixed_->data[p][w]);
      }
    }
    fixed_->file = host_file;
    tmpfs_ = NewPages(kFilePages);
  }
  void TearDown() override {
    processes_.clear();
    fixed_.reset();
    tmpfs_.reset();
    MmTest::TearDown();
  }
  std::shared_ptr<ModelFile> NewPages(uint64_t size) {
    auto model = std::make_shared<ModelFile>();
    model->pages = MakeRef<FilePages>(*memory);
    EXPECT_TRUE(model->pages->Truncate(size * kPage));
    model->file = model->pages;
    model->size = size;
    return model;
  }
  Process& Pick() { return processes_[Random(processes_.size())]; }
  int Prot() {
    constexpr std::array<int, 5> kProts = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
                                           PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC};
    return kProts[Random(kProts.size())];
  }
  struct Span {
    uint64_t first, count;
  };
  Span Where() {
    const uint64_t first = Random(kPages - 24);
    return {first, 1 + Random(Random(4) == 0 ? 24 : 4)};
  }

  void Mmap(Process& p) {
    const Span s = Where();
    ModelPage page;
    page.prot = Prot();
    uint64_t offset = 0;
    switch (Random(4)) {
      case 0:
        page.file = fixed_;
        break;
      case 1:
        page.file = tmpfs_;
        page.shared = true;
        break;
      case 2:
        page.shared = true;
        break;
      default:
        break;
    }
    if (page.file) offset = Random(kFilePages);
    const int flags =
        MAP_FIXED | (page.shared ? MAP_SHARED : MAP_PRIVATE) | (page.file ? 0 : MAP_ANONYMOUS);
    Ref<Mappable> file = page.file ? page.file->file : Ref<Mappable>();
    Map(*p.mm, s.count * kPage, page.prot, flags, At(s.first), file, offset * kPage);
    if (page.shared && !page.file) {
      page.file = std::make_shared<ModelFile>();
      page.file->size = s.count;
    }
    for (uint64_t i = 0; i < s.count; ++i) {
      page.file_page = offset + i;
      p.pages[s.first + i] = page;
    }
  }
  void Munmap(Process& p) {
    const Span s = Where();
    ASSERT_TRUE(p.mm->Munmap(At(s.first), s.count * kPage));
    for (uint64_t i = 0; i < s.count; ++i) p.pages.erase(s.first + i);
  }
  void Mprotect(Process& p) {
    const Span s = Where();
    const int prot = Prot();
    int expected = 0;
    uint64_t i = 0;
    for (; i < s.count; ++i) {
      const auto it = p.pages.find(s.first + i);
      if (it == p.pages.end()) {
        expected = ENOMEM;
        break;
      }
      it->second.prot = prot;
    }
    EXPECT_EQ(Code(p.mm->Mprotect(At(s.first), s.count * kPage, prot, false, false)), expected);
  }
  void Mremap(Process& p) {
    const Span s = Where();
    const auto first = p.pages.find(s.first);
    if (first == p.pages.end()) return;
    for (uint64_t i = 1; i < s.count; ++i) {
      const auto it = p.pages.find(s.first + i);
      if (it == p.pages.end() || !first->second.Same(it->second, i)) return;
    }
    const uint64_t target = Random(kPages - 24);
    const bool keep = Random(4) == 0;
    const uint64_t size = keep ? s.count : 1 + Random(8);
    if (target < s.first + s.count && s.first < target + size) return;
    const Result<uint64_t> at = p.mm->Mremap(
        At(s.first), s.count * kPage, size * kPage,
        MREMAP_MAYMOVE | MREMAP_FIXED | (keep ? MREMAP_DONTUNMAP : 0), At(target), limits);
    ASSERT_TRUE(at) << at.error().code();
    ASSERT_EQ(*at, At(target));
    for (uint64_t i = 0; i < size; ++i) {
      ModelPage page;
      if (i < s.count) {
        page = p.pages[s.first + i];
      } else {
        page = p.pages[s.first];
        page.copied = false;
        page.file_page += i;
      }
      p.pages[target + i] = page;
    }
    for (uint64_t i = 0; i < s.count; ++i) {
      if (keep) {
        p.pages[s.first + i].copied = false;
      } else {
        p.pages.erase(s.first + i);
      }
    }
  }
  void DontNeed(Process& p) {
    const Span s = Where();
    int expected = 0;
    for (uint64_t i = 0; i < s.count; ++i) {
      const auto it = p.pages.find(s.first + i);
      if (it == p.pages.end()) {
        expected = ENOMEM;
      } else {
        it->second.copied = false;
      }
    }
    EXPECT_EQ(Code(p.mm->Madvise(At(s.first), s.count * kPage, MADV_DONTNEED)), expected);
  }
  void Fork(Process& p) {
    if (processes_.size() > 5) return;
    Process child;
    child.mm = p.mm->Fork().value();
    child.pages = p.pages;
    ASSERT_TRUE(child.mm->Activate(engine));
    processes_.push_back(std::move(child));
  }
  void Exit() {
    if (processes_.size() < 2) return;
    processes_.erase(processes_.begin() + static_cast<std::ptrdiff_t>(Random(processes_.size())));
  }
  void Truncate() {
    const uint64_t size = Random(kFilePages);
    ASSERT_TRUE(tmpfs_->pages->Truncate(size * kPage));
    tmpfs_->size = size;
    tmpfs_->data.erase(tmpfs_->data.lower_bound(size), tmpfs_->data.end());
  }
  void Punch() {
    const uint64_t first = Random(kFilePages);
    const uint64_t count = 1 + Random(4);
    ASSERT_TRUE(tmpfs_->pages->PunchHole({first * kPage, (first + count) * kPage}));
    for (uint64_t i = 0; i < count; ++i) tmpfs_->data.erase(first + i);
  }
  // What an access should end in: a signal, or 0.
  static AccessEnd Expected(const Process& p, uint64_t page, bool write) {
    const auto it = p.pages.find(page);
    if (it == p.pages.end()) return {SIGSEGV, SEGV_MAPERR};
    if (it->second.prot == PROT_NONE || (write && (it->second.prot & PROT_WRITE) == 0)) {
      return {SIGSEGV, SEGV_ACCERR};
    }
    if (it->second.BeyondEnd() && !it->second.copied) return {SIGBUS, BUS_ADRERR};
    return {};
  }
  void GuestWrite(Process& p) {
    const uint64_t page = Random(kPages);
    const size_t word = Random(2);
    uint64_t value = random_();
    const AccessEnd expected = Expected(p, page, true);
    // An engine that does not say "write" cannot have a write beyond the end refused as one.
    const auto it = p.pages.find(page);
    const bool sure = Random(2) == 0 || (it != p.pages.end() && it->second.BeyondEnd());
    const AccessEnd got = Access(*p.mm, At(page) + kWords[word], value, true, sure);
    EXPECT_EQ(got.signo, expected.signo) << page;
    EXPECT_EQ(got.code, expected.code) << page;
    if (expected.signo == 0) p.pages[page].Write(word, value);
  }
  // A copy from the last word of one page to the first of the next: by CopyOut or by WithBlocks.
  void SentryWrite(Process& p) {
    const uint64_t page = Random(kPages);
    const std::array<uint64_t, 2> value = {random_(), random_()};
    size_t expected = 0;
    if (Expected(p, page, true).signo == 0) {
      p.pages[page].Write(1, value[0]);
      expected = 8;
      if (Expected(p, page + 1, true).signo == 0) {
        p.pages[page + 1].Write(0, value[1]);
        expected = 16;
      }
    }
    const uint64_t at = At(page) + kWords[1];
    const auto bytes = std::as_bytes(std::span(value));
    if (Random(2) == 0) {
      EXPECT_EQ(p.mm->CopyOut(UserAddr{at}, bytes).bytes, expected);
      return;
    }
    const iovec range{reinterpret_cast<void*>(at), 16};
    const CopyResult r = p.mm->WithBlocks(
        {&range, 1}, 16, true, [&](std::span<const iovec> blocks) -> Result<size_t> {
          size_t done = 0;
          for (const iovec& block : blocks) {
            std::memcpy(block.iov_base, bytes.data() + done, block.iov_len);
            done += block.iov_len;
          }
          return done;
        });
    EXPECT_EQ(r.bytes, expected);
    EXPECT_EQ(r.fault, expected == 0 ? EFAULT : 0);
  }

  void CheckPage(Process& p, uint64_t page) {
    const AccessEnd expected = Expected(p, page, false);
    for (size_t w = 0; w < 2; ++w) {
      const uint64_t at = At(page) + kWords[w];
      uint64_t copied = 0;
      const CopyResult r =
          p.mm->CopyIn(UserAddr{at}, std::as_writable_bytes(std::span(&copied, 1)));
      uint64_t loaded = 0;
      const AccessEnd got = Access(*p.mm, at, loaded, false, Random(2) == 0);
      ASSERT_EQ(got.signo, expected.signo) << page;
      ASSERT_EQ(got.code, expected.code) << page;
      ASSERT_EQ(r.fault, expected.signo == 0 ? 0 : EFAULT) << page;
      if (expected.signo != 0) continue;
      const uint64_t value = p.pages[page].Read()[w];
      ASSERT_EQ(loaded, value) << page;
      ASSERT_EQ(copied, value) << page;
    }
  }
  void CheckHost(Process& p) {
    for (const auto& [start, mapping] : SpaceOf(*p.mm).mappings()) {
      for (uint64_t at = start; at < start + mapping.size; at += kPage) {
        const auto it = p.pages.find((at - kBase) / kPage);
        ASSERT_NE(it, p.pages.end()) << "the host maps what the guest has not";
        ASSERT_EQ(mapping.prot & ~it->second.prot, 0) << "the host allows more than the guest";
      }
    }
  }

  // What is known of resident pages against a look at all of them.
  void CheckResident(Process& p) {
    constexpr Range kAll{0, uint64_t{8} << 30};
    uint64_t counted = 0;
    for (const Range run : memory->ResidentRuns(kAll)) counted += run.size();
    ASSERT_EQ(memory->ResidentBytes(kAll), counted);
    uint64_t parts = 0;
    for (uint64_t page = 0; page < kPages; ++page) {
      parts += p.mm->ResidentIn({At(page), At(page + 1)});
    }
    ASSERT_EQ(p.mm->Stats().resident, parts);
  }

  void Step() {
    Process& p = Pick();
    switch (Random(24)) {
      case 0:
      case 1:
      case 2:
        return Mmap(p);
      case 3:
        return Munmap(p);
      case 4:
      case 5:
        return Mprotect(p);
      case 6:
        return Mremap(p);
      case 7:
        return DontNeed(p);
      case 8:
        return Fork(p);
      case 9:
        if (Random(8) == 0) memory->GiveBackKept(Random(kPages) * kPage);
        if (Random(8) == 0) p.mm->GiveBackUntouched();
        return Random(4) == 0 ? Exit() : void();
      case 10:
        return Random(4) == 0 ? Truncate() : Punch();
      case 11:
      case 12:
      case 13:
        return SentryWrite(p);
      default:
        return GuestWrite(p);
    }
  }

  std::mt19937_64 random_{1};
  std::shared_ptr<ModelFile> fixed_;
  std::shared_ptr<ModelFile> tmpfs_;
  std::vector<Process> processes_;
};

TEST_F(MmFuzz, AgreesWithTheModel) {
  const char* given = getenv("SKEP_FUZZ_SEED");
  const uint64_t first = given != nullptr ? strtoull(given, nullptr, 10) : 1;
  const char* rounds_given = getenv("SKEP_FUZZ_ROUNDS");
  const uint64_t rounds = rounds_given != nullptr ? strtoull(rounds_given, nullptr, 10) : 6;
  for (uint64_t seed = first; seed < first + rounds && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    random_.seed(seed);
    processes_.clear();
    processes_.push_back({NewSpace(), {}});
    for (int step = 0; step < 4000 && !HasFailure(); ++step) {
      SCOPED_TRACE(step);
      Step();
      Process& p = Pick();
      CheckPage(p, Random(kPages));
      if (step % 8 == 0) CheckResident(Pick());
      if (step % 200 == 0) {
        for (Process& each : processes_) {
          CheckHost(each);
          for (uint64_t page = 0; page < kPages; ++page) CheckPage(each, page);
        }
      }
    }
  }
}

}  // namespace
}  // namespace skep::mm
