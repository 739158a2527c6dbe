#include "runsc-cli/oci_config.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "base/json_depth.h"
#include "runsc-cli/oci_names.h"
#include "runsc-cli/parse.h"

namespace skep::cli {
namespace {

using Json = nlohmann::json;
using boot::MountConfig;
using Kind = MountConfig::Kind;

// What has been found wrong (all of it) or odd.
struct Judgement {
  std::vector<std::string> errors;
  std::vector<std::string> warnings, notes;

  void Wrong(const std::string& field, std::string_view what) {
    errors.push_back(fmt::format("{}: {}", field, what));
  }
  std::string AllErrors() const {
    std::string text = "config.json: ";
    for (const std::string& error : errors) {
      if (&error != &errors.front()) text += "; ";
      text += error;
    }
    return text;
  }
};

// A value that asks for nothing.
bool IsNothing(const Json& json) {
  if (json.is_null()) return true;
  if (json.is_boolean()) return !json.get<bool>();
  if (json.is_string()) return json.get_ref<const std::string&>().empty();
  if (json.is_number()) return json == 0;
  return std::all_of(json.begin(), json.end(), [](const Json& part) { return IsNothing(part); });
}

// An object of the file. Every field that is asked for counts as known; the rest gets a warning.
class Object {
 public:
  Object(const Json* json, std::string path, Judgement& judgement)
      : json_(json), path_(std::move(path)), judgement_(judgement) {
    if (json_ != nullptr && !json_->is_object()) {
      judgement_.Wrong(path_, "not an object");
      json_ = nullptr;
    }
  }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  ~Object() {
    if (json_ == nullptr) return;
    for (const auto& field : json_->items()) {
      if (known_.count(field.key()) != 0) continue;
      judgement_.warnings.push_back(
          fmt::format("config.json: unknown field {}", Name(field.key())));
    }
  }

  bool exists() const { return json_ != nullptr; }
  Judgement& judgement() const { return judgement_; }
  std::string Name(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }
  void Wrong(const std::string& key, std::string_view what) const {
    judgement_.Wrong(Name(key), what);
  }

  // Null if it is not there.
  const Json* Get(const std::string& key) {
    known_.insert(key);
    if (json_ == nullptr) return nullptr;
    const auto found = json_->find(key);
    return found == json_->end() || found->is_null() ? nullptr : &*found;
  }
  Object Child(const std::string& key) { return Object(Get(key), Name(key), judgement_); }
  void Ignore(const std::string& key) { known_.insert(key); }
  void Refuse(const std::string& key,
              std::string_view why = "not supported by this version of skep") {
    const Json* value = Get(key);
    if (value != nullptr && !IsNothing(*value)) Wrong(key, why);
  }

  std::string String(const std::string& key) {
    const Json* value = Get(key);
    if (value == nullptr) return "";
    if (!value->is_string()) return Wrong(key, "not a string"), "";
    return CheckedString(key, *value);
  }
  std::vector<std::string> Strings(const std::string& key) {
    std::vector<std::string> strings;
    const Json* value = Get(key);
    if (value == nullptr) return strings;
    if (!value->is_array()) return Wrong(key, "not an array"), strings;
    for (const Json& element : *value) {
      if (!element.is_string()) return Wrong(key, "not an array of strings"), strings;
      strings.push_back(CheckedString(key, element));
    }
    return strings;
  }
  bool Bool(const std::string& key) {
    const Json* value = Get(key);
    if (value == nullptr) return false;
    if (!value->is_boolean()) return Wrong(key, "not true or false"), false;
    return value->get<bool>();
  }
  template <class T>
  T Number(const std::string& key, T otherwise) {
    const Json* value = Get(key);
    return value == nullptr ? otherwise : CheckedNumber<T>(key, *value);
  }
  std::vector<uint32_t> Numbers(const std::string& key) {
    std::vector<uint32_t> numbers;
    const Json* value = Get(key);
    if (value == nullptr) return numbers;
    if (!value->is_array()) return Wrong(key, "not an array"), numbers;
    for (const Json& element : *value) numbers.push_back(CheckedNumber<uint32_t>(key, element));
    return numbers;
  }
  // Calls `take` with each object of an array.
  template <class Take>
  void Each(const std::string& key, Take take) {
    const Json* value = Get(key);
    if (value == nullptr) return;
    if (!value->is_array()) return Wrong(key, "not an array");
    for (size_t i = 0; i < value->size(); ++i) {
      Object object(&(*value)[i], fmt::format("{}[{}]", Name(key), i), judgement_);
      take(object);
    }
  }

 private:
  std::string CheckedString(const std::string& key, const Json& value) {
    const auto& text = value.get_ref<const std::string&>();
    if (text.find('\0') != std::string::npos) Wrong(key, "contains a NUL byte");
    return text;
  }
  template <class T>
  T CheckedNumber(const std::string& key, const Json& value) {
    if (value.is_number_unsigned() && std::in_range<T>(value.get<uint64_t>())) {
      return static_cast<T>(value.get<uint64_t>());
    }
    if (value.is_number_integer() && !value.is_number_unsigned() &&
        std::in_range<T>(value.get<int64_t>())) {
      return static_cast<T>(value.get<int64_t>());
    }
    Wrong(key, "not a number in range");
    return 0;
  }

  const Json* json_;
  const std::string path_;
  Judgement& judgement_;
  std::set<std::string> known_;
};

uint64_t ReadCapabilitySet(Object& capabilities, const std::string& key) {
  uint64_t set = 0;
  for (const std::string& name : capabilities.Strings(key)) {
    const auto number = CapabilityByName(name);
    if (!number) {
      // As runc: a capability that this kernel does not have cannot be given.
      capabilities.judgement().warnings.push_back(
          fmt::format("config.json: {}: unknown capability {}", capabilities.Name(key), name));
      continue;
    }
    set |= uint64_t{1} << *number;
  }
  return set;
}

void ReadUser(Object user, boot::BootConfig& config) {
  config.uid = user.Number<uint32_t>("uid", 0);
  config.gid = user.Number<uint32_t>("gid", 0);
  config.umask = user.Number<uint32_t>("umask", 022);
  config.groups = user.Numbers("additionalGids");
  if (config.umask > 0777) user.Wrong("umask", "more than 0777");
  user.Refuse("username", "is for Windows");
}

void ReadCapabilities(Object capabilities, boot::BootConfig& config) {
  config.capabilities.bounding = ReadCapabilitySet(capabilities, "bounding");
  config.capabilities.effective = ReadCapabilitySet(capabilities, "effective");
  config.capabilities.permitted = ReadCapabilitySet(capabilities, "permitted");
  config.capabilities.inheritable = ReadCapabilitySet(capabilities, "inheritable");
  config.capabilities.ambient = ReadCapabilitySet(capabilities, "ambient");
}

void ReadConsoleSize(Object size, boot::BootConfig& config) {
  config.terminal_rows = size.Number<uint16_t>("height", 0);
  config.terminal_columns = size.Number<uint16_t>("width", 0);
}

void ReadRlimit(Object& limit, boot::BootConfig& config) {
  const std::string type = limit.String("type");
  const auto resource = RlimitByName(type);
  if (!resource) return limit.Wrong("type", fmt::format("unknown limit '{}'", type));
  const uint64_t soft = limit.Number<uint64_t>("soft", 0);
  const uint64_t hard = limit.Number<uint64_t>("hard", 0);
  if (soft > hard) return limit.Wrong("soft", "more than the hard limit");
  for (const auto& other : config.rlimits) {
    if (other.resource == *resource) return limit.Wrong("type", fmt::format("{} twice", type));
  }
  config.rlimits.push_back({*resource, soft, hard});
}

void ReadProcess(Object process, boot::BootConfig& config) {
  if (!process.exists()) return process.judgement().Wrong("process", "missing");
  config.argv = process.Strings("args");
  if (config.argv.empty()) process.Wrong("args", "missing or empty");
  config.env = process.Strings("env");
  config.cwd = process.String("cwd");
  if (!config.cwd.starts_with('/')) process.Wrong("cwd", "not an absolute path");
  config.terminal = process.Bool("terminal");
  config.no_new_privs = process.Bool("noNewPrivileges");
  config.oom_score_adj = process.Number<int>("oomScoreAdj", 0);
  if (config.oom_score_adj < -1000 || config.oom_score_adj > 1000) {
    process.Wrong("oomScoreAdj", "not between -1000 and 1000");
  }
  ReadUser(process.Child("user"), config);
  ReadCapabilities(process.Child("capabilities"), config);
  ReadConsoleSize(process.Child("consoleSize"), config);
  process.Each("rlimits", [&](Object& limit) { ReadRlimit(limit, config); });
  for (const char* key : {"apparmorProfile", "selinuxLabel", "scheduler", "ioPriority",
                          "execCPUAffinity", "commandLine"}) {
    process.Refuse(key);
  }
}

// Options that ask for nothing, or for what every sandbox has: nobody else sees its mounts, and
// access times are the sentry's own affair.
bool IsHarmlessOption(std::string_view option) {
  static constexpr std::array<std::string_view, 24> kHarmless = {
      "defaults", "rw",         "suid",        "exec",          "dev",       "async",
      "private",  "rprivate",   "slave",       "rslave",        "atime",     "noatime",
      "relatime", "norelatime", "strictatime", "nodiratime",    "diratime",  "nostrictatime",
      "silent",   "loud",       "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"};
  return std::find(kHarmless.begin(), kHarmless.end(), option) != kHarmless.end();
}

bool ReadTmpfsOption(const std::string& option, MountConfig& mount) {
  if (option.starts_with("size=")) {
    const HostResult<uint64_t> size = ParseSize(option.substr(5));
    if (size) mount.size = *size;
    return size.has_value();
  }
  if (!option.starts_with("mode=")) return false;
  uint32_t mode = 0;
  for (const char digit : option.substr(5)) {
    if (digit < '0' || digit > '7' || mode > 07777) return false;
    mode = mode * 8 + static_cast<uint32_t>(digit - '0');
  }
  mount.mode = mode;
  return mode <= 07777 && option.size() > 5;
}

void ReadMountOption(Object& object, const std::string& option, bool& bind, MountConfig& mount) {
  if (option == "bind" || option == "rbind") {
    bind = true;
  } else if (option == "ro" || option == "rro") {
    mount.read_only = true;
  } else if (option == "nosuid") {
    mount.no_suid = true;
  } else if (option == "noexec") {
    mount.no_exec = true;
  } else if (option == "nodev") {
    mount.no_dev = true;
  } else if ((mount.kind == Kind::kTmpfs || mount.kind == Kind::kDev) &&
             ReadTmpfsOption(option, mount)) {
    return;
  } else if (!IsHarmlessOption(option)) {
    object.Wrong("options", fmt::format("'{}' is not supported by this version of skep", option));
  }
}

// What a mount's type stands for; the caller has looked for binds.
void ChooseKind(Object& object, const std::string& type, MountConfig& mount) {
  if (type == "proc") {
    mount.kind = Kind::kProc;
  } else if (type == "sysfs") {
    mount.kind = Kind::kSysfs;
  } else if (type == "devpts") {
    mount.kind = Kind::kDevpts;
  } else if (type == "tmpfs") {
    // The devices of /dev come from the sentry, never from nodes that somebody makes.
    mount.kind = mount.destination == "/dev" ? Kind::kDev : Kind::kTmpfs;
  } else if (type == "cgroup" || type == "cgroup2") {
    mount.kind = Kind::kTmpfs;
    mount.read_only = true;
    mount.mode = 0755;
    object.judgement().notes.push_back(fmt::format(
        "config.json: {}: control groups show as an empty directory", object.Name("type")));
  } else if (type == "mqueue") {
    mount.kind = Kind::kMqueue;
    mount.read_only = true;
    object.judgement().notes.push_back(
        fmt::format("config.json: {}: message queues are not supported; {} is empty and read-only",
                    object.Name("type"), mount.destination));
  } else {
    object.Wrong("type", fmt::format("'{}' is not supported by this version of skep", type));
  }
}

void ReadMount(Object& object, OciConfig& config) {
  MountConfig mount;
  const auto destination = CleanAbsolutePath(object.String("destination"));
  if (!destination || *destination == "/") {
    return object.Wrong("destination", "not an absolute path below / without ..");
  }
  mount.destination = *destination;
  mount.source = object.String("source");
  const std::string type = object.String("type");
  const std::vector<std::string> options = object.Strings("options");
  const auto is_bind = [](const std::string& option) {
    return option == "bind" || option == "rbind";
  };
  bool bind = type == "bind" || std::any_of(options.begin(), options.end(), is_bind);
  if (!bind) ChooseKind(object, type, mount);
  for (const std::string& option : options) ReadMountOption(object, option, bind, mount);
  for (const char* key : {"uidMappings", "gidMappings"}) object.Refuse(key);
  if (bind) {
    if (mount.source.empty()) return object.Wrong("source", "missing");
    mount.attach = static_cast<int>(config.sources.size());
    mount.shared_cache = true;
    config.sources.push_back(mount.source);
  }
  config.boot.mounts.push_back(mount);
}

void ReadNamespaces(Object& section) {
  bool any = false;
  bool network = false;
  section.Each("namespaces", [&](Object& space) {
    static constexpr std::array<std::string_view, 8> kTypes = {"pid", "network", "mount",  "ipc",
                                                               "uts", "user",    "cgroup", "time"};
    const std::string type = space.String("type");
    if (std::find(kTypes.begin(), kTypes.end(), type) == kTypes.end()) {
      space.Wrong("type", fmt::format("unknown namespace '{}'", type));
    }
    space.Refuse("path", "joining a namespace is not supported by this version of skep");
    any = true;
    network |= type == "network";
  });
  // A namespace that is not listed would be shared with the host. The sandbox always has its own,
  // which a guest cannot tell apart, except for the network.
  if (any && !network) {
    section.Wrong(
        "namespaces",
        "no network namespace: the host's network is not supported by this version of skep");
  }
}

void ReadResources(Object resources, OciConfig& config) {
  {
    Object memory = resources.Child("memory");
    const int64_t limit = memory.Number<int64_t>("limit", 0);
    if (limit > 0) config.boot.memory_limit = static_cast<uint64_t>(limit);
    for (const char* key : {"reservation", "swap", "kernel", "kernelTCP", "swappiness",
                            "disableOOMKiller", "useHierarchy"}) {
      memory.Refuse(key);
    }
    memory.Ignore("checkBeforeUpdate");
  }
  {
    Object pids = resources.Child("pids");
    const int64_t limit = pids.Number<int64_t>("limit", 0);
    if (limit > 0) config.boot.pids_limit = static_cast<uint64_t>(limit);
  }
  // Rules about host devices: a guest reaches none, whatever they allow.
  resources.Ignore("devices");
  {
    Object cpu = resources.Child("cpu");
    for (const char* key : {"shares", "quota", "burst", "period", "realtimeRuntime",
                            "realtimePeriod", "cpus", "mems", "idle"}) {
      cpu.Refuse(key);
    }
  }
  for (const char* key : {"blockIO", "hugepageLimits", "network", "rdma", "unified"}) {
    resources.Refuse(key);
  }
}

// A device that every sandbox's /dev has anyway.
bool IsDefaultDevice(const std::string& path) {
  static constexpr std::array<std::string_view, 8> kDefaults = {
      "/dev/null",    "/dev/zero", "/dev/full", "/dev/random",
      "/dev/urandom", "/dev/tty",  "/dev/ptmx", "/dev/console"};
  return std::find(kDefaults.begin(), kDefaults.end(), path) != kDefaults.end();
}

void ReadDevices(Object& section) {
  section.Each("devices", [](Object& device) {
    const std::string path = device.String("path");
    if (!IsDefaultDevice(path)) {
      device.Wrong("path", fmt::format("device {} is not supported by this version of skep", path));
    }
    for (const char* key : {"type", "major", "minor", "fileMode", "uid", "gid"}) device.Ignore(key);
  });
}

void ReadSysctl(Object& section) {
  const Json* settings = section.Get("sysctl");
  if (settings == nullptr || !settings->is_object()) return;
  for (const auto& setting : settings->items()) {
    const std::string name = fmt::format("sysctl.{}", setting.key());
    if (setting.key().starts_with("net.")) {
      section.judgement().notes.push_back(
          fmt::format("config.json: {} has no effect: there is no network", section.Name(name)));
    } else {
      section.Wrong(name, "not supported by this version of skep");
    }
  }
}

void ReadHooks(Object hooks) {
  for (const char* key : {"prestart", "createRuntime", "createContainer", "startContainer",
                          "poststart", "poststop"}) {
    hooks.Refuse(key);
  }
}

void ReadLinux(Object section, OciConfig& config) {
  ReadNamespaces(section);
  ReadDevices(section);
  ReadResources(section.Child("resources"), config);
  config.boot.masked_paths = section.Strings("maskedPaths");
  config.boot.readonly_paths = section.Strings("readonlyPaths");
  config.cgroups_path = section.String("cgroupsPath");
  if (config.cgroups_path.find(':') != std::string::npos) {
    section.Wrong("cgroupsPath", "systemd's form is not supported by this version of skep");
  }
  const std::vector<std::string> parts = Split(config.cgroups_path, '/');
  if (std::find(parts.begin(), parts.end(), "..") != parts.end()) {
    section.Wrong("cgroupsPath", "has a .. component");
  }
  const std::string propagation = section.String("rootfsPropagation");
  if (propagation == "shared" || propagation == "rshared" || propagation == "unbindable") {
    section.Wrong("rootfsPropagation", fmt::format("'{}' is not supported", propagation));
  }
  ReadSysctl(section);
  for (const char* key : {"seccomp", "uidMappings", "gidMappings", "timeOffsets", "intelRdt",
                          "mountLabel", "personality", "netDevices", "memoryPolicy"}) {
    section.Refuse(key);
  }
}

void ReadRoot(Object root, OciConfig& config) {
  const std::string path = root.String("path");
  if (path.empty()) return root.judgement().Wrong("root.path", "missing");
  MountConfig mount;
  mount.destination = "/";
  mount.attach = 0;
  mount.read_only = root.Bool("readonly");
  mount.source = "rootfs";
  config.boot.mounts.push_back(mount);
  config.sources.push_back(path);
}

// Devices are there even if nobody asks for a file system at /dev.
void AddDefaultDev(OciConfig& config) {
  std::vector<MountConfig>& mounts = config.boot.mounts;
  for (const MountConfig& mount : mounts) {
    if (mount.destination == "/dev") return;
  }
  MountConfig dev;
  dev.destination = "/dev";
  dev.kind = Kind::kDev;
  dev.source = "devtmpfs";
  dev.no_suid = true;
  dev.no_exec = true;
  mounts.insert(mounts.begin() + 1, dev);
}

void ReadConfig(const Json& json, OciConfig& config, Judgement& judgement) {
  Object top(&json, "", judgement);
  const std::string version = top.String("ociVersion");
  if (!version.starts_with("1.")) {
    top.Wrong("ociVersion", fmt::format("'{}' is not version 1 of the specification", version));
  }
  ReadRoot(top.Child("root"), config);
  ReadProcess(top.Child("process"), config.boot);
  top.Each("mounts", [&](Object& mount) { ReadMount(mount, config); });
  if (judgement.errors.empty()) AddDefaultDev(config);
  ReadLinux(top.Child("linux"), config);
  const std::string hostname = top.String("hostname");
  if (!hostname.empty()) config.boot.hostname = hostname;
  config.boot.domainname = top.String("domainname");
  if (hostname.size() > 64) top.Wrong("hostname", "longer than 64 bytes");
  if (config.boot.domainname.size() > 64) top.Wrong("domainname", "longer than 64 bytes");
  top.Ignore("annotations");
  ReadHooks(top.Child("hooks"));
  for (const char* key : {"windows", "solaris", "vm", "zos", "freebsd"}) top.Refuse(key);
}

}  // namespace

HostResult<OciConfig> ParseOciConfig(const std::string& text) {
  if (!JsonNestsAtMost(text, kJsonDepthMax)) {
    return HostFail(fmt::format("config.json: nests deeper than {} levels", kJsonDepthMax));
  }
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return HostFail("config.json: not JSON");
  if (!json.is_object()) return HostFail("config.json: not an object");
  OciConfig config;
  Judgement judgement;
  ReadConfig(json, config, judgement);
  if (!judgement.errors.empty()) return HostFail(judgement.AllErrors());
  config.warnings = std::move(judgement.warnings);
  config.notes = std::move(judgement.notes);
  return config;
}

}  // namespace skep::cli
