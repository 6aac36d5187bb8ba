// What really happened to the packets of one link and direction: totals, and the same for each flow.
//
// Of each packet received exactly one becomes true: forwarded, dropped by one cause, or still in flight. So at every
// moment received = forwarded + dropped + in flight. Copies made by duplication are counted apart.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "packet.hpp"

namespace wan {

enum class DropCause : uint8_t { down, blackhole, mtu, dscp, burst, loss, queue, corrupt, pool, device, oversize };
constexpr size_t kDropCauses = 11;
const char* nameOf(DropCause cause);

// Durations in ns: exact below 1,024, else within 0.1 % (1,024 buckets in each power of two, made when first used).
class Histogram {
 public:
  void record(int64_t valueNs);
  void clear();
  // Value at or below which the share q of the counts lies (middle of its bucket), held between the smallest and the largest.
  int64_t quantileNs(double q) const;
  uint64_t count() const { return count_; }
  int64_t minNs() const { return minNs_; }
  int64_t maxNs() const { return maxNs_; }
  double meanNs() const { return count_ == 0 ? 0 : static_cast<double>(sumNs_) / static_cast<double>(count_); }

 private:
  static constexpr int kSubBits = 10;
  static constexpr int kOctaves = 32;
  using Octave = std::array<uint64_t, 1 << kSubBits>;

  std::array<std::unique_ptr<Octave>, kOctaves> octaves_;
  uint64_t count_ = 0;
  int64_t sumNs_ = 0;
  int64_t minNs_ = 0;
  int64_t maxNs_ = 0;
};

struct HandshakeTruth {
  uint32_t received = 0;
  uint32_t dropped = 0;
};

struct FlowTruth {
  FlowKey key;
  uint64_t received = 0;
  uint64_t receivedBytes = 0;
  uint64_t forwarded = 0;
  uint64_t forwardedBytes = 0;
  uint64_t duplicated = 0;
  uint64_t reordered = 0;
  // Arrival number of the latest packet written so far, plus one.
  uint64_t writtenUpTo = 0;
  uint64_t delaySumNs = 0;
  int64_t delayMinNs = 0;
  int64_t delayMaxNs = 0;
  std::array<uint32_t, kDropCauses> dropped{};
  HandshakeTruth syn;
  HandshakeTruth synAck;
};

// What a packet carries from its reading to its writing.
struct Received {
  int64_t readNs = 0;
  uint64_t arrival = 0;
  uint32_t flow = 0;
  uint32_t epoch = 0;
  uint16_t bytes = 0;
  uint8_t dscp = 0;
  TcpKind tcp = TcpKind::other;
};

class DirectionTruth {
 public:
  static constexpr uint32_t kMaxFlows = 65'536;

  DirectionTruth();

  Received receive(const uint8_t* packet, size_t bytes, int64_t readNs);
  void drop(const Received& packet, DropCause cause);
  void forward(const Received& packet, int64_t writeNs, int64_t dueNs);
  void duplicate(const Received& packet);
  void tooBigSent() { tooBigSent_ += 1; }

  // Forgets everything, also the packets in flight: what they become is counted nowhere.
  void reset();

  uint32_t flowCount() const { return flowCount_; }
  const FlowTruth& flow(uint32_t index) const { return (*chunks_[index / kChunk])[index % kChunk]; }
  // Appends the members of the direction's object but its flows. `deviceDropped`: what the kernel lost before a read.
  void appendTotals(std::string& out, uint64_t deviceDropped) const;

 private:
  static constexpr uint32_t kChunk = 256;
  using Chunk = std::array<FlowTruth, kChunk>;

  FlowTruth& mutableFlow(uint32_t index) { return (*chunks_[index / kChunk])[index % kChunk]; }
  // The total for packets of no flow of their own: the table was full.
  FlowTruth& flowOf(const Received& packet) { return packet.flow == kMaxFlows ? overflow_ : mutableFlow(packet.flow); }
  uint32_t findOrAdd(const FlowKey& key);
  void growIndex();

  FlowTruth total_;
  FlowTruth overflow_;
  Histogram delay_;
  Histogram late_;
  uint64_t inFlight_ = 0;
  uint64_t tooBigSent_ = 0;
  uint64_t arrivals_ = 0;
  uint32_t epoch_ = 1;

  // Flows in the order they came; `index_` is an open-addressed table of their numbers plus one.
  std::vector<std::unique_ptr<Chunk>> chunks_;
  uint32_t flowCount_ = 0;
  std::vector<uint32_t> index_;
  uint32_t lastFlow_ = 0;
};

void appendFlow(std::string& out, const FlowTruth& flow);

}  // namespace wan
