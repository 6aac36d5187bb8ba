// What the emulator reads of a packet: enough to name its flow, and the ICMP errors it answers with. Bytes only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

namespace wan {

struct FlowKey {
  // IPv4 addresses are in the first four octets, the rest zero.
  std::array<uint8_t, 16> source{};
  std::array<uint8_t, 16> destination{};
  // Ports of TCP and UDP. For an ICMP echo the source port is its identifier.
  uint16_t sourcePort = 0;
  uint16_t destinationPort = 0;
  // 4 or 6; 0 when it is not IP.
  uint8_t family = 0;
  uint8_t protocol = 0;
  uint8_t dscp = 0;
  // ICMP and ICMPv6 only, else 0.
  uint8_t icmpType = 0;

  bool operator==(const FlowKey& other) const { return std::memcmp(this, &other, sizeof *this) == 0; }

  bool isIcmp() const { return family == 4 ? protocol == 1 : family == 6 && protocol == 58; }
};
static_assert(sizeof(FlowKey) == 40, "compared and hashed as octets: no padding");

enum class TcpKind : uint8_t { other, syn, synAck };

struct PacketInfo {
  FlowKey flow;
  TcpKind tcp = TcpKind::other;
};

// Never reads outside `length`; what cannot be read (fragments after the first, cut headers) stays zero.
PacketInfo readPacket(const uint8_t* packet, size_t length);

struct Addresses {
  std::optional<std::array<uint8_t, 4>> ipv4;
  std::optional<std::array<uint8_t, 16>> ipv6;
};

constexpr size_t kMaxTooBigBytes = 1280;

// ICMP "fragmentation needed" (RFC 1191) or ICMPv6 "packet too big" (RFC 4443) for `packet`, from `source`, into `out`
// (kMaxTooBigBytes). 0 when none may be sent: no address of that family, an ICMP error, a later fragment, a group.
size_t makeTooBig(const uint8_t* packet, size_t length, uint32_t mtuBytes, const Addresses& source, uint8_t* out);

}  // namespace wan
