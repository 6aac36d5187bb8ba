#include "capture.hpp"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "emulator.hpp"
#include "json.hpp"

namespace wan {
namespace {

// draft-ietf-opsawg-pcapng, in this machine's byte order, as the magic number tells.
constexpr uint32_t kSectionHeader = 0x0a0d0d0a;
constexpr uint32_t kByteOrderMagic = 0x1a2b3c4d;
constexpr uint32_t kInterfaceDescription = 1;
constexpr uint32_t kEnhancedPacket = 6;
constexpr uint16_t kLinkTypeRaw = 101;
constexpr uint16_t kOptionName = 2;
constexpr uint16_t kOptionTimeResolution = 9;
constexpr size_t kEnhancedPacketBytes = 32;

constexpr size_t padded(size_t bytes) { return (bytes + 3) & ~size_t{3}; }

template <typename T>
void append(std::vector<uint8_t>& out, T value) {
  const size_t at = out.size();
  out.resize(at + sizeof value);
  std::memcpy(out.data() + at, &value, sizeof value);
}

void appendPadded(std::vector<uint8_t>& out, const void* data, size_t bytes) {
  const size_t at = out.size();
  out.resize(at + padded(bytes));
  std::memcpy(out.data() + at, data, bytes);
}

void appendSectionHeader(std::vector<uint8_t>& out) {
  append<uint32_t>(out, kSectionHeader);
  append<uint32_t>(out, 28);
  append<uint32_t>(out, kByteOrderMagic);
  append<uint16_t>(out, 1);
  append<uint16_t>(out, 0);
  append<int64_t>(out, -1);
  append<uint32_t>(out, 28);
}

void appendInterface(std::vector<uint8_t>& out, const std::string& name) {
  const auto bytes = static_cast<uint32_t>(20 + 4 + padded(name.size()) + 8 + 4);
  append<uint32_t>(out, kInterfaceDescription);
  append<uint32_t>(out, bytes);
  append<uint16_t>(out, kLinkTypeRaw);
  append<uint16_t>(out, 0);
  append<uint32_t>(out, Capture::kSnapBytes);
  append<uint16_t>(out, kOptionName);
  append<uint16_t>(out, static_cast<uint16_t>(name.size()));
  appendPadded(out, name.data(), name.size());
  append<uint16_t>(out, kOptionTimeResolution);
  append<uint16_t>(out, 1);
  const uint8_t nanoseconds = 9;
  appendPadded(out, &nanoseconds, 1);
  append<uint32_t>(out, 0);  // end of options
  append<uint32_t>(out, bytes);
}

int64_t wallNs() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

Capture::Capture(const std::string& path, uint64_t maxBytes, const std::vector<std::string>& linkNames,
                 const std::vector<uint32_t>& linkNumbers)
    : wallMinusMonoNs_(wallNs() - monotonicNs()), bytesLeft_(maxBytes) {
  fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd_ < 0) throw InvalidRequest("file: " + path + ": " + std::strerror(errno));
  buffer_.reserve(kBufferBytes);
  appendSectionHeader(buffer_);
  uint32_t interfaces = 0;
  for (size_t i = 0; i < linkNames.size(); i += 1) {
    if (firstInterface_.size() <= linkNumbers[i]) firstInterface_.resize(linkNumbers[i] + 1, kNotCaptured);
    firstInterface_[linkNumbers[i]] = interfaces;
    for (const char* direction : kDirectionNames) {
      appendInterface(buffer_, linkNames[i] + ' ' + direction + " in");
      appendInterface(buffer_, linkNames[i] + ' ' + direction + " out");
    }
    interfaces += 4;
  }
}

Capture::~Capture() {
  if (fd_ >= 0) finish();
}

void Capture::record(uint32_t linkNumber, int direction, CapturePoint point, int64_t monoNs, const uint8_t* packet,
                     size_t bytes) {
  if (linkNumber >= firstInterface_.size() || firstInterface_[linkNumber] == kNotCaptured) return;
  const size_t kept = std::min(bytes, kSnapBytes);
  const size_t blockBytes = kEnhancedPacketBytes + padded(kept);
  if (blockBytes > bytesLeft_) {
    result_.missed += 1;
    return;
  }
  if (buffer_.size() + blockBytes > kBufferBytes) flush();
  bytesLeft_ -= blockBytes;
  const auto ns = static_cast<uint64_t>(monoNs + wallMinusMonoNs_);
  append<uint32_t>(buffer_, kEnhancedPacket);
  append<uint32_t>(buffer_, static_cast<uint32_t>(blockBytes));
  append<uint32_t>(buffer_, firstInterface_[linkNumber] + static_cast<uint32_t>(direction) * 2 +
                                (point == CapturePoint::out ? 1 : 0));
  append<uint32_t>(buffer_, static_cast<uint32_t>(ns >> 32));
  append<uint32_t>(buffer_, static_cast<uint32_t>(ns));
  append<uint32_t>(buffer_, static_cast<uint32_t>(kept));
  append<uint32_t>(buffer_, static_cast<uint32_t>(bytes));
  appendPadded(buffer_, packet, kept);
  append<uint32_t>(buffer_, static_cast<uint32_t>(blockBytes));
  buffered_ += 1;
}

void Capture::forget(uint32_t linkNumber) {
  if (linkNumber < firstInterface_.size()) firstInterface_[linkNumber] = kNotCaptured;
}

void Capture::flush() {
  size_t at = 0;
  while (at < buffer_.size()) {
    const ssize_t wrote = write(fd_, buffer_.data() + at, buffer_.size() - at);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) break;
    at += static_cast<size_t>(wrote);
  }
  if (at < buffer_.size()) {
    // A block may be cut: nothing can follow it.
    bytesLeft_ = 0;
    result_.missed += buffered_;
  } else {
    result_.packets += buffered_;
  }
  buffered_ = 0;
  buffer_.clear();
}

Capture::Result Capture::finish() {
  flush();
  close(fd_);
  fd_ = -1;
  return result_;
}

}  // namespace wan
