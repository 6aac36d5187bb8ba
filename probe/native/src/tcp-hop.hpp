/** One SYN with a hop limit, and what became of it. Needs no privilege: the system tells the socket who complained. */
#pragma once

#include <cstdint>
#include <string>

#include "domain.hpp"

namespace wanscope {

struct TcpHopOptions {
  bool v6 = false;
  std::string source;
  std::string device;
  DomainRef domain;
  /** 0: the system's choice. */
  uint16_t sourcePort = 0;
  std::string destination;
  uint16_t port = 0;
  uint8_t ttl = 0;
  uint8_t dscp = 0;
};

struct TcpHopState {
  enum Kind : uint32_t { kPending = 0, kQuoted = 1, kAnswered = 2, kFailed = 3 } kind = kPending;
  /** Of a complaint: 0 hop limit, 1 too big, 2 unreachable; and from whom. */
  uint32_t cause = 0;
  uint8_t address[16]{};
  /** From the SYN to what came back; 0 where the system does not say. */
  int64_t rttNs = 0;
};

/** Begins a connect. Returns a descriptor, or an errno below 0; `sentWallNs` is when, by the wall clock. */
int openTcpHop(const TcpHopOptions& options, int64_t& sentWallNs);
/** What has come of it until now. */
TcpHopState readTcpHop(int fd, int64_t sentWallNs);
uint16_t tcpHopPort(int fd);
/** Ends it without a word, or with a reset where it was answered. */
void closeTcpHop(int fd);

}  // namespace wanscope
