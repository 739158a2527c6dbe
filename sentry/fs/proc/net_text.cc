// /proc/<pid>/net: the headers of the tables of a network that has a loopback only.
#include <iterator>

#include "sentry/fs/proc/process.h"

namespace skep::fs {
namespace {

struct NetFile {
  std::string_view name, text;
};

constexpr NetFile kFiles[] = {
    {"arp", "IP address       HW type     Flags       HW address            Mask     Device\n"},
    {"dev",
     "Inter-|   Receive                                                |  Transmit\n"
     " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs "
     "drop fifo colls carrier compressed\n"
     "    lo:       0       0    0    0    0     0          0         0        0       0    0    "
     "0    0     0       0          0\n"},
    {"if_inet6", ""},
    {"ipv6_route", ""},
    {"netlink",
     "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"},
    {"packet", "sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n"},
    {"protocols",
     "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs "
     "se re bi br ha uh gp em\n"},
    {"raw",
     "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
     "inode ref pointer drops\n"},
    {"route",
     "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT        "
     "                                               \n"},
    {"tcp",
     "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
     "inode                                                     \n"},
    {"tcp6",
     "  sl  local_address                         remote_address                        st "
     "tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"},
    {"udp",
     "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
     "inode ref pointer drops             \n"},
    {"udp6",
     "  sl  local_address                         remote_address                        st "
     "tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"},
    {"unix", "Num       RefCount Protocol Flags    Type St Inode Path\n"},
};

class NetText final : public OfSubject<PseudoFile> {
 public:
  NetText(const Subject& subject, ProcFs& fs, uint64_t ino, std::string_view text)
      : OfSubject(subject, fs, ino, uint32_t{S_IFREG | 0444}), text_(text) {}
  Result<std::string> Text(vfs::Caller&, const vfs::File&) override { return std::string(text_); }

 private:
  const std::string_view text_;  // of a constant
};

class NetDirectory final : public OfSubject<PseudoDirectory> {
 public:
  NetDirectory(const Subject& subject, ProcFs& fs, uint64_t ino)
      : OfSubject(subject, fs, ino, uint32_t{S_IFDIR | 0555}), proc_(fs) {}

  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override {
    for (size_t i = 0; i < std::size(kFiles); ++i) {
      if (kFiles[i].name != name) continue;
      return Ref<vfs::Inode>(MakeRef<NetText>(subject(), proc_, InoOf(i), kFiles[i].text));
    }
    return Fail(ENOENT);
  }

  void List(uint64_t after, size_t max, std::vector<Entry>& to) override {
    for (size_t i = 0; i < std::size(kFiles) && to.size() < max; ++i) {
      const uint64_t cookie = vfs::kFirstEntryCookie + i;
      if (cookie <= after) continue;
      to.push_back({.cookie = cookie,
                    .name = std::string(kFiles[i].name),
                    .ino = InoOf(i),
                    .type = S_IFREG});
    }
  }

 private:
  static constexpr uint32_t kFirstIndex = 220;  // after those of ns/
  uint64_t InoOf(size_t i) const {
    return TaskIno(subject(), kFirstIndex + static_cast<uint32_t>(i));
  }
  ProcFs& proc_;
};

}  // namespace

Ref<PseudoInode> MakeNetDirectory(ProcFs& fs, const Subject& subject, uint64_t ino) {
  return MakeRef<NetDirectory>(subject, fs, ino);
}

}  // namespace skep::fs
