#include "truth.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <cmath>

#include "json.hpp"

namespace wan {
namespace {

constexpr size_t kFirstIndexSize = 256;

uint64_t hashOf(const FlowKey& key) {
  uint64_t words[sizeof key / 8];
  std::memcpy(words, &key, sizeof words);
  uint64_t hash = 0x9e3779b97f4a7c15ULL;
  for (const uint64_t word : words) {
    hash = (hash ^ word) * 0xff51afd7ed558ccdULL;
    hash ^= hash >> 32;
  }
  return hash;
}

void appendMember(std::string& out, const char* name, uint64_t value) {
  out += ",\"";
  out += name;
  out += "\":";
  appendNumber(out, value);
}

void appendUs(std::string& out, double valueNs) { appendNumber(out, static_cast<double>(std::llround(valueNs)) / 1000); }

void appendUsMember(std::string& out, const char* name, double valueNs) {
  out += ",\"";
  out += name;
  out += "\":";
  appendUs(out, valueNs);
}

void appendHistogram(std::string& out, const char* name, const Histogram& histogram) {
  out += ",\"";
  out += name;
  out += "\":";
  if (histogram.count() == 0) {
    out += "null";
    return;
  }
  out += "{\"min\":";
  appendUs(out, static_cast<double>(histogram.minNs()));
  appendUsMember(out, "mean", histogram.meanNs());
  appendUsMember(out, "max", static_cast<double>(histogram.maxNs()));
  appendUsMember(out, "p50", static_cast<double>(histogram.quantileNs(0.5)));
  appendUsMember(out, "p99", static_cast<double>(histogram.quantileNs(0.99)));
  out += '}';
}

void appendDropped(std::string& out, const FlowTruth& flow) {
  out += ",\"dropped\":{";
  bool first = true;
  for (size_t cause = 0; cause < kDropCauses; cause += 1) {
    if (flow.dropped[cause] == 0) continue;
    if (!first) out += ',';
    first = false;
    appendString(out, nameOf(static_cast<DropCause>(cause)));
    out += ':';
    appendNumber(out, uint64_t{flow.dropped[cause]});
  }
  out += '}';
}

void appendCounts(std::string& out, const FlowTruth& flow) {
  out += "\"received\":";
  appendNumber(out, flow.received);
  appendMember(out, "receivedBytes", flow.receivedBytes);
  appendMember(out, "forwarded", flow.forwarded);
  appendMember(out, "forwardedBytes", flow.forwardedBytes);
  appendDropped(out, flow);
  appendMember(out, "duplicated", flow.duplicated);
  appendMember(out, "reordered", flow.reordered);
}

void appendHandshake(std::string& out, const char* name, const HandshakeTruth& handshake) {
  out += ",\"";
  out += name;
  out += "\":{\"received\":";
  appendNumber(out, uint64_t{handshake.received});
  appendMember(out, "dropped", handshake.dropped);
  out += '}';
}

void appendAddress(std::string& out, const FlowKey& key, const std::array<uint8_t, 16>& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (key.family != 0) inet_ntop(key.family == 4 ? AF_INET : AF_INET6, address.data(), text, sizeof text);
  appendString(out, text);
}

const char* protocolOf(const FlowKey& key) {
  if (key.isIcmp()) return "icmp";
  if (key.protocol == 6) return "tcp";
  return key.protocol == 17 ? "udp" : "other";
}

}  // namespace

const char* nameOf(DropCause cause) {
  static constexpr const char* kNames[kDropCauses] = {"down", "blackhole", "mtu",  "dscp",   "burst",   "loss",
                                                      "queue", "corrupt",  "pool", "device", "oversize"};
  return kNames[static_cast<size_t>(cause)];
}

void Histogram::record(int64_t valueNs) {
  const auto value = static_cast<uint64_t>(std::max<int64_t>(valueNs, 0));
  // Octave 0 counts 0..1023 by one, octave n counts 2^(n+9)..2^(n+10)-1 in 1,024 buckets.
  const int width = value == 0 ? 0 : 64 - __builtin_clzll(value);
  const int octave = std::min(std::max(width - kSubBits, 0), kOctaves - 1);
  const int shift = std::max(octave - 1, 0);
  const uint64_t sub = (value >> shift) & ((1u << kSubBits) - 1);
  auto& counts = octaves_[static_cast<size_t>(octave)];
  if (!counts) counts = std::make_unique<Octave>();
  (*counts)[sub] += 1;
  minNs_ = count_ == 0 ? valueNs : std::min(minNs_, valueNs);
  maxNs_ = count_ == 0 ? valueNs : std::max(maxNs_, valueNs);
  count_ += 1;
  sumNs_ += valueNs;
}

void Histogram::clear() {
  for (auto& octave : octaves_) octave.reset();
  count_ = 0;
  sumNs_ = minNs_ = maxNs_ = 0;
}

int64_t Histogram::quantileNs(double q) const {
  const auto rank = static_cast<uint64_t>(std::ceil(q * static_cast<double>(count_)));
  uint64_t below = 0;
  for (int octave = 0; octave < kOctaves; octave += 1) {
    const auto& counts = octaves_[static_cast<size_t>(octave)];
    if (!counts) continue;
    for (size_t sub = 0; sub < counts->size(); sub += 1) {
      below += (*counts)[sub];
      if (below < rank || below == 0) continue;
      const int shift = std::max(octave - 1, 0);
      const int64_t low = (static_cast<int64_t>(sub) + (octave == 0 ? 0 : 1 << kSubBits)) << shift;
      return std::clamp(low + ((int64_t{1} << shift) >> 1), minNs_, maxNs_);
    }
  }
  return maxNs_;
}

DirectionTruth::DirectionTruth() : index_(kFirstIndexSize) {}

uint32_t DirectionTruth::findOrAdd(const FlowKey& key) {
  if (lastFlow_ < flowCount_ && flow(lastFlow_).key == key) return lastFlow_;
  const size_t mask = index_.size() - 1;
  size_t at = hashOf(key) & mask;
  for (; index_[at] != 0; at = (at + 1) & mask) {
    if (flow(index_[at] - 1).key == key) return lastFlow_ = index_[at] - 1;
  }
  if (flowCount_ == kMaxFlows) return kMaxFlows;
  if (flowCount_ / kChunk == chunks_.size()) chunks_.push_back(std::make_unique<Chunk>());
  mutableFlow(flowCount_) = FlowTruth{};
  mutableFlow(flowCount_).key = key;
  index_[at] = flowCount_ + 1;
  lastFlow_ = flowCount_;
  flowCount_ += 1;
  if (flowCount_ * 2 > index_.size()) growIndex();
  return lastFlow_;
}

void DirectionTruth::growIndex() {
  std::vector<uint32_t> grown(index_.size() * 2);
  const size_t mask = grown.size() - 1;
  for (uint32_t number = 0; number < flowCount_; number += 1) {
    size_t at = hashOf(flow(number).key) & mask;
    while (grown[at] != 0) at = (at + 1) & mask;
    grown[at] = number + 1;
  }
  index_ = std::move(grown);
}

Received DirectionTruth::receive(const uint8_t* packet, size_t bytes, int64_t readNs) {
  const PacketInfo info = readPacket(packet, bytes);
  Received received;
  received.readNs = readNs;
  received.arrival = arrivals_++;
  received.flow = findOrAdd(info.flow);
  received.epoch = epoch_;
  received.bytes = static_cast<uint16_t>(bytes);
  received.dscp = info.flow.dscp;
  received.tcp = info.tcp;
  for (FlowTruth* counts : {&total_, &flowOf(received)}) {
    counts->received += 1;
    counts->receivedBytes += bytes;
    counts->syn.received += info.tcp == TcpKind::syn;
    counts->synAck.received += info.tcp == TcpKind::synAck;
  }
  inFlight_ += 1;
  return received;
}

void DirectionTruth::drop(const Received& packet, DropCause cause) {
  if (packet.epoch != epoch_) return;
  inFlight_ -= 1;
  for (FlowTruth* counts : {&total_, &flowOf(packet)}) {
    counts->dropped[static_cast<size_t>(cause)] += 1;
    counts->syn.dropped += packet.tcp == TcpKind::syn;
    counts->synAck.dropped += packet.tcp == TcpKind::synAck;
  }
}

void DirectionTruth::forward(const Received& packet, int64_t writeNs, int64_t dueNs) {
  if (packet.epoch != epoch_) return;
  inFlight_ -= 1;
  const int64_t delayNs = writeNs - packet.readNs;
  delay_.record(delayNs);
  late_.record(writeNs - dueNs);
  FlowTruth& flow = flowOf(packet);
  // RFC 4737, with the order of arrival as sequence. Unknown for what shares the overflow.
  const bool reordered = packet.flow != kMaxFlows && packet.arrival < flow.writtenUpTo;
  flow.writtenUpTo = std::max(flow.writtenUpTo, packet.arrival + 1);
  for (FlowTruth* counts : {&total_, &flow}) {
    counts->delayMinNs = counts->forwarded == 0 ? delayNs : std::min(counts->delayMinNs, delayNs);
    counts->delayMaxNs = counts->forwarded == 0 ? delayNs : std::max(counts->delayMaxNs, delayNs);
    counts->delaySumNs += static_cast<uint64_t>(delayNs);
    counts->forwarded += 1;
    counts->forwardedBytes += packet.bytes;
    counts->reordered += reordered;
  }
}

void DirectionTruth::duplicate(const Received& packet) {
  if (packet.epoch != epoch_) return;
  total_.duplicated += 1;
  flowOf(packet).duplicated += 1;
}

void DirectionTruth::reset() {
  total_ = FlowTruth{};
  overflow_ = FlowTruth{};
  delay_.clear();
  late_.clear();
  inFlight_ = 0;
  tooBigSent_ = 0;
  epoch_ += 1;
  chunks_.clear();
  flowCount_ = 0;
  index_.assign(kFirstIndexSize, 0);
  lastFlow_ = 0;
}

void DirectionTruth::appendTotals(std::string& out, uint64_t deviceDropped) const {
  appendCounts(out, total_);
  appendMember(out, "inFlight", inFlight_);
  appendMember(out, "tooBigSent", tooBigSent_);
  appendMember(out, "deviceDropped", deviceDropped);
  appendMember(out, "flowCount", flowCount_);
  appendMember(out, "overflowReceived", overflow_.received);
  appendHandshake(out, "syn", total_.syn);
  appendHandshake(out, "synAck", total_.synAck);
  appendHistogram(out, "delayUs", delay_);
  appendHistogram(out, "lateUs", late_);
}

void appendFlow(std::string& out, const FlowTruth& flow) {
  const FlowKey& key = flow.key;
  out += "{\"protocol\":";
  appendString(out, protocolOf(key));
  appendMember(out, "ipProtocol", key.protocol);
  appendMember(out, "family", key.family);
  out += ",\"src\":";
  appendAddress(out, key, key.source);
  out += ",\"dst\":";
  appendAddress(out, key, key.destination);
  appendMember(out, "srcPort", key.sourcePort);
  appendMember(out, "dstPort", key.destinationPort);
  appendMember(out, "dscp", key.dscp);
  out += ",\"icmpType\":";
  if (key.isIcmp()) {
    appendNumber(out, uint64_t{key.icmpType});
  } else {
    out += "null";
  }
  out += ',';
  appendCounts(out, flow);
  out += ",\"delayUs\":";
  if (flow.forwarded == 0) {
    out += "null";
  } else {
    out += "{\"min\":";
    appendUs(out, static_cast<double>(flow.delayMinNs));
    appendUsMember(out, "mean", static_cast<double>(flow.delaySumNs) / static_cast<double>(flow.forwarded));
    appendUsMember(out, "max", static_cast<double>(flow.delayMaxNs));
    out += '}';
  }
  appendHandshake(out, "syn", flow.syn);
  appendHandshake(out, "synAck", flow.synAck);
  out += '}';
}

}  // namespace wan
