// One end of a link: a TUN device inside a network namespace. The namespace routes into it; the emulator reads and writes.
//
// The device carries virtio-net headers (IFF_VNET_HDR) without offering any offload, for one reason: a header that cannot
// be is how a written packet raises the device's frame error counter, as a spoilt frame does on a real interface.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace wan {

struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Octets in front of every packet read or written.
constexpr size_t kVnetHeaderBytes = 10;

class TunDevice {
 public:
  // Creates `device` in the namespace /run/netns/`netns`; it vanishes with this object. Throws DeviceError.
  TunDevice(const std::string& netns, const std::string& device);
  ~TunDevice();
  TunDevice(const TunDevice&) = delete;
  TunDevice& operator=(const TunDevice&) = delete;

  int fd() const { return fd_; }

  // Takes the operational state down or up, where the kernel can.
  void setCarrier(bool up);

  // Packets the kernel gave up before they could be read (the device's queue was full), since the last reset.
  uint64_t droppedBeforeRead();
  void resetDropped();

 private:
  uint64_t readTxDropped();

  int fd_ = -1;
  // rtnetlink of the device's namespace.
  int netlink_ = -1;
  int index_ = 0;
  uint64_t droppedBase_ = 0;
  uint64_t droppedLatest_ = 0;
};

}  // namespace wan
