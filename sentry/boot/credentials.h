// A process's identity and limits, from its configuration.
#pragma once

#include "sentry/auth/credentials.h"
#include "sentry/boot/control.h"
#include "sentry/kernel/task.h"

namespace skep::boot {

auth::CredentialsRef CredentialsOf(const ProcessConfig& config);
kernel::Limits LimitsOf(const ProcessConfig& config);

}  // namespace skep::boot
