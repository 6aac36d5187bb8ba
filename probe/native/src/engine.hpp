/**
 * The packet engine: sends probes at their due times and matches the kernel's stamps to them, on a thread of its own.
 *
 * Every system call works on a batch. Nothing wakes the thread when an answer comes: while something is in flight it
 * looks every few milliseconds, since the kernel has stamped the answer already. It knows octets, sockets and stamps;
 * what an answer means is decided by whoever reads the rows.
 */
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "clock.hpp"
#include "domain.hpp"
#include "due-queue.hpp"
#include "packet.hpp"
#include "stamp-ring.hpp"

namespace wanscope {

/** Twelve numbers for the reader; `src/net/rows.ts` says which. */
constexpr size_t kRowNumbers = 12;
enum RowKind : uint32_t { kSent = 1, kFailed = 2, kReceived = 3, kUnreachable = 4, kQuoted = 5 };
enum RowFlag : uint32_t { kKernelStamp = 1 << 4, kAuthentic = 1 << 5, kFromTarget = 1 << 6, kContaminated = 1 << 7, kFarClass = 1 << 28 };

/** `kQuotes` hears what routers say of UDP packets, and sends nothing. */
enum class SocketKind { kRawIcmp, kIcmp, kUdp, kQuotes };

struct EngineOptions {
  /** Monotonic time that the reader calls zero. */
  int64_t baseNs = 0;
  uint16_t identifier = 0;
  uint8_t cookieKey[16]{};
  size_t receiveBufferBytes = 0;
  /** Match stamps by the socket's own counter although the kernel could carry our number. */
  bool countStamps = false;
  /** Read stamps from the sockets although the system may have rings for them. */
  bool readSockets = false;
  /** Open the sockets that need no privilege. */
  bool unprivileged = false;
};

/** SSIDs of a class are its number and every so many more. */
constexpr uint32_t kSsidClasses = 251;
constexpr uint32_t kSsidsOfClass = 65'535 / kSsidClasses;

struct StreamOptions {
  uint32_t id = 0;
  bool udp = false;
  bool v6 = false;
  std::string destination;
  std::string source;
  std::string device;
  /** Where its socket is opened; none: where the process is. */
  DomainRef domain;
  uint16_t port = 0;
  /** 0: the port that all such streams share. */
  uint16_t sourcePort = 0;
  /** ICMP: the checksum of every echo; 0: what it comes to. */
  uint16_t checksum = 0;
  uint8_t dscp = 0;
  /** A probe's hop limit is its sequence number modulo 64, 0 for the usual one. UDP probes are longer by it. */
  bool traces = false;
  /** Packets larger than what is known to fit are sent nevertheless, and whole. */
  bool probesMtu = false;
  uint16_t length = 0;
  int64_t timeoutNs = 0;
  /** STAMP: the key of its authenticated mode; empty for the other one. */
  std::string key;
  /** STAMP: 1 to kSsidClasses, the remainder that the stream's SSID has to leave; 0: any SSID will do. */
  uint16_t ssidClass = 0;
  /** STAMP: asks how many packets the reflector received and answered. */
  bool asksCounts = false;
};

struct EngineCounts {
  uint64_t sent = 0;
  uint64_t failed = 0;
  uint64_t received = 0;
  /** Probes by who made the stamps of their sending and of their first answer: the kernel both, one, or none. */
  uint64_t kernelKernel = 0;
  uint64_t userKernel = 0;
  uint64_t userUser = 0;
  /** Rows that found the ring full. */
  uint64_t rowsDropped = 0;
  /** Datagrams that found a receive queue full. */
  uint64_t receiveDropped = 0;
  /** Answers whose counts (RFC 8972 section 4.5) cannot be read, lack the code over them, or are of another packet. */
  uint64_t farCountsRefused = 0;
  uint64_t shortAnswers = 0;
  uint64_t ticks = 0;
  uint64_t wallSteps = 0;
  int64_t drainedNs = 0;
  uint64_t sockets = 0;
};

class Engine {
 public:
  /** @param rows `rowCapacity` (a power of two) times kRowNumbers numbers, written here and read by the owner. */
  Engine(const EngineOptions& options, double* rows, size_t rowCapacity, std::function<void()> wake);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /** Opens the ICMP socket of a family in a domain. Returns 0 or an errno. */
  int openIcmp(bool v6, const DomainRef& domain);
  /** True when the ICMP socket of the family is a raw one, where the process is. */
  bool icmpIsRaw(bool v6);
  /** What routers choose among equal ways by: the source port of a UDP stream, the checksum of an ICMP one. */
  uint16_t streamFlow(uint32_t id);
  /** Makes or changes a stream. Returns 0 or an errno. */
  int openStream(const StreamOptions& options);
  void closeStream(uint32_t id);
  /** Sends probe `seq` of a stream at the first tick at or after `dueNs` (CLOCK_MONOTONIC). False when too many wait. */
  bool submit(uint32_t stream, uint32_t seq, int64_t dueNs);
  bool submitBatch(const double* triples, size_t count);
  /** Reads everything that has arrived. */
  void drain();
  /** Rows written so far; asks for another wake when there are more. */
  uint64_t takeRows();
  void releaseRows(uint64_t upTo) { rowsRead_.store(upTo, std::memory_order_release); }
  EngineCounts counts();
  int64_t baseNs() const { return options_.baseNs; }

 private:
  struct Port;
  struct Stream;
  /** The probe that an answer or a complaint is about. */
  struct Found {
    Stream* stream = nullptr;
    uint32_t seq = 0;
    Token token{};
    bool authentic = false;
  };

  void run();
  void takeSubmitted();
  /** False when more was due than one turn may send, and can follow at once. */
  bool sendDue(int64_t now);
  void warm(Port& port);
  void countAnew(Port& port);
  /** False when the device had no room for all, and some wait for the next tick. */
  bool flush(Port& port, int64_t now);
  void drainPort(Port& port);
  void drainPorts(int64_t now);
  /** What was answered has its stamp by now. */
  void takeStamps(Port& port);
  void settleStamps(Port& port, size_t count);
  void settleStamp(Port& port, uint32_t number, int64_t wallNs, int64_t now);
  void settleMessages(Port& port, size_t count, int64_t now);
  bool findEcho(const Port& port, const Echo& echo, Found& found);
  bool findQuoted(const Port& port, const Quote& quote, Found& found);
  void emitSent(Port& port, uint32_t key, int64_t kernelNs);
  void emitStale(Port& port, int64_t before);
  double* nextRow();
  size_t freeRows() const;
  int64_t tickGapNs() const;
  /** Wakes the reader, or tells when it is to be woken. */
  int64_t wakeReader(int64_t now);
  uint16_t chooseSsid(const StreamOptions& options) const;
  Port* portFor(const StreamOptions& options, uint16_t ssid, int& error);
  int openPort(Port& port);
  int openPortHere(Port& port);
  int openStreamHere(const StreamOptions& options);
  Port* quotesPort(bool v6, const DomainRef& domain);

  const EngineOptions options_;
  const Cookie cookie_;
  double* const rows_;
  const size_t rowMask_;
  const std::function<void()> wake_;

  /** Guards everything but what `submitMutex_` does: ports, streams, queue, counts, the row's writer. */
  std::mutex mutex_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::unordered_map<uint32_t, std::unique_ptr<Stream>> streams_;
  DueQueue queue_;
  WallClock wallClock_;
  ClockState clockState_;
  EngineCounts counts_;
  std::atomic<uint64_t> rowsWritten_{0};
  std::atomic<uint64_t> rowsRead_{0};
  std::atomic<bool> wakePending_{false};
  int64_t lastTickNs_ = 0;
  int64_t lastDrainNs_ = 0;
  int64_t lastWakeNs_ = 0;
  int64_t awaitUntilNs_ = 0;
  int64_t drainGapNs_ = 0;
  size_t sentSinceDrain_ = 0;
  /** More is due than the last turn might send: the next one follows without a pause. */
  bool isBehind_ = false;
  StampRing ring_;
  int64_t rateSinceNs_ = 0;
  uint64_t rateCount_ = 0;
  double ratePerS_ = 0;
  bool numbersTravel_ = false;
  /** Has stamps on for as long as the engine lives, so that they do not begin anew with each socket. */
  int stampKeeper_ = -1;

  std::mutex submitMutex_;
  std::condition_variable submitSignal_;
  std::vector<Due> submitted_;
  /** As many wait in the queue. */
  size_t waiting_ = 0;
  int64_t wakeAtNs_ = kNever;
  bool stopping_ = false;
  std::thread thread_;
};

/** Room for an answer's or a stamp's control messages. */
constexpr size_t kControlBytes = 256;

/** From a packet's receive stamp to its being seen in the socket's queue, on a machine that has other things to do. */
constexpr int64_t kQueueingNs = 100'000'000;

/** How stamps are asked for. */
uint32_t stampFlags();

}  // namespace wanscope
