// When packets really reached a device, before this process woke up to read them.
//
// A sleeping reader is woken tens of microseconds late, and TUN keeps no timestamps. So a small eBPF program, run by the kernel
// as each packet enters a device (TUNSETFILTEREBPF), notes the time in a shared table under a hash of the packet's first
// octets; the reader looks it up by the same hash. Where eBPF is not allowed, the time of reading stands in.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wan {

class ArrivalClock {
 public:
  ArrivalClock();
  ~ArrivalClock();
  ArrivalClock(const ArrivalClock&) = delete;
  ArrivalClock& operator=(const ArrivalClock&) = delete;

  bool available() const { return stamps_ != nullptr; }

  // Has the kernel stamp what enters the TUN device.
  void attach(int tunFd) const;

  // CLOCK_MONOTONIC of the arrival of `packet`, which was read at `readNs`; `readNs` when it is not known.
  int64_t arrivalNs(const uint8_t* packet, size_t length, int64_t readNs) const;

 private:
  struct Stamp {
    volatile uint64_t hash;
    volatile uint64_t arrivedNs;
  };

  int program_ = -1;
  Stamp* stamps_ = nullptr;
};

}  // namespace wan
