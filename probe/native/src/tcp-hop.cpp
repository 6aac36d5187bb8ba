#include "tcp-hop.hpp"

#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "clock.hpp"
#include "socket.hpp"

namespace wanscope {

namespace {

/** The kernel's numbers, which <linux/tcp.h> does not name. */
constexpr uint8_t kEstablished = 1;

int begin(int fd, const TcpHopOptions& options, int64_t& sentWallNs) {
  const int level = options.v6 ? static_cast<int>(IPPROTO_IPV6) : static_cast<int>(IPPROTO_IP);
  // Each hop's socket has the port of the one before, which is closed by then.
  setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  setOption(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1);
  setOption(fd, level, options.v6 ? IPV6_RECVERR : IP_RECVERR, 1);
  setOption(fd, level, options.v6 ? IPV6_UNICAST_HOPS : IP_TTL, options.ttl);
  if (options.dscp != 0) setOption(fd, level, options.v6 ? IPV6_TCLASS : IP_TOS, options.dscp << 2);
  if (options.domain != nullptr) {
    if (const int error = options.domain->prepare(fd)) return error;
  }
  const linger reset{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  if (!options.device.empty() && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, options.device.c_str(),
                                            static_cast<socklen_t>(options.device.size() + 1)) != 0) {
    return errno;
  }
  sockaddr_storage address;
  socklen_t length;
  const std::string any = options.v6 ? "::" : "0.0.0.0";
  if (!parseAddress(options.source.empty() ? any : options.source, options.v6, options.sourcePort, address, length)) {
    return EINVAL;
  }
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0) return errno;
  if (!parseAddress(options.destination, options.v6, options.port, address, length)) return EINVAL;
  sentWallNs = readClock(CLOCK_REALTIME);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), length) != 0 && errno != EINPROGRESS) return errno;
  return 0;
}

/** Reads one complaint; false when there is none. */
bool readComplaint(int fd, int64_t sentWallNs, TcpHopState& state) {
  uint8_t quoted[128];
  alignas(cmsghdr) uint8_t control[512];
  iovec vector{quoted, sizeof quoted};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return false;
  bool found = false;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SO_TIMESTAMPNS) {
      timespec time;
      std::memcpy(&time, CMSG_DATA(header), sizeof time);
      state.rttNs = nsOf(time) - sentWallNs;
      continue;
    }
    const bool v4 = header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_RECVERR;
    const bool v6 = header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_RECVERR;
    if (!v4 && !v6) continue;
    auto* error = reinterpret_cast<sock_extended_err*>(CMSG_DATA(header));
    if (error->ee_origin != (v4 ? SO_EE_ORIGIN_ICMP : SO_EE_ORIGIN_ICMP6)) continue;
    const sockaddr* offender = SO_EE_OFFENDER(error);
    if (v4 && offender->sa_family == AF_INET) {
      std::memcpy(state.address, &reinterpret_cast<const sockaddr_in*>(offender)->sin_addr, 4);
    } else if (v6 && offender->sa_family == AF_INET6) {
      std::memcpy(state.address, &reinterpret_cast<const sockaddr_in6*>(offender)->sin6_addr, 16);
    } else {
      continue;
    }
    const bool isHopLimit = error->ee_type == (v4 ? 11 : 3);
    const bool isTooBig = v4 ? error->ee_type == 3 && error->ee_code == 4 : error->ee_type == 2;
    state.cause = isHopLimit ? 0 : isTooBig ? 1 : 2;
    state.kind = TcpHopState::kQuoted;
    found = true;
  }
  return found;
}

}  // namespace

int openTcpHop(const TcpHopOptions& options, int64_t& sentWallNs) {
  int fd = -1;
  const int error = inDomain(options.domain, [&] {
    fd = socket(options.v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? errno : begin(fd, options, sentWallNs);
  });
  if (error == 0) return fd;
  if (fd >= 0) close(fd);
  return -error;
}

TcpHopState readTcpHop(int fd, int64_t sentWallNs) {
  TcpHopState state;
  if (readComplaint(fd, sentWallNs, state)) return state;
  tcp_info info{};
  socklen_t length = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 && info.tcpi_state == kEstablished) {
    state.kind = TcpHopState::kAnswered;
    state.rttNs = info.tcpi_rtt * 1'000LL;
    return state;
  }
  int error = 0;
  length = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error == 0) return state;
  // A refusal is the destination's answer.
  state.kind = error == ECONNREFUSED ? TcpHopState::kAnswered : TcpHopState::kFailed;
  return state;
}

uint16_t tcpHopPort(int fd) {
  sockaddr_storage address;
  socklen_t length = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

void closeTcpHop(int fd) { close(fd); }

}  // namespace wanscope
