#include "jail/filter.h"

#include <fmt/format.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <cstdlib>
#include <memory>

#include "base/host_call.h"
#include "jail/filter_use.h"

namespace skep::jail {
namespace {

bool SameRules(const FilterRow& a, const FilterRow& b) {
  for (size_t i = 0; i < a.rules.size(); ++i) {
    const ArgumentRule &x = a.rules[i], &y = b.rules[i];
    if (x.argument != y.argument || x.mask != y.mask || x.value != y.value) return false;
  }
  return true;
}

bool IsPlain(const FilterRow& row) {
  return SameRules(row, FilterRow{.number = row.number, .why = ""});
}

int AddRow(scmp_filter_ctx filter, uint32_t action, const FilterRow& row) {
  std::array<scmp_arg_cmp, 2> comparisons{};
  unsigned count = 0;
  for (const ArgumentRule& rule : row.rules) {
    if (rule.mask == 0) continue;
    comparisons[count++] = {rule.argument, SCMP_CMP_MASKED_EQ, rule.mask, rule.value};
  }
  return seccomp_rule_add_array(filter, action, row.number, count, comparisons.data());
}

}  // namespace

std::vector<FilterRow> Joined(std::span<const FilterRow> rows) {
  std::vector<FilterRow> joined;
  for (const FilterRow& row : rows) {
    bool known = false;
    for (const FilterRow& other : joined)
      known |= other.number == row.number && SameRules(other, row);
    if (!known) joined.push_back(row);
  }
  return joined;
}

std::string TextOf(const FilterRow& row) {
  const std::unique_ptr<char, void (*)(void*)> name(
      seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, row.number), &free);
  std::string text = name ? name.get() : std::to_string(row.number);
  std::string rules;
  for (const ArgumentRule& rule : row.rules) {
    if (rule.mask == 0) continue;
    if (!rules.empty()) rules += ", ";
    const bool whole = rule.mask == 0xffff'ffff || rule.mask == ~uint64_t{0};
    if (whole) {
      rules += fmt::format("{}: {:#x}", rule.argument, rule.value);
    } else if (rule.value == 0 && rule.mask >> 31 == 1) {
      rules += fmt::format("{}: of {:#x}", rule.argument, ~rule.mask & 0xffff'ffff);
    } else if (rule.value == 0) {
      rules += fmt::format("{}: without {:#x}", rule.argument, rule.mask);
    } else {
      rules += fmt::format("{}: {:#x} in {:#x}", rule.argument, rule.value, rule.mask);
    }
  }
  return rules.empty() ? text : fmt::format("{}({})", text, rules);
}

bool Allows(const FilterRow& row, const seccomp_data& call) {
  if (call.nr != row.number) return false;
  for (const ArgumentRule& rule : row.rules) {
    if ((call.args[rule.argument] & rule.mask) != rule.value) return false;
  }
  return true;
}

int FindShadowed(std::span<const FilterRow> rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (rows[i].number != rows[j].number) continue;
      if (IsPlain(rows[j]) || IsPlain(rows[i]) || SameRules(rows[i], rows[j])) {
        return static_cast<int>(i);
      }
    }
  }
  return -1;
}

namespace {

struct ReleaseFilter {
  void operator()(scmp_filter_ctx filter) const { seccomp_release(filter); }
};
using FilterContext = std::unique_ptr<void, ReleaseFilter>;

// Allowed calls get `allowed`.
HostResult<FilterContext> MakeContext(std::span<const FilterRow> rows, Refusal refusal,
                                      uint32_t allowed) {
  FilterContext filter(
      seccomp_init(refusal == Refusal::kKill ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EPERM)));
  if (!filter) return HostFail("cannot make a seccomp filter", ENOMEM);
  int rc = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1);
  // A tree, not a list.
  if (rc == 0) rc = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  for (const FilterRow& row : rows) {
    const bool noticed = allowed != SCMP_ACT_ALLOW;
    // What is refused anyway needs no rule, and libseccomp takes none.
    if (!noticed && refusal == Refusal::kErrno && row.error == EPERM) continue;
    const uint32_t action = noticed || row.error == 0 ? allowed : SCMP_ACT_ERRNO(row.error);
    if (rc == 0) rc = AddRow(filter.get(), action, row);
  }
  if (rc != 0) return HostFail("cannot make a seccomp filter", -rc);
  return filter;
}

}  // namespace

HostResult<Filter> Filter::Compile(std::span<const FilterRow> rows, Refusal refusal) {
  const FilterContext context = TRY(MakeContext(rows, refusal, SCMP_ACT_ALLOW));
  // libseccomp writes programs to descriptors.
  const Result<OwnedFd> file = host::MemfdCreate("skep-filter", MFD_CLOEXEC);
  if (!file) return HostFail("cannot make a memory file", file.error().code());
  if (const int rc = seccomp_export_bpf(context.get(), file->get()); rc != 0) {
    return HostFail("cannot compile the seccomp filter", -rc);
  }
  Filter filter;
  filter.program_.resize(BPF_MAXINSNS);
  const auto bytes = std::as_writable_bytes(std::span(filter.program_));
  const Result<size_t> size = host::PRead(file->get(), bytes, 0);
  if (!size) return HostFail("cannot read the seccomp filter", size.error().code());
  filter.program_.resize(*size / sizeof(sock_filter));
  return filter;
}

HostResult<void> Filter::Install() const {
  const sock_fprog program = {static_cast<unsigned short>(program_.size()),
                              const_cast<sock_filter*>(program_.data())};
  const Result<int64_t> rc =
      host::Call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
  if (!rc) return HostFail("cannot install the seccomp filter", rc.error().code());
  if (*rc != 0) return HostFail(fmt::format("thread {} has a seccomp filter of its own", *rc));
  return {};
}

HostResult<void> InstallFilter(std::span<const FilterRow> rows, Refusal refusal,
                               const FilterUse& use) {
  if (use.fd < 0) return TRY(Filter::Compile(rows, refusal)).Install();
  FilterCounter counter;
  TRY(counter.Start(rows, use));
  const FilterContext context = TRY(MakeContext(rows, refusal, SCMP_ACT_NOTIFY));
  if (const int rc = seccomp_load(context.get()); rc != 0) {
    return HostFail("cannot install the seccomp filter", -rc);
  }
  counter.Serve(seccomp_notify_fd(context.get()));
  return {};
}

}  // namespace skep::jail
