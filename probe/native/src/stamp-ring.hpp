/**
 * Transmit stamps by io_uring (Linux 6.17): the system lays all that wait in a socket's error queue into shared memory, where reading
 * the queue itself copies each of them piece by piece.
 */
#pragma once

#include <cstddef>
#include <cstdint>
#include <thread>

namespace wanscope {

class StampRing {
 public:
  StampRing() = default;
  StampRing(const StampRing&) = delete;
  StampRing& operator=(const StampRing&) = delete;
  ~StampRing() { close(); }

  /** For the thread that calls and no other. Nothing happens where the system has no such rings or keeps them from us. */
  void open();

  struct Stamp {
    /** As the error queue gives it. */
    uint32_t number;
    int64_t wallNs;
  };

  /** Has the stamps in a socket's error queue laid out for `next`. False where there is no ring for this thread. */
  bool fetch(int socket);
  /** The oldest that has not been taken; false when there is none. */
  bool next(Stamp& stamp);
  /** Asked after the last one: false when there may be more to read from the socket itself. */
  bool tookAll();

 private:
  /** More than the engine sends before it reads what came back. */
  static constexpr uint32_t kMostStamps = 1'024;

  void close();
  void* request(uint8_t operation);
  void submit();

  std::thread::id owner_;
  int fd_ = -1;
  uint8_t* ring_ = nullptr;
  size_t ringBytes_ = 0;
  uint8_t* requests_ = nullptr;
  size_t requestsBytes_ = 0;
  /** Of the ring: written here, read by the system. */
  uint32_t* requestTail_ = nullptr;
  uint32_t* requestOrder_ = nullptr;
  uint32_t requestMask_ = 0;
  uint32_t* answerHead_ = nullptr;
  /** Of the ring: written by the system. */
  const uint32_t* answerTail_ = nullptr;
  const uint8_t* answers_ = nullptr;
  uint32_t answerMask_ = 0;
  uint32_t taken_ = 0;
  /** How the last request ended. */
  int32_t result_ = 0;
};

}  // namespace wanscope
