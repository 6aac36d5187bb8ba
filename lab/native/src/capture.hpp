// A capture of what enters and leaves links, as a pcapng file that Wireshark and tshark read.
//
// Two interfaces for each link and direction: `in` holds packets as they arrived, `out` what was written to the far end, copies
// included. What is on `in` and never on `out` was dropped. Times are nanoseconds of the wall clock, taken once at the start
// plus monotonic time, so that differences between any two packets of a file are exact.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace wan {

enum class CapturePoint : uint8_t { in, out };

class Capture {
 public:
  // Octets kept of each packet: every header and the first part of the payload.
  static constexpr size_t kSnapBytes = 160;

  struct Result {
    uint64_t packets = 0;
    // Beyond the bound, or not taken by the file system.
    uint64_t missed = 0;
  };

  // Throws InvalidRequest when the file cannot be made. Links that come later are not captured.
  Capture(const std::string& path, uint64_t maxBytes, const std::vector<std::string>& linkNames,
          const std::vector<uint32_t>& linkNumbers);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  void record(uint32_t linkNumber, int direction, CapturePoint point, int64_t monoNs, const uint8_t* packet,
              size_t bytes);
  // A link that is gone takes its number with it.
  void forget(uint32_t linkNumber);
  // Writes what is left; the file is whole afterwards.
  Result finish();

 private:
  static constexpr size_t kBufferBytes = 1 << 20;

  void flush();

  int fd_ = -1;
  int64_t wallMinusMonoNs_ = 0;
  uint64_t bytesLeft_;
  // By link number; kNotCaptured for the others.
  static constexpr uint32_t kNotCaptured = UINT32_MAX;
  std::vector<uint32_t> firstInterface_;
  std::vector<uint8_t> buffer_;
  // What waits in the buffer.
  uint64_t buffered_ = 0;
  Result result_;
};

}  // namespace wan
