#include "runsc-cli/oci_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runsc-cli/oci_names.h"
#include "runsc-cli/spec.h"

namespace skep::cli {
namespace {

using boot::MountConfig;
using Kind = MountConfig::Kind;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// A small good configuration with something added to the process, to `linux`, or at the top.
std::string Config(const std::string& process = "", const std::string& section = "",
                   const std::string& top = "") {
  return R"({"ociVersion": "1.0.2", "root": {"path": "rootfs"},
    "process": {"cwd": "/", "args": ["true"])" +
         process + R"(}, "linux": {"namespaces": [{"type": "network"}])" + section + "}" + top +
         "}";
}
std::string ErrorOf(const std::string& text) {
  const auto config = ParseOciConfig(text);
  return config ? "" : config.error().message;
}
std::string WithMount(const std::string& mount) {
  return Config("", "", ", \"mounts\": [" + mount + "]");
}

TEST(OciConfig, TheDefaultSpecsAreGood) {
  for (const SpecKind kind : {SpecKind::kRoot, SpecKind::kRootless}) {
    const auto config = ParseOciConfig(DefaultSpec(kind));
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_THAT(config->warnings, IsEmpty());
    EXPECT_THAT(config->boot.argv, ElementsAre("sh"));
    EXPECT_TRUE(config->boot.terminal);
    EXPECT_TRUE(config->boot.no_new_privs);
    EXPECT_TRUE(config->boot.mounts[0].read_only);
    EXPECT_EQ(config->boot.capabilities.effective, (1U << 29) | (1U << 5) | (1U << 10));
    EXPECT_EQ(config->boot.masked_paths.size(), 10U);
    ASSERT_EQ(config->boot.mounts.size(), 6U);
    EXPECT_EQ(config->boot.mounts[2].kind, Kind::kDev);
    EXPECT_EQ(config->boot.mounts[4].size, 64U << 20);
    EXPECT_EQ(config->boot.mounts[4].mode, 01777U);
    EXPECT_TRUE(config->boot.mounts[5].read_only);
  }
}

TEST(OciConfig, ProcessFields) {
  const auto config = ParseOciConfig(Config(R"(, "env": ["A=1"], "oomScoreAdj": -5,
    "user": {"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 63},
    "consoleSize": {"height": 24, "width": 80},
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 18446744073709551615}])"));
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->boot.uid, 7U);
  EXPECT_THAT(config->boot.groups, ElementsAre(9, 10));
  EXPECT_EQ(config->boot.umask, 077U);
  EXPECT_EQ(config->boot.oom_score_adj, -5);
  EXPECT_EQ(config->boot.terminal_rows, 24);
  EXPECT_EQ(config->boot.rlimits[0].resource, 7);
  EXPECT_EQ(config->boot.rlimits[0].hard, ~uint64_t{0});
}

TEST(OciConfig, Resources) {
  const auto config = ParseOciConfig(Config("", R"(, "cgroupsPath": "/a/b", "resources": {
    "devices": [{"allow": false, "access": "rwm"}], "memory": {"limit": 1048576},
    "pids": {"limit": 32}})"));
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->boot.memory_limit, 1U << 20);
  EXPECT_EQ(config->boot.pids_limit, 32U);
  EXPECT_EQ(config->cgroups_path, "/a/b");
  const auto unlimited = ParseOciConfig(
      Config("", R"(, "resources": {"memory": {"limit": -1}, "pids": {"limit": 0}})"));
  ASSERT_TRUE(unlimited);
  EXPECT_EQ(unlimited->boot.memory_limit, 0U);
}

TEST(OciConfig, Binds) {
  const auto config = ParseOciConfig(WithMount(
      R"({"destination": "/data/", "source": "data", "type": "none", "options": ["rbind", "ro"]},
         {"destination": "/etc/hosts", "type": "bind", "source": "/tmp/hosts"})"));
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_THAT(config->sources, ElementsAre("rootfs", "data", "/tmp/hosts"));
  const std::vector<MountConfig>& mounts = config->boot.mounts;
  ASSERT_EQ(mounts.size(), 4U);
  EXPECT_EQ(mounts[1].kind, Kind::kDev);  // nobody asked for it
  EXPECT_EQ(mounts[2].destination, "/data");
  EXPECT_EQ(mounts[2].attach, 1);
  EXPECT_TRUE(mounts[2].read_only);
  EXPECT_TRUE(mounts[2].shared_cache);
  EXPECT_EQ(mounts[3].attach, 2);
  EXPECT_FALSE(mounts[3].read_only);
}

TEST(OciConfig, UnknownFieldsAreNoted) {
  const auto config =
      ParseOciConfig(Config(R"(, "novelty": 1)", "", R"(, "annotations": {"a": "b"})"));
  ASSERT_TRUE(config);
  EXPECT_THAT(config->warnings, ElementsAre(HasSubstr("process.novelty")));
}

TEST(OciConfig, EmptyValuesAskForNothing) {
  EXPECT_EQ(ErrorOf(Config(R"(, "apparmorProfile": "", "selinuxLabel": null)",
                           R"(, "sysctl": {}, "uidMappings": [], "seccomp": null,
                              "resources": {"cpu": {"shares": 0}})",
                           R"(, "hooks": {"prestart": []})")),
            "");
}

struct Refusal {
  std::string config, field;
};

TEST(OciConfig, WhatItCannotDoIsRefusedByName) {
  const Refusal refusals[] = {
      {Config("", "", R"(, "hooks": {"prestart": [{"path": "/x"}]})"), "hooks.prestart"},
      {Config(R"(, "apparmorProfile": "x")"), "process.apparmorProfile"},
      {Config(R"(, "selinuxLabel": "x")"), "process.selinuxLabel"},
      {Config(R"(, "ioPriority": {"class": "IOPRIO_CLASS_IDLE"})"), "process.ioPriority"},
      {Config("", R"(, "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"})"), "linux.seccomp"},
      {Config("", R"(, "sysctl": {"kernel.shmmax": "1"})"), "linux.sysctl.kernel.shmmax"},
      {Config("", R"(, "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}])"),
       "linux.uidMappings"},
      {Config("", R"(, "devices": [{"path": "/dev/fuse", "type": "c"}])"), "linux.devices[0].path"},
      {Config("", R"(, "intelRdt": {"closID": "x"})"), "linux.intelRdt"},
      {Config("", R"(, "rootfsPropagation": "shared")"), "linux.rootfsPropagation"},
      {Config("", R"(, "resources": {"cpu": {"quota": 5}})"), "linux.resources.cpu.quota"},
      {Config("", R"(, "resources": {"memory": {"swap": 5}})"), "linux.resources.memory.swap"},
      {Config("", R"(, "cgroupsPath": "system.slice:skep:x")"), "linux.cgroupsPath"},
      {Config("", R"(, "cgroupsPath": "/a/../../b")"), "linux.cgroupsPath"},
      {WithMount(R"({"destination": "/x", "type": "overlay", "source": "y"})"), "mounts[0].type"},
      {WithMount(R"({"destination": "/x", "type": "tmpfs", "options": ["rshared"]})"),
       "mounts[0].options"},
      {WithMount(R"({"destination": "/x", "type": "tmpfs", "options": ["size=lots"]})"),
       "mounts[0].options"},
      {WithMount(R"({"destination": "x", "type": "tmpfs"})"), "mounts[0].destination"},
      {WithMount(R"({"destination": "/a/../b", "type": "tmpfs"})"), "mounts[0].destination"},
      {WithMount(R"({"destination": "/x", "type": "bind"})"), "mounts[0].source"},
  };
  for (const Refusal& refusal : refusals) {
    EXPECT_THAT(ErrorOf(refusal.config), HasSubstr("config.json: " + refusal.field + ": "))
        << refusal.config;
  }
}

TEST(OciConfig, NamespacesOfOthersAndTheHostsNetwork) {
  const std::string start = R"({"ociVersion": "1.1.0", "root": {"path": "r"},
    "process": {"cwd": "/", "args": ["x"]})";
  EXPECT_EQ(ErrorOf(start + "}"), "");
  EXPECT_THAT(ErrorOf(start + R"(, "linux": {"namespaces": [{"type": "pid"}]}})"),
              HasSubstr("linux.namespaces: no network"));
  EXPECT_THAT(ErrorOf(start + R"(, "linux": {"namespaces": [{"type": "network", "path": "/x"}]}})"),
              HasSubstr("linux.namespaces[0].path"));
}

TEST(OciConfig, MalformedFiles) {
  for (const char* text :
       {"", "[]", "{", "null", "{}", R"({"ociVersion": "2.0.0"})", R"({"ociVersion": 1})"}) {
    EXPECT_FALSE(ParseOciConfig(text)) << text;
  }
  EXPECT_THAT(ErrorOf(Config(R"(, "user": {"uid": -1})")), HasSubstr("process.user.uid"));
  EXPECT_THAT(ErrorOf(Config(R"(, "user": 5)")), HasSubstr("process.user"));
  EXPECT_THAT(ErrorOf(Config(R"(, "env": ["a\u0000b"])")), HasSubstr("process.env"));
  EXPECT_THAT(ErrorOf(Config(R"(, "rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}])")),
              HasSubstr("process.rlimits[0].type"));
  EXPECT_THAT(ErrorOf(Config(R"(, "rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}])")),
              HasSubstr("process.rlimits[0].soft"));
}

TEST(OciConfig, DeepNestingIsAnError) {
  const std::string deep(3'000'000, '[');
  EXPECT_THAT(ErrorOf(deep), HasSubstr("nests deeper than 64"));
  EXPECT_THAT(ErrorOf(Config(R"(, "x": )" + deep + std::string(deep.size(), ']'))),
              HasSubstr("nests deeper than 64"));
}

TEST(OciNames, CapabilitiesAndLimits) {
  EXPECT_EQ(CapabilityByName("CAP_CHOWN"), 0);
  EXPECT_EQ(CapabilityByName("CAP_SYS_ADMIN"), 21);
  EXPECT_EQ(CapabilityByName("CAP_CHECKPOINT_RESTORE"), 40);
  EXPECT_FALSE(CapabilityByName("SYS_ADMIN"));
  EXPECT_EQ(RlimitByName("RLIMIT_CPU"), 0);
  EXPECT_FALSE(RlimitByName("NOFILE"));
}

}  // namespace
}  // namespace skep::cli
