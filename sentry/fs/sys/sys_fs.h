// SysFs: as much of /sys as libc, nproc, lscpu and allocators look at. Constant.
#pragma once

#include "sentry/fs/pseudo/pseudo_inode.h"

namespace skep::fs {

class SysFs final : public PseudoFs {
 public:
  // `cpu_count`: CPUs that guests see.
  SysFs(uint32_t dev_minor, int cpu_count);

  const char* type_name() const override { return "sysfs"; }
  Result<vfs::StatFs> GetStatFs() override;

 private:
  void AddConstant(std::string_view path, std::string text);
  void AddCpus(int count);
  void AddNode(int cpu_count);
};

}  // namespace skep::fs
