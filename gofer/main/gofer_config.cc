// GoferConfig over the control socket: one message of plain numbers and strings, with descriptors.
#include <array>
#include <memory>

#include "base/host_call.h"
#include "gofer/main/gofer_config.h"
#include "gofer/protocol/codec.h"

namespace skep::gofer {
namespace {

struct ConfigHeader {
  uint64_t max_nodes;
  int64_t uid;
  int64_t gid;
  uint32_t namespaces;
  uint32_t attach_points;
  uint32_t hidden;
  uint8_t log_format;
  uint8_t log_level;
  uint8_t has_log;
  uint8_t allow_fifos;
  uint8_t allow_sockets;
  uint8_t jail;
  uint8_t self_test;
  uint8_t identity_bits;  // 1: drop_groups, 2: outlives_parent
  uint16_t has_filter_use;
  uint16_t has_last_words;
};

}  // namespace

Result<void> SendConfig(int control, const GoferConfig& config) {
  if (config.attach_points.size() > kMaxAttachPoints) return Fail(E2BIG);
  std::vector<int> fds = {config.client.get()};
  if (config.log) fds.push_back(config.log.get());
  for (const OwnedFd* fd : {&config.filter_use, &config.last_words}) {
    if (*fd) fds.push_back(fd->get());
  }
  const auto buffer = std::make_unique<std::byte[]>(kMessageMax);
  Writer out(std::span(buffer.get(), kMessageMax));
  out.Put(ConfigHeader{config.max_nodes, config.identity.uid, config.identity.gid,
                       config.namespaces, static_cast<uint32_t>(config.attach_points.size()),
                       static_cast<uint32_t>(config.hidden.size()),
                       static_cast<uint8_t>(config.log_format),
                       static_cast<uint8_t>(config.log_level), config.log ? uint8_t{1} : uint8_t{0},
                       config.allow_fifos, config.allow_sockets, config.jail, config.self_test,
                       static_cast<uint8_t>((config.identity.drop_groups ? 1 : 0) |
                                            (config.identity.outlives_parent ? 2 : 0)),
                       config.filter_use ? uint16_t{1} : uint16_t{0},
                       config.last_words ? uint16_t{1} : uint16_t{0}});
  for (const AttachPoint& point : config.attach_points) {
    out.Put(static_cast<uint8_t>(point.read_only));
    fds.push_back(point.root.get());
  }
  for (const HiddenPath& hidden : config.hidden) {
    out.Put(hidden.attach);
    out.PutString(hidden.path);
  }
  if (!out.ok()) return Fail(E2BIG);
  const iovec part = {buffer.get(), out.size()};
  TRY(host::SendMsg(control, std::span(&part, 1), fds, 0));
  return {};
}

Result<GoferConfig> ReceiveConfig(int control) {
  const auto buffer = std::make_unique<std::byte[]>(kMessageMax);
  std::array<OwnedFd, host::kMaxSentFds> fds;
  const iovec part = {buffer.get(), kMessageMax};
  const host::Received received = TRY(host::RecvMsg(control, std::span(&part, 1), fds, 0));
  if (received.truncated) return Fail(EMSGSIZE);
  Reader in(std::span<const std::byte>(buffer.get(), received.size));
  const ConfigHeader header = TRY(in.Get<ConfigHeader>());
  const size_t fixed = size_t{1} + header.has_log + header.has_filter_use + header.has_last_words;
  if (received.fd_count != fixed + header.attach_points) return Fail(EPROTO);
  GoferConfig config;
  config.client = std::move(fds[0]);
  size_t next = 1;
  if (header.has_log != 0) config.log = std::move(fds[next++]);
  if (header.has_filter_use != 0) config.filter_use = std::move(fds[next++]);
  if (header.has_last_words != 0) config.last_words = std::move(fds[next++]);
  config.max_nodes = header.max_nodes;
  config.identity = {header.uid, header.gid, (header.identity_bits & 1) != 0,
                     (header.identity_bits & 2) != 0};
  config.namespaces = header.namespaces;
  config.log_format = static_cast<LogFormat>(header.log_format);
  config.log_level = static_cast<LogLevel>(header.log_level);
  config.allow_fifos = header.allow_fifos != 0;
  config.allow_sockets = header.allow_sockets != 0;
  config.jail = header.jail != 0;
  config.self_test = header.self_test != 0;
  for (uint32_t i = 0; i < header.attach_points; ++i) {
    const uint8_t read_only = TRY(in.Get<uint8_t>());
    config.attach_points.push_back({std::move(fds[fixed + i]), read_only != 0});
  }
  for (uint32_t i = 0; i < header.hidden; ++i) {
    HiddenPath hidden;
    hidden.attach = TRY(in.Get<uint32_t>());
    const std::string_view path = TRY(in.GetString());
    hidden.path = path;
    config.hidden.push_back(std::move(hidden));
  }
  TRY(in.End());
  return config;
}

Result<void> SendReport(int control, const JailReport& report) {
  JailReport copy = report;
  const iovec part = {&copy, sizeof copy};
  TRY(host::SendMsg(control, std::span(&part, 1), {}, 0));
  return {};
}

Result<JailReport> ReceiveReport(int control) {
  JailReport report;
  const iovec part = {&report, sizeof report};
  const host::Received received = TRY(host::RecvMsg(control, std::span(&part, 1), {}, 0));
  if (received.size != sizeof report) return Fail(EPIPE);  // it died; its log says why
  return report;
}

}  // namespace skep::gofer
