/**
 * The octets of probes and answers: ICMP echo (RFC 792, RFC 4443) with the payload of `src/packet/icmp.ts`, and STAMP
 * (RFC 8762) as in `src/packet/stamp.ts`. The cookie is that of `src/packet/cookie.ts`.
 */
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "clock.hpp"
#include "hmac.hpp"

namespace wanscope {

inline uint16_t get16(const uint8_t* at) { return static_cast<uint16_t>(at[0] << 8 | at[1]); }
inline uint32_t get32(const uint8_t* at) { return uint32_t{get16(at)} << 16 | get16(at + 2); }
inline uint64_t get64(const uint8_t* at) { return uint64_t{get32(at)} << 32 | get32(at + 4); }
inline void put16(uint8_t* at, uint32_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}
inline void put32(uint8_t* at, uint32_t value) {
  put16(at, value >> 16);
  put16(at + 2, value);
}

struct Token {
  uint32_t high;
  uint32_t low;
};

/** SipHash-2-4 with a key of this process over (session, sequence number) and a time. */
class Cookie {
 public:
  explicit Cookie(const uint8_t* key) {
    std::memcpy(&k0_, key, 8);
    std::memcpy(&k1_, key + 8, 8);
  }

  Token compute(uint32_t session, uint32_t seq, uint32_t timeHigh, uint32_t timeLow) const {
    uint64_t v[4] = {0x736f6d6570736575 ^ k0_, 0x646f72616e646f6d ^ k1_, 0x6c7967656e657261 ^ k0_,
                     0x7465646279746573 ^ k1_};
    absorb(v, uint64_t{seq} << 32 | session);
    absorb(v, uint64_t{timeLow} << 32 | timeHigh);
    absorb(v, uint64_t{16} << 56);
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i += 1) round(v);
    const uint64_t hash = v[0] ^ v[1] ^ v[2] ^ v[3];
    return {__builtin_bswap32(static_cast<uint32_t>(hash)), __builtin_bswap32(static_cast<uint32_t>(hash >> 32))};
  }

 private:
  static uint64_t rotate(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }
  static void round(uint64_t* v) {
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
  }
  static void absorb(uint64_t* v, uint64_t word) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
  }

  uint64_t k0_;
  uint64_t k1_;
};

constexpr size_t kEchoBytes = 36;
constexpr size_t kStampBytes = 44;
/** The answer of a TWAMP-Light reflector, and the least that has the sender's number and T1. */
constexpr size_t kTwampLightBytes = 41;
constexpr size_t kShortStampBytes = 36;
/** With an HMAC over all of it before. */
constexpr size_t kAuthenticatedBytes = 112;
constexpr size_t kHmacAt = kAuthenticatedBytes - Hmac::kBytes;
constexpr uint32_t kMagic = 0x57414e53;
constexpr uint32_t kT1HashMask = 0xfff;
constexpr int64_t kNtpUnixOffsetS = 2'208'988'800;
/** TAI less UTC since 2017. */
constexpr int64_t kTaiAheadS = 37;

inline uint64_t ntpOf(int64_t wallNs) {
  const int64_t seconds = wallNs / 1'000'000'000;
  const uint64_t fraction = (static_cast<uint64_t>(wallNs % 1'000'000'000) << 32) / 1'000'000'000;
  return static_cast<uint64_t>(seconds + kNtpUnixOffsetS) << 32 | fraction;
}

/**
 * Nanoseconds since 1970 of a timestamp in the format that its error estimate names: NTP (seconds since 1900 and their
 * fraction), or the truncated one of PTP (seconds since 1970 and nanoseconds), whose seconds are TAI's.
 */
inline int64_t wallNsOf(uint64_t timestamp, uint16_t errorEstimate) {
  const auto seconds = static_cast<int64_t>(timestamp >> 32);
  const auto rest = static_cast<uint32_t>(timestamp);
  if ((errorEstimate & kPtpFormat) != 0) return (seconds - kTaiAheadS) * 1'000'000'000 + rest;
  // NTP's seconds begin anew in 2036.
  const int64_t era = seconds < kNtpUnixOffsetS ? int64_t{1} << 32 : 0;
  return (seconds + era - kNtpUnixOffsetS) * 1'000'000'000 + static_cast<int64_t>((uint64_t{rest} * 1'000'000'000) >> 32);
}

inline uint32_t foldSum(uint32_t sum) {
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

/** Two octets after an echo's head that keep its checksum what the flow wants. */
constexpr size_t kBalancedEchoBytes = kEchoBytes + 2;

/**
 * Writes the head of an echo request; what follows it is zeros. Version 6 leaves the checksum to the system. With a
 * `checksum` other than 0, kBalancedEchoBytes are written and the checksum is that one (in version 6: always the same), so
 * that routers which choose among equal ways by it send all probes of the stream the same way.
 */
inline Token writeEcho(uint8_t* head, bool v6, uint16_t identifier, uint32_t session, uint32_t seq, int64_t timeNs,
                       uint16_t checksum, const Cookie& cookie) {
  const auto timeHigh = static_cast<uint32_t>(timeNs >> 32);
  const auto timeLow = static_cast<uint32_t>(timeNs);
  const Token token = cookie.compute(session, seq, timeHigh, timeLow);
  head[0] = v6 ? 128 : 8;
  head[1] = 0;
  put16(head + 2, 0);
  put16(head + 4, identifier);
  put16(head + 6, seq & 0xffff);
  put32(head + 8, kMagic);
  put32(head + 12, session);
  put32(head + 16, seq);
  put32(head + 20, timeHigh);
  put32(head + 24, timeLow);
  put32(head + 28, token.high);
  put32(head + 32, token.low);
  if (v6 && checksum == 0) return token;
  uint32_t sum = 0;
  for (size_t at = 0; at < kEchoBytes; at += 2) sum += get16(head + at);
  sum = foldSum(sum);
  if (checksum != 0) {
    const uint32_t wanted = ~checksum & 0xffffU;
    put16(head + kEchoBytes, foldSum(wanted + (~sum & 0xffff)));
    sum = wanted;
  }
  if (!v6) put16(head + 2, ~sum & 0xffff);
  return token;
}

/** T1's low half with its lowest bits replaced by a keyed hash of everything else. */
inline uint32_t markT1(uint32_t session, uint32_t seq, uint32_t high, uint32_t low, const Cookie& cookie) {
  const uint32_t time = low & ~kT1HashMask;
  return time | (cookie.compute(session, seq, high, time).low & kT1HashMask);
}

inline Token writeStamp(uint8_t* head, uint32_t session, uint16_t ssid, uint32_t seq, int64_t wallNs,
                        uint16_t errorEstimate, const Cookie& cookie) {
  const uint64_t t1 = ntpOf(wallNs);
  const auto high = static_cast<uint32_t>(t1 >> 32);
  const uint32_t low = markT1(session, seq, high, static_cast<uint32_t>(t1), cookie);
  put32(head, seq);
  put32(head + 4, high);
  put32(head + 8, low);
  put16(head + 12, errorEstimate);
  put16(head + 14, ssid);
  std::memset(head + 16, 0, kStampBytes - 16);
  return {high, low};
}

/** The same in the authenticated mode, as in `src/packet/stamp-auth.ts`. */
inline Token writeAuthenticatedStamp(uint8_t* head, uint32_t session, uint16_t ssid, uint32_t seq, int64_t wallNs,
                                     uint16_t errorEstimate, const Cookie& cookie, const Hmac& hmac) {
  const uint64_t t1 = ntpOf(wallNs);
  const auto high = static_cast<uint32_t>(t1 >> 32);
  const uint32_t low = markT1(session, seq, high, static_cast<uint32_t>(t1), cookie);
  std::memset(head, 0, kAuthenticatedBytes);
  put32(head, seq);
  put32(head + 16, high);
  put32(head + 20, low);
  put16(head + 24, errorEstimate);
  put16(head + 26, ssid);
  hmac.sign(head, kHmacAt, head + kHmacAt);
  return {high, low};
}

/** Where the fields of a reflector's packet are in each mode. */
struct StampLayout {
  size_t least, t3, estimate, ssid, t2, senderSeq, t1;
};
constexpr StampLayout kOpenLayout{kShortStampBytes, 4, 12, 14, 16, 24, 28};
constexpr StampLayout kAuthenticatedLayout{kAuthenticatedBytes, 16, 24, 26, 32, 48, 64};

/** Class of service, direct measurement, extra padding and HMAC of what is before it (RFC 8972 sections 4.4, 4.5, 4.1 and 4.8). */
constexpr size_t kTlvHeaderBytes = 4;
constexpr size_t kClassBytes = kTlvHeaderBytes + 4;
constexpr size_t kCountsBytes = kTlvHeaderBytes + 12;
constexpr size_t kAskedBytes = kClassBytes + kCountsBytes;
constexpr size_t kHmacTlvBytes = kTlvHeaderBytes + Hmac::kBytes;
enum TlvType : uint8_t { kPaddingTlv = 1, kClassTlv = 4, kCountsTlv = 5, kHmacTlv = 8 };
/** U, M and I: a sender sets the first, and an answer that can be believed has none. */
constexpr uint8_t kTlvFlags = 0xe0;
constexpr uint8_t kTlvUnrecognised = 0x80;

/** The longest beginning of a packet that is not zeros. */
constexpr size_t kHeadBytes = kAuthenticatedBytes + kAskedBytes + kHmacTlvBytes + kTlvHeaderBytes;

/** What the code is over: a packet's sequence number and the extensions before the code, `count` octets of at most kAskedBytes. */
struct CoveredTlvs {
  uint8_t bytes[4 + kAskedBytes];
  size_t length;

  CoveredTlvs(const uint8_t* packet, const uint8_t* tlvs, size_t count) : length(4 + count) {
    std::memcpy(bytes, packet, 4);
    std::memcpy(bytes + 4, tlvs, count);
  }
};

inline void writeTlvHeader(uint8_t* at, TlvType type, size_t valueBytes) {
  put16(at, 0x8000U | type);
  put16(at + 2, static_cast<uint32_t>(valueBytes));
}

/** What is asked of a reflector. */
struct Questions {
  /** The class that the answer shall have and the request is seen in; 0 for none. */
  uint8_t dscp = 0;
  /** How many packets it received and answered. */
  bool counts = false;
};

/**
 * Writes the extensions that fill `room` octets behind the `base` of a packet and ask these questions, with a code where the packet
 * has one; returns how many octets it wrote. Counts are not asked where they do not fit, then the class neither.
 */
inline size_t writeQuestions(uint8_t* packet, size_t base, size_t room, Questions asked, const Hmac* hmac) {
  const auto bytesOf = [&] {
    const size_t bytes = (asked.dscp == 0 ? 0 : kClassBytes) + (asked.counts ? kCountsBytes : 0);
    return bytes == 0 || hmac == nullptr ? bytes : bytes + kHmacTlvBytes;
  };
  const auto fits = [&] { return room == bytesOf() || room >= bytesOf() + kTlvHeaderBytes; };
  if (!fits()) asked.counts = false;
  if (!fits()) asked.dscp = 0;
  if (bytesOf() == 0) return 0;
  uint8_t* const first = packet + base;
  uint8_t* at = first;
  if (asked.dscp != 0) {
    writeTlvHeader(at, kClassTlv, kClassBytes - kTlvHeaderBytes);
    put32(at + kTlvHeaderBytes, uint32_t{asked.dscp} << 26);
    at += kClassBytes;
  }
  if (asked.counts) {
    writeTlvHeader(at, kCountsTlv, kCountsBytes - kTlvHeaderBytes);
    // Numbers that never left are among them.
    put32(at + kTlvHeaderBytes, get32(packet) + 1);
    std::memset(at + kTlvHeaderBytes + 4, 0, 8);
    at += kCountsBytes;
  }
  if (hmac != nullptr) {
    writeTlvHeader(at, kHmacTlv, Hmac::kBytes);
    const CoveredTlvs covered(packet, first, static_cast<size_t>(at - first));
    hmac->sign(covered.bytes, covered.length, at + kTlvHeaderBytes);
    at += kHmacTlvBytes;
  }
  const size_t written = static_cast<size_t>(at - first);
  if (room == written) return written;
  writeTlvHeader(at, kPaddingTlv, room - written - kTlvHeaderBytes);
  return written + kTlvHeaderBytes;
}

/** What a reflector says of a probe. */
struct Told {
  /** The class that it arrived in. */
  std::optional<uint8_t> dscp;
  /** The sender's count that comes back, and packets received and answered. */
  bool hasCounts = false;
  uint32_t sent = 0;
  uint32_t received = 0;
  uint32_t answered = 0;
  /** It answers for counts, whether they can be read and believed or not. */
  bool claimsCounts = false;
};

/**
 * Reads what follows the `base` of an answer; nothing where the reflector does not say it, as those that return padding, or where the
 * code that has to be there is not its.
 */
inline Told readTold(const uint8_t* bytes, size_t length, size_t base, const Hmac* hmac) {
  Told told;
  bool authentic = hmac == nullptr;
  for (size_t at = base; at + kTlvHeaderBytes <= length;) {
    const uint8_t* const tlv = bytes + at;
    const uint8_t* const value = tlv + kTlvHeaderBytes;
    const size_t valueBytes = get16(tlv + 2);
    const uint8_t type = tlv[1];
    // Zeros are padding that came back, and behind padding there is nothing.
    if (type == 0 || type == kPaddingTlv) break;
    if (type == kCountsTlv && (tlv[0] & kTlvUnrecognised) == 0) told.claimsCounts = true;
    if (length - at - kTlvHeaderBytes < valueBytes) break;
    if ((tlv[0] & kTlvFlags) != 0) {
      // What it does not know.
    } else if (type == kClassTlv && valueBytes == kClassBytes - kTlvHeaderBytes) {
      told.dscp = static_cast<uint8_t>((value[0] & 0x3) << 4 | value[1] >> 4);
    } else if (type == kCountsTlv && valueBytes == kCountsBytes - kTlvHeaderBytes) {
      told.hasCounts = true;
      told.sent = get32(value);
      told.received = get32(value + 4);
      told.answered = get32(value + 8);
    } else if (type == kHmacTlv && valueBytes == Hmac::kBytes && hmac != nullptr) {
      if (at - base > kAskedBytes) break;
      const CoveredTlvs covered(bytes, bytes + base, at - base);
      authentic = hmac->verify(covered.bytes, covered.length, value);
      break;
    }
    at += kTlvHeaderBytes + valueBytes;
  }
  if (authentic) return told;
  Told nothing;
  nothing.claimsCounts = told.claimsCounts;
  return nothing;
}

struct Echo {
  uint16_t identifier = 0;
  uint32_t session = 0;
  uint32_t seq = 0;
  uint32_t timeHigh = 0;
  uint32_t timeLow = 0;
  Token token{};
};

/** Reads an echo or its reply from its ICMP header on; false when it is none of ours or cut off. */
inline bool readEcho(const uint8_t* from, size_t length, Echo& echo) {
  if (length < kEchoBytes || get32(from + 8) != kMagic) return false;
  echo.identifier = get16(from + 4);
  echo.session = get32(from + 12);
  echo.seq = get32(from + 16);
  echo.timeHigh = get32(from + 20);
  echo.timeLow = get32(from + 24);
  echo.token = {get32(from + 28), get32(from + 32)};
  return true;
}

inline bool isEchoReply(const uint8_t* message, size_t length, bool v6) {
  return length >= 8 && message[0] == (v6 ? 129 : 0);
}

/** A complaint about a packet (RFC 792, RFC 4443), and as much of the packet as it quotes. */
struct Quote {
  enum Cause : uint32_t { kHopLimit = 0, kTooBig = 1, kUnreachable = 2 } cause = kUnreachable;
  /** The MTU of "too big", the code of "unreachable". */
  uint32_t value = 0;
  uint8_t protocol = 0;
  const uint8_t* destination = nullptr;
  /** From the transport header on: 8 octets at least. */
  const uint8_t* bytes = nullptr;
  size_t length = 0;
};

/** Reads a message that starts at its ICMP header; false when it is no complaint, or quotes too little. */
inline bool readQuote(const uint8_t* message, size_t length, bool v6, Quote& quote) {
  constexpr size_t kIcmpBytes = 8;
  const size_t least = v6 ? 40 : 20;
  if (length < kIcmpBytes + least) return false;
  const uint8_t type = message[0];
  const uint8_t code = message[1];
  if (type == (v6 ? 3 : 11)) {
    // The other code is about reassembly.
    if (code != 0) return false;
    quote.cause = Quote::kHopLimit;
  } else if (v6 ? type == 2 : type == 3 && code == 4) {
    quote.cause = Quote::kTooBig;
    quote.value = v6 ? get32(message + 4) : get16(message + 6);
    if (quote.value > 0xffff) quote.value = 0xffff;
  } else if (type == (v6 ? 1 : 3)) {
    quote.cause = Quote::kUnreachable;
    quote.value = code;
  } else {
    return false;
  }
  const uint8_t* ip = message + kIcmpBytes;
  const size_t header = v6 ? least : (ip[0] & 0xf) * 4U;
  if (header < least || length < kIcmpBytes + header + 8) return false;
  quote.protocol = v6 ? ip[6] : ip[9];
  quote.destination = ip + (v6 ? 24 : 16);
  quote.bytes = ip + header;
  quote.length = length - kIcmpBytes - header;
  return true;
}

}  // namespace wanscope
