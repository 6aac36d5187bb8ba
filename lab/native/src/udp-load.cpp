// udp-load: a paced UDP stream and its receiver, for the emulator's benchmark; and a flood of STAMP requests with made-up senders,
// for the reflector's. Counted, bounded, one line of JSON at the end.
//
//   udp-load send ADDRESS PORT PACKETS PER_SECOND OCTETS
//   udp-load receive PORT PACKETS IDLE_MS
//   udp-load flood SOURCE SOURCES SOURCE_PORT ADDRESS PORT PACKETS PER_SECOND
//
// A flood says that it comes from SOURCES addresses from SOURCE on, in turn, and from SOURCE_PORT (0: from many). Needs root.
// Each datagram of a stream carries its number and CLOCK_REALTIME before it was sent; its arrival is the kernel's receive timestamp.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr int kBatch = 32;
constexpr size_t kMaxOctets = 1'472;
constexpr int64_t kNsPerS = 1'000'000'000;
constexpr int kBufferBytes = 128 << 20;

struct Payload {
  uint64_t number;
  int64_t sentNs;
};

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

int64_t nowNs(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * kNsPerS + now.tv_nsec;
}

// One batch of messages over buffers of its own.
struct Messages {
  mmsghdr headers[kBatch]{};
  iovec vectors[kBatch]{};
  uint8_t data[kBatch][kMaxOctets]{};
  alignas(cmsghdr) char control[kBatch][CMSG_SPACE(sizeof(timespec))]{};

  void prepare(size_t octets, bool withControl) {
    for (int i = 0; i < kBatch; i += 1) {
      vectors[i] = {data[i], octets};
      headers[i].msg_hdr = {};
      headers[i].msg_hdr.msg_iov = &vectors[i];
      headers[i].msg_hdr.msg_iovlen = 1;
      if (!withControl) continue;
      headers[i].msg_hdr.msg_control = control[i];
      headers[i].msg_hdr.msg_controllen = sizeof control[i];
    }
  }
};

Messages messages;

int send(const char* address, int port, uint64_t packets, double perSecond, size_t octets) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  if (inet_pton(AF_INET, address, &to.sin_addr) != 1) fail("address");
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) fail("connect");
  setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kBufferBytes, sizeof kBufferBytes);
  messages.prepare(std::clamp(octets, sizeof(Payload), kMaxOctets), false);

  const int64_t startNs = nowNs(CLOCK_MONOTONIC);
  uint64_t refused = 0;
  for (uint64_t next = 0; next < packets;) {
    const int64_t elapsedNs = nowNs(CLOCK_MONOTONIC) - startNs;
    const uint64_t due = std::min(packets, static_cast<uint64_t>(static_cast<double>(elapsedNs) * perSecond / 1e9) + 1);
    const int count = static_cast<int>(std::min<uint64_t>(due - next, kBatch));
    if (count == 0) {
      const int64_t atNs = startNs + static_cast<int64_t>(static_cast<double>(next) * 1e9 / perSecond);
      const timespec until{atNs / kNsPerS, atNs % kNsPerS};
      clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
      continue;
    }
    for (int i = 0; i < count; i += 1) {
      const Payload payload{next + static_cast<uint64_t>(i), nowNs(CLOCK_REALTIME)};
      std::memcpy(messages.data[i], &payload, sizeof payload);
    }
    const int sent = sendmmsg(fd, messages.headers, static_cast<unsigned>(count), 0);
    if (sent <= 0) {
      refused += 1;
      next += 1;
    } else {
      next += static_cast<uint64_t>(sent);
    }
  }
  const double seconds = static_cast<double>(nowNs(CLOCK_MONOTONIC) - startNs) / 1e9;
  std::printf("{\"sent\":%llu,\"refused\":%llu,\"seconds\":%.6f}\n", static_cast<unsigned long long>(packets - refused),
              static_cast<unsigned long long>(refused), seconds);
  return 0;
}

int64_t arrivalNs(msghdr& header) {
  for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
    if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SO_TIMESTAMPNS) continue;
    timespec stamp{};
    std::memcpy(&stamp, CMSG_DATA(item), sizeof stamp);
    return stamp.tv_sec * kNsPerS + stamp.tv_nsec;
  }
  return nowNs(CLOCK_REALTIME);
}

int receive(int port, uint64_t packets, int idleMs) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  sockaddr_in here{};
  here.sin_family = AF_INET;
  here.sin_port = htons(static_cast<uint16_t>(port));
  if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&here), sizeof here) != 0) fail("bind");
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &kBufferBytes, sizeof kBufferBytes);
  setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
  std::vector<int64_t> delaysNs;
  delaysNs.reserve(packets);
  uint64_t highest = 0;
  uint64_t reordered = 0;
  std::printf("ready\n");
  std::fflush(stdout);
  int64_t firstNs = 0;
  int64_t lastNs = 0;
  while (delaysNs.size() < packets) {
    pollfd ready{fd, POLLIN, 0};
    if (poll(&ready, 1, idleMs) <= 0) break;
    messages.prepare(kMaxOctets, true);
    const int count = recvmmsg(fd, messages.headers, kBatch, MSG_DONTWAIT, nullptr);
    for (int i = 0; i < count; i += 1) {
      Payload payload{};
      std::memcpy(&payload, messages.data[i], sizeof payload);
      lastNs = arrivalNs(messages.headers[i].msg_hdr);
      if (firstNs == 0) firstNs = lastNs;
      delaysNs.push_back(lastNs - payload.sentNs);
      reordered += payload.number + 1 < highest;
      highest = std::max(highest, payload.number + 1);
    }
  }
  std::sort(delaysNs.begin(), delaysNs.end());
  const auto quantileUs = [&delaysNs](double q) {
    if (delaysNs.empty()) return 0.0;
    const auto rank = static_cast<size_t>(q * static_cast<double>(delaysNs.size() - 1));
    return static_cast<double>(delaysNs[rank]) / 1000;
  };
  std::printf(
      "{\"received\":%zu,\"reordered\":%llu,\"seconds\":%.6f,\"delayUs\":{\"min\":%.3f,\"p50\":%.3f,\"p99\":%.3f,"
      "\"max\":%.3f}}\n",
      delaysNs.size(), static_cast<unsigned long long>(reordered), static_cast<double>(lastNs - firstNs) / 1e9,
      quantileUs(0), quantileUs(0.5), quantileUs(0.99), quantileUs(1));
  return 0;
}

struct Request {
  iphdr ip;
  udphdr udp;
  uint8_t stamp[44];
};

int flood(char** arguments) {
  in_addr source{};
  in_addr target{};
  if (inet_pton(AF_INET, arguments[0], &source) != 1 || inet_pton(AF_INET, arguments[3], &target) != 1) fail("address");
  const auto sources = static_cast<uint32_t>(std::max(1, std::atoi(arguments[1])));
  const int sourcePort = std::atoi(arguments[2]);
  const uint64_t packets = std::strtoull(arguments[5], nullptr, 10);
  const double perSecond = std::atof(arguments[6]);
  const int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
  if (fd < 0) fail("socket");
  setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kBufferBytes, sizeof kBufferBytes);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr = target;
  messages.prepare(sizeof(Request), false);
  for (auto& header : messages.headers) {
    header.msg_hdr.msg_name = &to;
    header.msg_hdr.msg_namelen = sizeof to;
  }
  const int64_t startNs = nowNs(CLOCK_MONOTONIC);
  uint64_t sent = 0;
  for (uint64_t next = 0; next < packets;) {
    const int64_t elapsedNs = nowNs(CLOCK_MONOTONIC) - startNs;
    const uint64_t due = std::min(packets, static_cast<uint64_t>(static_cast<double>(elapsedNs) * perSecond / 1e9) + 1);
    const int count = static_cast<int>(std::min<uint64_t>(due > next ? due - next : 0, kBatch));
    if (count == 0) {
      const timespec pause{0, 50'000};
      nanosleep(&pause, nullptr);
      continue;
    }
    for (int i = 0; i < count; i += 1) {
      const uint64_t number = next + static_cast<uint64_t>(i);
      Request request{};
      request.ip.version = 4;
      request.ip.ihl = 5;
      request.ip.ttl = 64;
      request.ip.protocol = IPPROTO_UDP;
      request.ip.tot_len = htons(sizeof request);
      request.ip.saddr = htonl(ntohl(source.s_addr) + static_cast<uint32_t>(number % sources));
      request.ip.daddr = target.s_addr;
      request.udp.source = htons(static_cast<uint16_t>(sourcePort != 0 ? sourcePort : 1'024 + number / sources % 60'000));
      request.udp.dest = htons(static_cast<uint16_t>(std::atoi(arguments[4])));
      request.udp.len = htons(sizeof request.udp + sizeof request.stamp);
      const uint32_t wireNumber = htonl(static_cast<uint32_t>(number));
      std::memcpy(request.stamp, &wireNumber, sizeof wireNumber);
      std::memset(request.stamp + 4, 0x11, 8);
      std::memcpy(messages.data[i], &request, sizeof request);
    }
    const int taken = sendmmsg(fd, messages.headers, static_cast<unsigned>(count), 0);
    sent += taken > 0 ? static_cast<uint64_t>(taken) : 0;
    next += static_cast<uint64_t>(std::max(taken, 1));
  }
  const double seconds = static_cast<double>(nowNs(CLOCK_MONOTONIC) - startNs) / 1e9;
  std::printf("{\"sent\":%llu,\"octets\":%llu,\"seconds\":%.6f}\n", static_cast<unsigned long long>(sent),
              static_cast<unsigned long long>(sent * sizeof(Request)), seconds);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_TIMERSLACK, 1UL);
  if (argc == 7 && std::strcmp(argv[1], "send") == 0) {
    return send(argv[2], std::atoi(argv[3]), std::strtoull(argv[4], nullptr, 10), std::atof(argv[5]),
                std::strtoull(argv[6], nullptr, 10));
  }
  if (argc == 5 && std::strcmp(argv[1], "receive") == 0) {
    return receive(std::atoi(argv[2]), std::strtoull(argv[3], nullptr, 10), std::atoi(argv[4]));
  }
  if (argc == 9 && std::strcmp(argv[1], "flood") == 0) return flood(argv + 2);
  std::fputs("usage: udp-load send ADDRESS PORT PACKETS PER_SECOND OCTETS | receive PORT PACKETS IDLE_MS |\n"
      "       flood SOURCE SOURCES SOURCE_PORT ADDRESS PORT PACKETS PER_SECOND\n", stderr);
  return 2;
}
