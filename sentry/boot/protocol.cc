#include "sentry/boot/protocol.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <cstring>
#include <span>
#include <type_traits>

#include "base/host_call.h"

namespace skep::boot {
namespace {

constexpr uint32_t kMagic = 0x31706b73;  // "skp1"
constexpr size_t kInlineMax = 32 << 10;
constexpr uint32_t kBodyMax = 16 << 20;
constexpr uint32_t kMaxElements = 1 << 20;

struct Header {
  uint32_t magic;
  uint32_t kind;  // the message's place in its variant
  uint64_t id;
  uint32_t size;     // of the body
  uint32_t in_file;  // 1: the body is in the first descriptor
};

class Packer {
 public:
  void Field(const std::string& text) {
    Word(text.size());
    out_ += text;
  }
  template <class T>
    requires std::is_integral_v<T>
  void Field(T value) {
    Word(static_cast<uint64_t>(static_cast<int64_t>(value)));
  }
  void Field(const std::vector<std::string>& list) {
    Word(list.size());
    for (const std::string& element : list) Field(element);
  }
  template <class T>
  void Objects(const std::vector<T>& list) {
    Word(list.size());
    for (const T& element : list) Visit(*this, const_cast<T&>(element));
  }
  void Field(const ProcessConfig& process) { Field(ToJson(process)); }
  void Field(const ContainerConfig& container) { Field(ToJson(container)); }
  std::string Take() { return std::move(out_); }

 private:
  void Word(uint64_t value) { out_.append(reinterpret_cast<const char*>(&value), sizeof value); }
  std::string out_;
};

// Reads what a Packer has written; anything else makes it fail, and it goes on failing.
class Unpacker {
 public:
  explicit Unpacker(std::string_view in) : in_(in) {}

  void Field(std::string& text) {
    const uint64_t size = Word();
    if (size > in_.size()) return Fail();
    text.assign(in_.substr(0, size));
    in_.remove_prefix(size);
  }
  template <class T>
    requires std::is_integral_v<T>
  void Field(T& value) {
    const auto word = static_cast<int64_t>(Word());
    if (static_cast<int64_t>(static_cast<T>(word)) != word) return Fail();
    value = static_cast<T>(word);
  }
  void Field(std::vector<std::string>& list) {
    for (uint64_t left = Count(); left > 0 && good_; --left) Field(list.emplace_back());
  }
  template <class T>
  void Objects(std::vector<T>& list) {
    for (uint64_t left = Count(); left > 0 && good_; --left) Visit(*this, list.emplace_back());
  }
  void Field(ProcessConfig& process) { FromJsonText(&ProcessFromJson, process); }
  void Field(ContainerConfig& container) { FromJsonText(&ContainerFromJson, container); }
  bool AllTaken() const { return good_ && in_.empty(); }

 private:
  template <class Config>
  void FromJsonText(HostResult<Config> (*parse)(const std::string&), Config& config) {
    std::string text;
    Field(text);
    if (!good_) return;
    HostResult<Config> parsed = parse(text);
    if (!parsed) return Fail();
    config = std::move(*parsed);
  }
  void Fail() {
    good_ = false;
    in_ = {};
  }
  uint64_t Word() {
    uint64_t value = 0;
    if (in_.size() < sizeof value) return Fail(), 0;
    memcpy(&value, in_.data(), sizeof value);
    in_.remove_prefix(sizeof value);
    return value;
  }
  uint64_t Count() {
    const uint64_t count = Word();
    if (count > kMaxElements) Fail();
    return good_ ? count : 0;
  }

  std::string_view in_;
  bool good_ = true;
};

template <class Visitor>
void Visit(Visitor&, ListRequest&) {}
template <class Visitor>
void Visit(Visitor&, DoneReply&) {}
template <class Visitor>
void Visit(Visitor& v, ExecRequest& m) {
  v.Field(m.container);
  v.Field(m.process);
  v.Field(m.user);
  v.Field(m.has_cwd);
}
template <class Visitor>
void Visit(Visitor& v, WaitRequest& m) {
  v.Field(m.container);
  v.Field(m.exec);
}
template <class Visitor>
void Visit(Visitor& v, SignalRequest& m) {
  v.Field(m.container);
  v.Field(m.exec);
  v.Field(m.signo);
}
template <class Visitor>
void Visit(Visitor& v, WindowRequest& m) {
  v.Field(m.container);
  v.Field(m.exec);
  v.Field(m.rows);
  v.Field(m.columns);
}
template <class Visitor>
void Visit(Visitor& v, ReleaseRequest& m) {
  v.Field(m.container);
}
template <class Visitor>
void Visit(Visitor& v, EndRequest& m) {
  v.Field(m.container);
}
template <class Visitor>
void Visit(Visitor& v, StartContainerRequest& m) {
  v.Field(m.container);
  v.Field(m.process);
}
template <class Visitor>
void Visit(Visitor& v, ErrorReply& m) {
  v.Field(m.code);
  v.Field(m.text);
}
template <class Visitor>
void Visit(Visitor& v, ContainerEntry& m) {
  v.Field(m.id);
  v.Field(m.running);
  v.Field(m.status);
  v.Field(m.execs);
}
template <class Visitor>
void Visit(Visitor& v, ListReply& m) {
  v.Objects(m.containers);
}
template <class Visitor>
void Visit(Visitor& v, ExecReply& m) {
  v.Field(m.exec);
}
template <class Visitor>
void Visit(Visitor& v, ExitReply& m) {
  v.Field(m.status);
  v.Field(m.text);
}

template <class Variant>
std::string Encode(const Variant& message) {
  Packer packer;
  std::visit([&](auto& m) { Visit(packer, m); }, const_cast<Variant&>(message));
  return packer.Take();
}

// The alternative of this number, from `body`.
template <class Variant, size_t kIndex = 0>
Result<Variant> Decode(uint32_t kind, std::string_view body) {
  if constexpr (kIndex < std::variant_size_v<Variant>) {
    if (kind != kIndex) return Decode<Variant, kIndex + 1>(kind, body);
    std::variant_alternative_t<kIndex, Variant> message;
    Unpacker unpacker(body);
    Visit(unpacker, message);
    if (!unpacker.AllTaken()) return Fail(EPROTO);
    return Variant(std::in_place_index<kIndex>, std::move(message));
  } else {
    return Fail(EPROTO);
  }
}

Result<void> Send(int socket, uint64_t id, uint32_t kind, const std::string& body,
                  const std::vector<int>& fds) {
  Header header = {kMagic, kind, id, static_cast<uint32_t>(body.size()), 0};
  std::vector<int> lent = fds;
  OwnedFd file;
  if (body.size() > kBodyMax) return Fail(E2BIG);
  if (body.size() > kInlineMax) {
    file = TRY(host::MemfdCreate("skep-message", MFD_CLOEXEC));
    TRY(host::WriteAll(file.get(), std::as_bytes(std::span(body))));
    lent.insert(lent.begin(), file.get());
    header.in_file = 1;
  }
  const std::array<iovec, 2> parts = {
      iovec{&header, sizeof header},
      iovec{const_cast<char*>(body.data()), header.in_file != 0 ? 0 : body.size()}};
  TRY(host::SendMsg(socket, parts, lent, MSG_NOSIGNAL | MSG_DONTWAIT));
  return {};
}

struct Raw {
  uint32_t kind = 0;
  uint64_t id = 0;
  std::string body;
  std::vector<OwnedFd> fds;
};

Result<std::string> ReadBody(int fd, uint32_t size) {
  std::string body(size, '\0');
  for (size_t at = 0; at < size;) {
    const size_t n = TRY(host::PRead(fd, std::as_writable_bytes(std::span(body)).subspan(at), at));
    if (n == 0) return Fail(EPROTO);
    at += n;
  }
  return body;
}

Result<Raw> Receive(int socket) {
  Header header = {};
  std::string body(kInlineMax, '\0');
  const std::array<iovec, 2> parts = {iovec{&header, sizeof header},
                                      iovec{body.data(), body.size()}};
  std::array<OwnedFd, kMaxPacketFds> fds;
  const host::Received got = TRY(host::RecvMsg(socket, parts, fds, 0));
  if (got.size == 0) return Fail(ECONNRESET);
  if (got.truncated || got.size < sizeof header || header.magic != kMagic ||
      header.size > kBodyMax) {
    return Fail(EPROTO);
  }
  Raw raw{header.kind, header.id, {}, {}};
  for (OwnedFd& fd : fds) {
    if (fd) raw.fds.push_back(std::move(fd));
  }
  if (header.in_file == 0) {
    if (got.size - sizeof header != header.size) return Fail(EPROTO);
    body.resize(header.size);
    raw.body = std::move(body);
    return raw;
  }
  if (raw.fds.empty()) return Fail(EPROTO);
  raw.body = TRY(ReadBody(raw.fds.front().get(), header.size));
  raw.fds.erase(raw.fds.begin());
  return raw;
}

}  // namespace

std::string EncodeRequest(const Request& request) { return Encode(request); }
Result<Request> DecodeRequest(uint32_t kind, std::string_view body) {
  return Decode<Request>(kind, body);
}
std::string EncodeReply(const Reply& reply) { return Encode(reply); }
Result<Reply> DecodeReply(uint32_t kind, std::string_view body) {
  return Decode<Reply>(kind, body);
}

Result<void> SendRequest(int socket, uint64_t id, const Request& request,
                         const std::vector<int>& fds) {
  return Send(socket, id, static_cast<uint32_t>(request.index()), Encode(request), fds);
}

Result<void> SendReply(int socket, uint64_t id, const Reply& reply) {
  return Send(socket, id, static_cast<uint32_t>(reply.index()), Encode(reply), {});
}

Result<Packet<Request>> ReceiveRequest(int socket) {
  Raw raw = TRY(Receive(socket));
  Request request = TRY(DecodeRequest(raw.kind, raw.body));
  return Packet<Request>{raw.id, std::move(request), std::move(raw.fds)};
}

Result<Packet<Reply>> ReceiveReply(int socket) {
  Raw raw = TRY(Receive(socket));
  Reply reply = TRY(DecodeReply(raw.kind, raw.body));
  return Packet<Reply>{raw.id, std::move(reply), std::move(raw.fds)};
}

}  // namespace skep::boot
