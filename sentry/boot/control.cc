// BootConfig as JSON; events and commands as packets.
//
// Strings of a guest (arguments, environment, paths) are bytes, not text: in the JSON each byte is
// the code point of its value, so that any of them survives.
#include "sentry/boot/control.h"

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/host_call.h"
#include "base/json_depth.h"

namespace skep::boot {
namespace {

using Json = nlohmann::json;

constexpr size_t kEventTextMax = 8000;

struct EventHeader {
  uint32_t kind;
  int32_t status;
};
struct CommandPacket {
  uint32_t kind;
  uint32_t value;
};

std::string BytesToUtf8(const std::string& bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      text += c;
    } else {
      text += static_cast<char>(0xc0 | (byte >> 6));
      text += static_cast<char>(0x80 | (byte & 0x3f));
    }
  }
  return text;
}

std::string Utf8ToBytes(const std::string& text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < 0x80 || i + 1 == text.size()) {
      bytes += text[i];
    } else {
      bytes += static_cast<char>((byte << 6) | (static_cast<unsigned char>(text[++i]) & 0x3f));
    }
  }
  return bytes;
}

// Both directions visit the same list of fields, so that they cannot disagree.
class Writer {
 public:
  void Field(const char* name, const std::string& value) { json_[name] = BytesToUtf8(value); }
  void Field(const char* name, bool value) { json_[name] = value; }
  template <class T>
    requires std::is_integral_v<T>
  void Field(const char* name, T value) {
    json_[name] = value;
  }
  template <class T>
    requires std::is_enum_v<T>
  void Field(const char* name, T value) {
    json_[name] = static_cast<int>(value);
  }
  void Field(const char* name, const int (&values)[3]) { json_[name] = values; }
  void Field(const char* name, const std::vector<uint32_t>& values) { json_[name] = values; }
  void Field(const char* name, const std::vector<std::string>& values) {
    Json array = Json::array();
    for (const std::string& value : values) array.push_back(BytesToUtf8(value));
    json_[name] = std::move(array);
  }
  template <class T>
  void Object(const char* name, const T& value) {
    json_[name] = ToObject(value);
  }
  template <class T>
  void Objects(const char* name, const std::vector<T>& values) {
    Json array = Json::array();
    for (const T& value : values) array.push_back(ToObject(value));
    json_[name] = std::move(array);
  }
  std::string Text() const { return json_.dump(); }

 private:
  template <class T>
  static Json ToObject(const T& value) {
    Writer writer;
    VisitFields(writer, const_cast<T&>(value));
    return std::move(writer.json_);
  }

  Json json_ = Json::object();
};

class Reader {
 public:
  Reader(const Json& json, std::string& error) : json_(json), error_(error) {}

  void Field(const char* name, std::string& value) {
    if (const Json* found = Find(name, Json::value_t::string)) {
      value = Utf8ToBytes(found->get_ref<const std::string&>());
    }
  }
  void Field(const char* name, bool& value) {
    if (const Json* found = Find(name, Json::value_t::boolean)) value = found->get<bool>();
  }
  template <class T>
    requires std::is_integral_v<T>
  void Field(const char* name, T& value) {
    if (const Json* found = FindNumber(name)) Number(name, *found, value);
  }
  template <class T>
    requires std::is_enum_v<T>
  void Field(const char* name, T& value) {
    uint8_t number = 0;
    Field(name, number);
    value = static_cast<T>(number);
  }
  void Field(const char* name, int (&values)[3]) {
    const Json* found = Find(name, Json::value_t::array);
    if (found == nullptr) return;
    if (found->size() != 3) return Complain(name);
    for (size_t i = 0; i < 3; ++i) Number(name, (*found)[i], values[i]);
  }
  void Field(const char* name, std::vector<uint32_t>& values) {
    const Json* found = Find(name, Json::value_t::array);
    if (found == nullptr) return;
    for (const Json& element : *found) Number(name, element, values.emplace_back());
  }
  void Field(const char* name, std::vector<std::string>& values) {
    const Json* found = Find(name, Json::value_t::array);
    if (found == nullptr) return;
    for (const Json& element : *found) {
      if (!element.is_string()) return Complain(name);
      values.push_back(Utf8ToBytes(element.get_ref<const std::string&>()));
    }
  }
  template <class T>
  void Object(const char* name, T& value) {
    if (const Json* found = Find(name, Json::value_t::object)) FromObject(*found, value);
  }
  template <class T>
  void Objects(const char* name, std::vector<T>& values) {
    const Json* found = Find(name, Json::value_t::array);
    if (found == nullptr) return;
    for (const Json& element : *found) {
      if (!element.is_object()) return Complain(name);
      FromObject(element, values.emplace_back());
    }
  }

 private:
  template <class T>
  void FromObject(const Json& json, T& value) {
    Reader reader(json, error_);
    VisitFields(reader, value);
  }
  template <class T>
  void Number(const char* name, const Json& json, T& value) {
    if (json.is_number_unsigned() && std::in_range<T>(json.get<uint64_t>())) {
      value = static_cast<T>(json.get<uint64_t>());
    } else if (json.is_number_integer() && !json.is_number_unsigned() &&
               std::in_range<T>(json.get<int64_t>())) {
      value = static_cast<T>(json.get<int64_t>());
    } else {
      Complain(name);
    }
  }
  // Every field must be there: the CLI and the sentry are one binary.
  const Json* Find(const char* name, Json::value_t type) {
    const auto found = json_.find(name);
    if (found != json_.end() && found->type() == type) return &*found;
    Complain(name);
    return nullptr;
  }
  const Json* FindNumber(const char* name) {
    const auto found = json_.find(name);
    if (found != json_.end() && found->is_number()) return &*found;
    Complain(name);
    return nullptr;
  }
  void Complain(const char* name) {
    if (error_.empty()) error_ = name;
  }

  const Json& json_;
  std::string& error_;
};

template <class Visitor>
void VisitFields(Visitor& visitor, MountConfig& mount) {
  visitor.Field("destination", mount.destination);
  visitor.Field("kind", mount.kind);
  visitor.Field("attach", mount.attach);
  visitor.Field("overlay", mount.overlay);
  visitor.Field("shared_cache", mount.shared_cache);
  visitor.Field("read_only", mount.read_only);
  visitor.Field("no_exec", mount.no_exec);
  visitor.Field("no_suid", mount.no_suid);
  visitor.Field("no_dev", mount.no_dev);
  visitor.Field("size", mount.size);
  visitor.Field("mode", mount.mode);
  visitor.Field("source", mount.source);
}

template <class Visitor>
void VisitFields(Visitor& visitor, Capabilities& capabilities) {
  visitor.Field("effective", capabilities.effective);
  visitor.Field("permitted", capabilities.permitted);
  visitor.Field("inheritable", capabilities.inheritable);
  visitor.Field("bounding", capabilities.bounding);
  visitor.Field("ambient", capabilities.ambient);
}

template <class Visitor>
void VisitFields(Visitor& visitor, jail::Identity& identity) {
  visitor.Field("uid", identity.uid);
  visitor.Field("gid", identity.gid);
  visitor.Field("drop_groups", identity.drop_groups);
  visitor.Field("outlives_parent", identity.outlives_parent);
}

template <class Visitor>
void VisitFields(Visitor& visitor, ProcessConfig::Rlimit& rlimit) {
  visitor.Field("resource", rlimit.resource);
  visitor.Field("soft", rlimit.soft);
  visitor.Field("hard", rlimit.hard);
}

template <class Visitor>
void VisitFields(Visitor& visitor, ProcessConfig& config) {
  visitor.Field("argv", config.argv);
  visitor.Field("env", config.env);
  visitor.Field("exec_path", config.exec_path);
  visitor.Field("cwd", config.cwd);
  visitor.Field("uid", config.uid);
  visitor.Field("gid", config.gid);
  visitor.Field("umask", config.umask);
  visitor.Field("groups", config.groups);
  visitor.Object("capabilities", config.capabilities);
  visitor.Field("no_new_privs", config.no_new_privs);
  visitor.Field("terminal", config.terminal);
  visitor.Field("terminal_errors", config.terminal_errors);
  visitor.Field("terminal_input", config.terminal_input);
  visitor.Field("terminal_rows", config.terminal_rows);
  visitor.Field("terminal_columns", config.terminal_columns);
  visitor.Objects("rlimits", config.rlimits);
  visitor.Field("oom_score_adj", config.oom_score_adj);
  visitor.Field("stdio_fds", config.stdio_fds);
  visitor.Field("stdio_owners", config.stdio_owners);
  visitor.Field("stdio_description_of", config.stdio_description_of);
  visitor.Field("stdio_inode_of", config.stdio_inode_of);
  visitor.Field("stdio_names", config.stdio_names);
}

template <class Visitor>
void VisitFields(Visitor& visitor, ContainerConfig& config) {
  visitor.Field("id", config.id);
  visitor.Field("unkillable_init", config.unkillable_init);
  visitor.Field("hostname", config.hostname);
  visitor.Field("domainname", config.domainname);
  visitor.Objects("mounts", config.mounts);
  visitor.Field("masked_paths", config.masked_paths);
  visitor.Field("readonly_paths", config.readonly_paths);
  visitor.Field("pids_limit", config.pids_limit);
  visitor.Field("gofer_fd", config.gofer_fd);
  visitor.Field("uid_map", config.uid_map);
  visitor.Field("gid_map", config.gid_map);
}

template <class Visitor>
void VisitFields(Visitor& visitor, SandboxConfig& config) {
  visitor.Field("platform", config.platform);
  visitor.Field("ptrace_poison", config.ptrace_poison);
  visitor.Field("move_tasks", config.move_tasks);
  visitor.Field("check_locks", config.check_locks);
  visitor.Field("workers", config.workers);
  visitor.Field("memory_limit", config.memory_limit);
  visitor.Field("stub_cgroup", config.stub_cgroup);
  visitor.Field("checkpoint_scan", config.checkpoint_scan);
  visitor.Field("restore_fd", config.restore_fd);
  visitor.Field("listen_fd", config.listen_fd);
  visitor.Field("lock_fd", config.lock_fd);
  visitor.Field("kill_after_ms", config.kill_after_ms);
  visitor.Field("jail_self_test", config.jail_self_test);
  visitor.Object("identity", config.identity);
  visitor.Field("control_fd", config.control_fd);
  visitor.Field("log_fd", config.log_fd);
  visitor.Field("strace_fd", config.strace_fd);
  visitor.Field("crash", config.crash);
  visitor.Field("last_words_fd", config.last_words_fd);
  visitor.Field("filter_use_fd", config.filter_use_fd);
  visitor.Field("stub_cgroup_fd", config.stub_cgroup_fd);
  visitor.Field("engine_fd", config.engine_fd);
  visitor.Field("log_format", config.log_format);
  visitor.Field("debug", config.debug);
  visitor.Field("caller_stat_fd", config.caller_stat_fd);
}

template <class Visitor>
void VisitFields(Visitor& visitor, BootConfig& config) {
  VisitFields(visitor, static_cast<SandboxConfig&>(config));
  VisitFields(visitor, static_cast<ContainerConfig&>(config));
  VisitFields(visitor, static_cast<ProcessConfig&>(config));
}

}  // namespace

namespace {

template <class Config>
std::string TextOf(const Config& config) {
  Writer writer;
  VisitFields(writer, const_cast<Config&>(config));
  return writer.Text();
}

template <class Config>
HostResult<Config> ConfigOf(const std::string& text) {
  if (!JsonNestsAtMost(text, kJsonDepthMax)) {
    return HostFail("the sandbox's configuration nests too deep");
  }
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return HostFail("the sandbox's configuration is not a JSON object");
  Config config;
  std::string error;
  Reader reader(json, error);
  VisitFields(reader, config);
  if (!error.empty()) {
    return HostFail("the sandbox's configuration: '" + error + "' is missing or malformed");
  }
  return config;
}

}  // namespace

std::string ToJson(const BootConfig& config) { return TextOf(config); }
HostResult<BootConfig> FromJson(const std::string& text) { return ConfigOf<BootConfig>(text); }
std::string ToJson(const ProcessConfig& config) { return TextOf(config); }
HostResult<ProcessConfig> ProcessFromJson(const std::string& text) {
  return ConfigOf<ProcessConfig>(text);
}
std::string ToJson(const ContainerConfig& config) { return TextOf(config); }
HostResult<ContainerConfig> ContainerFromJson(const std::string& text) {
  return ConfigOf<ContainerConfig>(text);
}

Result<void> SendEvent(int fd, const SentryEvent& event) {
  EventHeader header = {static_cast<uint32_t>(event.kind), event.status};
  const size_t text_size = std::min(event.text.size(), kEventTextMax);
  const std::array<iovec, 2> parts = {
      iovec{&header, sizeof header},
      iovec{const_cast<char*>(event.text.data()), text_size},
  };
  TRY(host::SendMsg(fd, parts, {}, MSG_NOSIGNAL));
  return {};
}

std::optional<SentryEvent> ReceiveEvent(int fd) {
  EventHeader header = {};
  std::string text(kEventTextMax, '\0');
  const std::array<iovec, 2> parts = {iovec{&header, sizeof header},
                                      iovec{text.data(), text.size()}};
  const Result<host::Received> received = host::RecvMsg(fd, parts, {}, 0);
  if (!received || received->size < sizeof header) return std::nullopt;
  if (header.kind > static_cast<uint32_t>(SentryEvent::Kind::kReleased)) return std::nullopt;
  text.resize(received->size - sizeof header);
  return SentryEvent{static_cast<SentryEvent::Kind>(header.kind), header.status, std::move(text)};
}

Result<void> SendCommand(int fd, const CliCommand& command, int file) {
  CommandPacket packet = {static_cast<uint32_t>(command.kind), command.value};
  const iovec part = {&packet, sizeof packet};
  TRY(host::SendMsg(fd, std::span(&part, 1), std::span(&file, file >= 0 ? 1 : 0), MSG_NOSIGNAL));
  return {};
}

std::optional<CliCommand> ReceiveCommand(int fd, OwnedFd* file) {
  CommandPacket packet = {};
  const iovec part = {&packet, sizeof packet};
  const Result<host::Received> received =
      host::RecvMsg(fd, std::span(&part, 1), std::span(file, file != nullptr ? 1 : 0), 0);
  if (!received || received->size != sizeof packet) return std::nullopt;
  if (packet.kind > static_cast<uint32_t>(CliCommand::Kind::kSuspend)) return std::nullopt;
  return CliCommand{static_cast<CliCommand::Kind>(packet.kind), packet.value};
}

}  // namespace skep::boot
