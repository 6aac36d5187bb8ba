#include "packet.hpp"

#include <algorithm>

namespace wan {
namespace {

constexpr uint8_t kIcmp = 1;
constexpr uint8_t kTcp = 6;
constexpr uint8_t kUdp = 17;
constexpr uint8_t kIcmpV6 = 58;
constexpr int kMaxExtensionHeaders = 8;

uint16_t load16(const uint8_t* at) { return static_cast<uint16_t>(at[0] << 8 | at[1]); }

void store16(uint8_t* at, size_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}

void store32(uint8_t* at, uint32_t value) {
  store16(at, value >> 16);
  store16(at + 2, value & 0xffff);
}

bool isEcho(uint8_t protocol, uint8_t type) {
  return protocol == kIcmp ? type == 0 || type == 8 : type == 128 || type == 129;
}

void readTransport(PacketInfo& info, const uint8_t* at, size_t length) {
  FlowKey& flow = info.flow;
  if (flow.protocol == kTcp || flow.protocol == kUdp) {
    if (length < 4) return;
    flow.sourcePort = load16(at);
    flow.destinationPort = load16(at + 2);
    if (flow.protocol == kTcp && length >= 14) {
      const uint8_t flags = at[13] & 0x17;  // ACK, RST, SYN, FIN
      if (flags == 0x02) info.tcp = TcpKind::syn;
      if (flags == 0x12) info.tcp = TcpKind::synAck;
    }
  } else if (flow.isIcmp() && length >= 1) {
    flow.icmpType = at[0];
    if (length >= 6 && isEcho(flow.protocol, at[0])) flow.sourcePort = load16(at + 4);
  }
}

void readIpv4(PacketInfo& info, const uint8_t* packet, size_t length) {
  const size_t headerBytes = (packet[0] & 0xfu) * 4;
  if (length < 20 || headerBytes < 20 || headerBytes > length) return;
  FlowKey& flow = info.flow;
  flow.family = 4;
  flow.dscp = packet[1] >> 2;
  flow.protocol = packet[9];
  std::memcpy(flow.source.data(), packet + 12, 4);
  std::memcpy(flow.destination.data(), packet + 16, 4);
  const bool laterFragment = (load16(packet + 6) & 0x1fff) != 0;
  if (!laterFragment) readTransport(info, packet + headerBytes, length - headerBytes);
}

void readIpv6(PacketInfo& info, const uint8_t* packet, size_t length) {
  if (length < 40) return;
  FlowKey& flow = info.flow;
  flow.family = 6;
  flow.dscp = static_cast<uint8_t>((packet[0] & 0xf) << 2 | packet[1] >> 6);
  std::memcpy(flow.source.data(), packet + 8, 16);
  std::memcpy(flow.destination.data(), packet + 24, 16);
  uint8_t next = packet[6];
  size_t at = 40;
  for (int i = 0; i < kMaxExtensionHeaders; i += 1) {
    const bool isOption = next == 0 || next == 43 || next == 60;  // hop-by-hop, routing, destination options
    const bool isFragment = next == 44;
    if ((!isOption && !isFragment) || at + 8 > length) break;
    const bool laterFragment = isFragment && (load16(packet + at + 2) & 0xfff8) != 0;
    next = packet[at];
    at += isFragment ? 8 : 8 + packet[at + 1] * 8u;
    if (laterFragment || at > length) {
      flow.protocol = next;
      return;
    }
  }
  flow.protocol = next;
  readTransport(info, packet + at, length - at);
}

// RFC 1071 over `length` octets, on top of `sum`.
uint32_t addChecksum(uint32_t sum, const uint8_t* at, size_t length) {
  for (; length > 1; at += 2, length -= 2) sum += load16(at);
  return length == 1 ? sum + (static_cast<uint32_t>(at[0]) << 8) : sum;
}

uint16_t foldChecksum(uint32_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

bool isIcmpError(const FlowKey& flow) {
  if (flow.family == 6) return flow.protocol == kIcmpV6 && flow.icmpType < 128;
  const uint8_t type = flow.icmpType;
  return flow.protocol == kIcmp && (type == 3 || type == 4 || type == 5 || type == 11 || type == 12);
}

size_t makeTooBigV4(const uint8_t* packet, size_t length, uint32_t mtuBytes, const std::array<uint8_t, 4>& source,
                    uint8_t* out) {
  if ((load16(packet + 6) & 0x1fff) != 0 || packet[16] >= 224) return 0;
  const size_t quoted = std::min(length, size_t{576} - 28);  // RFC 1812, 4.3.2.3
  const size_t total = 28 + quoted;
  std::memset(out, 0, 28);
  out[0] = 0x45;
  out[1] = 0xc0;  // CS6, as routers send their errors
  store16(out + 2, total);
  out[8] = 64;
  out[9] = kIcmp;
  std::memcpy(out + 12, source.data(), 4);
  std::memcpy(out + 16, packet + 12, 4);
  store16(out + 10, foldChecksum(addChecksum(0, out, 20)));
  out[20] = 3;
  out[21] = 4;
  store16(out + 26, mtuBytes);
  std::memcpy(out + 28, packet, quoted);
  store16(out + 22, foldChecksum(addChecksum(0, out + 20, 8 + quoted)));
  return total;
}

size_t makeTooBigV6(const uint8_t* packet, size_t length, uint32_t mtuBytes, const std::array<uint8_t, 16>& source,
                    uint8_t* out) {
  if (packet[24] == 0xff) return 0;
  const size_t quoted = std::min(length, kMaxTooBigBytes - 48);
  const size_t payload = 8 + quoted;
  std::memset(out, 0, 48);
  out[0] = 0x6c;  // CS6
  store16(out + 4, payload);
  out[6] = kIcmpV6;
  out[7] = 64;
  std::memcpy(out + 8, source.data(), 16);
  std::memcpy(out + 24, packet + 8, 16);
  out[40] = 2;
  store32(out + 44, mtuBytes);
  std::memcpy(out + 48, packet, quoted);
  const uint32_t pseudoHeader = static_cast<uint32_t>(payload) + kIcmpV6;
  store16(out + 42, foldChecksum(addChecksum(addChecksum(pseudoHeader, out + 8, 32), out + 40, payload)));
  return 48 + quoted;
}

}  // namespace

PacketInfo readPacket(const uint8_t* packet, size_t length) {
  PacketInfo info;
  if (length == 0) return info;
  if (packet[0] >> 4 == 4) readIpv4(info, packet, length);
  if (packet[0] >> 4 == 6) readIpv6(info, packet, length);
  return info;
}

size_t makeTooBig(const uint8_t* packet, size_t length, uint32_t mtuBytes, const Addresses& source, uint8_t* out) {
  const FlowKey flow = readPacket(packet, length).flow;
  if (isIcmpError(flow)) return 0;
  if (flow.family == 4 && source.ipv4) return makeTooBigV4(packet, length, mtuBytes, *source.ipv4, out);
  if (flow.family == 6 && source.ipv6) return makeTooBigV6(packet, length, mtuBytes, *source.ipv6, out);
  return 0;
}

}  // namespace wan
