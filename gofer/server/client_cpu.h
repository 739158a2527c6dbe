// ClientCpu: the gofer runs where its client waits. A wake-up on the same CPU is a switch of a few
// microseconds; one of another CPU that sleeps costs 50 to 100 us on cloud machines.
//
// The client's word is a hint: the thread is pinned to a CPU that it may run on, or stays as it is.
#pragma once

#include <cstdint>

namespace skep::gofer {

class ClientCpu {
 public:
  // A request has come from there (RequestHeader::cpu). Moves the calling thread once several in a
  // row came from another CPU: clients on several CPUs do not send it to and fro.
  void Follow(uint16_t cpu_plus_1);
  // For tests: where the thread is pinned, as the header has it; 0: nowhere.
  uint16_t pinned() const { return pinned_; }

 private:
  static constexpr int kMessagesBeforeMove = 4;

  uint16_t pinned_ = 0;
  uint16_t candidate_ = 0;
  int in_a_row_ = 0;
};

}  // namespace skep::gofer
