// The links and the packets on them: reads from one end, holds each packet until it is due, writes to the other end.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "arrival.hpp"
#include "capture.hpp"
#include "impairments.hpp"
#include "packet.hpp"
#include "truth.hpp"
#include "tun.hpp"

namespace wan {

// CLOCK_MONOTONIC.
int64_t monotonicNs();

// One fixed block of memory for all packets in flight; a packet that finds no room is dropped and counted.
class PacketPool {
 public:
  static constexpr uint32_t kPackets = 131'072;
  // With the header in front; 256 MiB in all, touched only as far as it is used.
  static constexpr size_t kSlotBytes = 2'048;
  static constexpr uint32_t kNone = UINT32_MAX;

  PacketPool();
  ~PacketPool();
  PacketPool(const PacketPool&) = delete;
  PacketPool& operator=(const PacketPool&) = delete;

  uint32_t take();
  void give(uint32_t slot) { free_.push_back(slot); }
  uint8_t* at(uint32_t slot) { return memory_ + slot * kSlotBytes; }

 private:
  uint8_t* memory_;
  // Last in, first out: the memory in use stays small and warm.
  std::vector<uint32_t> free_;
  uint32_t untouched_ = 0;
};

enum Direction : uint8_t { kAToB = 0, kBToA = 1 };
constexpr const char* kDirectionNames[2] = {"a2b", "b2a"};

struct EndSpec {
  std::string netns;
  std::string device;
  Addresses addresses;
};

struct Link {
  std::string name;
  uint32_t number = 0;
  uint32_t generation = 0;
  // a and b. Direction d is read from end d and written to the other.
  std::unique_ptr<TunDevice> ends[2];
  Addresses addresses[2];
  Impairments impairments[2];
  DirectionTruth truth[2];
  // Of the latest packet of each direction: a clock that is off never lets a later packet overtake.
  int64_t lastArrivalNs[2] = {0, 0};
};

class Emulator {
 public:
  static constexpr size_t kMaxLinks = 1'024;

  Emulator(int epoll, uint64_t seed);

  uint64_t seed() const { return seed_; }
  // Whether the kernel tells when packets arrived; else their reading counts as arrival.
  bool hasArrivalClock() const { return arrivals_.available(); }

  // Throws InvalidRequest or DeviceError; then nothing has changed.
  void addLink(const std::string& name, const EndSpec& a, const EndSpec& b);
  // Packets in flight go with it.
  void removeLink(Link& link);
  Link* find(const std::string& name);
  const std::map<std::string, Link*>& links() const { return byName_; }
  void change(Link& link, bool aToB, bool bToA, const Json& request);
  uint64_t deviceDropped(Link& link, Direction direction) { return link.ends[direction]->droppedBeforeRead(); }
  void resetTruth();
  // Captures all links of now, or the one named, until `stopCapture`. Throws InvalidRequest.
  void startCapture(const std::string& path, uint64_t maxBytes, const Link* only);
  Capture::Result stopCapture();

  // What epoll reports with a tag below `kMaxLinks * 2`: one bounded batch is read, and what is due is written.
  void onReadable(uint64_t tag);
  // Writes what is due, at most one batch. True when more is due.
  bool writeDue();
  // When the next packet is due; INT64_MAX when none is held.
  int64_t nextDueNs() const { return heap_.empty() ? INT64_MAX : heap_.front().dueNs; }

 private:
  struct Held {
    Received received;
    uint32_t link = 0;
    uint32_t generation = 0;
    Direction direction = kAToB;
    bool corrupt = false;
    bool isCopy = false;
  };
  struct Deadline {
    int64_t dueNs;
    uint64_t order;
    uint32_t slot;
    bool before(const Deadline& other) const {
      return dueNs != other.dueNs ? dueNs < other.dueNs : order < other.order;
    }
  };

  void take(Link& link, Direction direction, uint32_t slot, size_t bytes);
  void hold(uint32_t slot, int64_t dueNs);
  void holdCopy(uint32_t slot, int64_t dueNs);
  uint32_t popDue();
  void write(uint32_t slot, int64_t dueNs);
  void answerTooBig(Link& link, Direction direction, const uint8_t* packet, size_t bytes);

  int epoll_;
  uint64_t seed_;
  ArrivalClock arrivals_;
  std::unique_ptr<Capture> capture_;
  PacketPool pool_;
  std::vector<Held> held_;
  // 4-ary heap, earliest first; equal deadlines in the order they were given.
  std::vector<Deadline> heap_;
  uint64_t nextOrder_ = 0;
  std::vector<std::unique_ptr<Link>> slots_;
  std::map<std::string, Link*> byName_;
  uint32_t nextGeneration_ = 0;
  // Where a packet is read that finds no room in the pool.
  uint8_t scratch_[PacketPool::kSlotBytes];
};

}  // namespace wan
