#include "sentry/boot/credentials.h"

#include <algorithm>

namespace skep::boot {

auth::CredentialsRef CredentialsOf(const ProcessConfig& config) {
  auto creds = std::make_shared<auth::Credentials>();
  creds->uid = creds->euid = creds->suid = creds->fsuid = config.uid;
  creds->gid = creds->egid = creds->sgid = creds->fsgid = config.gid;
  creds->groups = config.groups;
  std::sort(creds->groups.begin(), creds->groups.end());
  const uint64_t all = auth::kAllCapabilities;
  creds->effective = config.capabilities.effective & all;
  creds->permitted = config.capabilities.permitted & all;
  creds->inheritable = config.capabilities.inheritable & all;
  creds->bounding = config.capabilities.bounding & all;
  creds->ambient = config.capabilities.ambient & all;
  creds->no_new_privs = config.no_new_privs;
  return creds;
}

kernel::Limits LimitsOf(const ProcessConfig& config) {
  kernel::Limits limits = kernel::Limits::Default();
  for (const ProcessConfig::Rlimit& l : config.rlimits) {
    if (l.resource >= 0 && l.resource < RLIM_NLIMITS) {
      limits.values[static_cast<size_t>(l.resource)] = {l.soft, l.hard};
    }
  }
  return limits;
}

}  // namespace skep::boot
