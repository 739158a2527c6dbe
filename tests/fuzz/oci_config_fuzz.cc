// config.json of a bundle.
#include "runsc-cli/oci_config.h"
#include "tests/fuzz/fuzz.h"

namespace skep::fuzz {
namespace {

std::vector<std::string> Seeds() {
  return {
      R"({"ociVersion":"1.0.2","process":{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0}},)"
      R"("root":{"path":"rootfs","readonly":true},"hostname":"h"})",
      R"({"ociVersion":"1.0.2","process":{"terminal":true,"consoleSize":{"height":25,"width":80},)"
      R"("args":["a","b"],"env":["A=1"],"cwd":"/w","capabilities":{"bounding":["CAP_KILL"]},)"
      R"("rlimits":[{"type":"RLIMIT_NOFILE","hard":1024,"soft":512}],"noNewPrivileges":true,)"
      R"("oomScoreAdj":10},"root":{"path":"/r"},"mounts":[{"destination":"/proc","type":"proc",)"
      R"("source":"proc"},{"destination":"/t","type":"tmpfs","options":["size=64k","mode=755"]},)"
      R"({"destination":"/b","type":"bind","source":"/x","options":["rbind","ro"]}],)"
      R"("linux":{"namespaces":[{"type":"pid"},{"type":"network"}],"maskedPaths":["/proc/kcore"],)"
      R"("resources":{"memory":{"limit":1048576},"pids":{"limit":5}}}})",
      std::string(2000, '['), R"({"a":{"b":{"c":[1,2.5e300,-1,null,true,"\u0000"]}}})"};
}

int TestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto config = cli::ParseOciConfig(text);
  if (!config && config.error().message.empty()) Fail("an error without a text");
  return 0;
}

const Target kTarget("oci_config", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
