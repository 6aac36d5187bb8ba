/**
 * A socket that answers: hands requests with the kernel's receive stamps to their judge and sends what it makes of
 * them, with the time of sending written right before the send. What is answered, and with which number, is the judge's.
 */
#pragma once

#include <netinet/in.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "clock.hpp"
#include "domain.hpp"

namespace wanscope {

constexpr size_t kReflectorSlots = 128;
constexpr size_t kReflectorSlotBytes = 9'216;
/**
 * By slot: length, port, T2's halves, TTL, DSCP, 1 for version 4, and from the judge the octets of the key that the answer is
 * authenticated with, 0 for none. Addresses (16 octets) and keys have tables of their own.
 */
constexpr size_t kReflectorNumbers = 8;
constexpr size_t kAddressBytes = 16;
constexpr size_t kReflectorKeyBytes = 64;

struct ReflectorMemory {
  uint8_t* packets;
  double* numbers;
  uint8_t* addresses;
  const uint8_t* keys;
};

class Reflector {
 public:
  Reflector(ReflectorMemory memory, std::function<void()> wake);
  ~Reflector();
  Reflector(const Reflector&) = delete;
  Reflector& operator=(const Reflector&) = delete;

  /** Binds and starts. Returns 0 or an errno. */
  int open(const std::string& address, uint16_t port, bool v6, bool onlyV6, const DomainRef& domain);
  uint16_t port() const { return port_; }
  /** Requests that wait to be judged; they are in slots `first` and on, modulo kReflectorSlots. */
  size_t take(size_t& first);
  /**
   * Answers the oldest `count` requests: each slot's first number says how many of its octets to send, 0 for silence.
   * Leaves 0 there when it was sent, else an errno. T3 is written here.
   */
  void answer(size_t count);
  /** Gives the slots of the oldest `count` requests back. */
  void release(size_t count);
  /** Requests that the kernel dropped because this was too slow, as of the last that came through. */
  uint64_t receiveDropped() const { return receiveDropped_.load(std::memory_order_relaxed); }

 private:
  struct Slot {
    sockaddr_storage from;
    socklen_t fromLength;
    in6_pktinfo local6;
    in_pktinfo local4;
    bool hasLocal6;
    bool hasLocal4;
    uint8_t tos;
    int64_t receivedWallNs;
    int64_t receivedNs;
  };
  int openSocketHere(const std::string& address, uint16_t port, bool onlyV6, const Domain* domain);
  void run();
  void receive();
  void learnSendDelay();

  const ReflectorMemory memory_;
  const std::function<void()> wake_;
  int fd_ = -1;
  int stopFd_ = -1;
  bool v6_ = false;
  uint16_t port_ = 0;
  std::vector<Slot> slots_;

  std::mutex mutex_;
  std::condition_variable freed_;
  size_t head_ = 0;
  size_t waiting_ = 0;
  bool wakePending_ = false;
  bool stopping_ = false;
  WallClock wallClock_;
  ClockState clockState_;
  int64_t lastEmptyNs_ = 0;
  std::atomic<uint64_t> receiveDropped_{0};
  uint32_t lastOverflow_ = 0;
  /** From writing T3 to the packet leaving: steady, so it is measured now and then and put into T3. */
  int64_t sendDelayNs_ = 0;
  int64_t samples_ = 0;
  /** Of the latest sample; the wall time is 0 when nothing is awaited. */
  int64_t sampleWallNs_ = 0;
  int64_t sampleMonoNs_ = 0;
  uint64_t answersUnsampled_ = 0;
  std::thread thread_;
};

}  // namespace wanscope
