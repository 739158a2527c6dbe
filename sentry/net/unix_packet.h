// A message in an AF_UNIX socket's queue (Linux: an sk_buff with its unix_skb_parms).
#pragma once

#include <cstddef>
#include <memory>

#include "sentry/net/unix_endpoint.h"

namespace skep::net {

struct UnixEndpoint::Packet {
  Packet(Ref<UnixEndpoint> from, size_t bytes);
  ~Packet();
  Packet(const Packet&) = delete;
  Packet& operator=(const Packet&) = delete;

  size_t left() const { return size - offset; }
  std::span<const std::byte> unread() const { return {data.get() + offset, left()}; }
  void DropFiles();  // they have been delivered

  const Ref<UnixEndpoint> sender;
  const size_t size;
  const size_t charge;  // to the sender's buffer
  size_t offset = 0;    // of a stream: what was read
  InFlightLoad in_flight;
  std::unique_ptr<std::byte[]> data;
  Control control;
};

}  // namespace skep::net
