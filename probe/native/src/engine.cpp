#include "engine.hpp"

#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <bitset>
#include <cerrno>
#include <chrono>
#include <limits>

#include "socket.hpp"

namespace wanscope {

namespace {

/** Linux 6.13: a stamp's number travels with the packet. Older headers do not name it. */
constexpr int kScmTsOptId = 81;
constexpr int64_t kMs = 1'000'000;
constexpr int64_t kShortestGapNs = 1 * kMs;
constexpr int64_t kLongestGapNs = 10 * kMs;
/** How often the engine looks for answers, and how seldom while none come. */
constexpr int64_t kDrainGapNs = 50 * kMs;
constexpr int64_t kLongestDrainGapNs = 100 * kMs;
/**
 * How often the reader is woken at most, unless the ring fills: less than a look for answers takes to come again, so that it is
 * woken by the look that found something. Whoever cannot wait drains.
 */
constexpr int64_t kWakeGapNs = 40 * kMs;
/** It looks earlier when so many have been sent: what it reads is still in the processor's caches then. */
constexpr size_t kPacketsPerDrain = 128;
/** Packets that make a tick worth its system calls. */
constexpr double kPacketsPerTick = 32;
/** Below this rate each probe leaves at its own time. */
constexpr double kLoneRatePerS = 250;
/** The kernel stamps by then, or not at all. */
constexpr int64_t kStampsBeginNs = 100 * kMs;
/** After a pause of so long the processor's caches have forgotten how to send. */
constexpr int64_t kColdAfterNs = 2 * kMs;
/** A transmit stamp that has not come by then will not. */
constexpr int64_t kStampWaitNs = 50 * kMs;
constexpr size_t kMaxWaiting = 1 << 16;
constexpr uint32_t kMaxAttempts = 20;
constexpr size_t kBatch = 64;
/**
 * Sent before what came back is read, however many are due: more would be a burst, fill the receive queue with answers and push stamps out
 * of it.
 */
constexpr size_t kPacketsPerTurn = 128;
/** Probes of a stream of which it is known whether they wait for an answer; divides 2^32. */
constexpr uint32_t kWindow = 1'024;
constexpr uint32_t kTxSlots = 1 << 13;
/** Of a socket that only one trace sends from. */
constexpr uint32_t kTraceTxSlots = 1 << 8;
constexpr size_t kMessageBytes = 192;
constexpr size_t kMaxPacketBytes = 9'100;
/** Hop limits of a trace, and so the octets by which its UDP probes differ in length. */
constexpr uint32_t kMaxHops = 64;
constexpr int kQuoteBufferBytes = 256 * 1'024;
/** What follows a packet's head. */
const uint8_t kZeros[kMaxPacketBytes + kMaxHops]{};

/** The octets of an address: 4 or 16. */
const uint8_t* octetsOf(const sockaddr_storage& address) {
  return address.ss_family == AF_INET6
             ? reinterpret_cast<const sockaddr_in6&>(address).sin6_addr.s6_addr
             : reinterpret_cast<const uint8_t*>(&reinterpret_cast<const sockaddr_in&>(address).sin_addr);
}

uint16_t portOf(const sockaddr_storage& address) {
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

bool sameAddress(const sockaddr_storage& a, const sockaddr_storage& b, bool withPort) {
  if (a.ss_family != b.ss_family) return false;
  if (a.ss_family == AF_INET6) {
    const auto& x = reinterpret_cast<const sockaddr_in6&>(a);
    const auto& y = reinterpret_cast<const sockaddr_in6&>(b);
    return std::memcmp(&x.sin6_addr, &y.sin6_addr, 16) == 0 && (!withPort || x.sin6_port == y.sin6_port);
  }
  const auto& x = reinterpret_cast<const sockaddr_in&>(a);
  const auto& y = reinterpret_cast<const sockaddr_in&>(b);
  return x.sin_addr.s_addr == y.sin_addr.s_addr && (!withPort || x.sin_port == y.sin_port);
}

/** Leaves the index register at the quoted packet's transport header; the accumulator holds its protocol. Version 4. */
#define SKIP_QUOTED_IP4                         \
  BPF_STMT(BPF_LD | BPF_B | BPF_IND, 17),       \
  BPF_STMT(BPF_ST, 0),                          \
  BPF_STMT(BPF_LD | BPF_B | BPF_IND, 8),        \
  BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf),     \
  BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 2),       \
  BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),       \
  BPF_STMT(BPF_MISC | BPF_TAX, 0),              \
  BPF_STMT(BPF_LD | BPF_MEM, 0)

void attach(int fd, sock_filter* code, size_t length) {
  const sock_fprog program{static_cast<unsigned short>(length), code};
  setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

/** Lets complaints through, and answers where they are wanted: of the rest, others' requests say, no copy is made for this socket. */
void passTypes4(int fd, bool answers) {
  constexpr int kIcmpFilter = 1;
  const uint32_t passed = 1U << ICMP_DEST_UNREACH | 1U << ICMP_TIME_EXCEEDED | (answers ? 1U << ICMP_ECHOREPLY : 0U);
  const uint32_t blocked = ~passed;
  setsockopt(fd, SOL_RAW, kIcmpFilter, &blocked, sizeof blocked);
}

/** Lets only answers to `identifier` and complaints that quote it through. Packets start at the IP header. */
void filterIcmp4(int fd, uint16_t identifier) {
  passTypes4(fd, true);
  sock_filter code[] = {
      BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0),
      BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ICMP_ECHOREPLY, 0, 2),
      BPF_STMT(BPF_LD | BPF_H | BPF_IND, 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, identifier, 13, 14),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ICMP_DEST_UNREACH, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ICMP_TIME_EXCEEDED, 0, 12),
      SKIP_QUOTED_IP4,
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMP, 0, 3),
      BPF_STMT(BPF_LD | BPF_H | BPF_IND, 12),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, identifier, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0xffff),
      BPF_STMT(BPF_RET | BPF_K, 0),
  };
  attach(fd, code, sizeof code / sizeof code[0]);
}

/** The same for version 6, where packets start at the ICMP header. */
void filterIcmp6(int fd, uint16_t identifier) {
  icmp6_filter types;
  ICMP6_FILTER_SETBLOCKALL(&types);
  ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &types);
  for (const int type : {ICMP6_DST_UNREACH, ICMP6_PACKET_TOO_BIG, ICMP6_TIME_EXCEEDED}) {
    ICMP6_FILTER_SETPASS(type, &types);
  }
  setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &types, sizeof types);
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ICMP6_ECHO_REPLY, 0, 2),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, identifier, 4, 5),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMPV6, 0, 3),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 52),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, identifier, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0xffff),
      BPF_STMT(BPF_RET | BPF_K, 0),
  };
  attach(fd, code, sizeof code / sizeof code[0]);
}

/** Lets only complaints that quote UDP through. */
void filterQuotes(int fd, bool v6) {
  if (v6) {
    icmp6_filter types;
    ICMP6_FILTER_SETBLOCKALL(&types);
    for (const int type : {ICMP6_DST_UNREACH, ICMP6_PACKET_TOO_BIG, ICMP6_TIME_EXCEEDED}) {
      ICMP6_FILTER_SETPASS(type, &types);
    }
    setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &types, sizeof types);
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    attach(fd, code, sizeof code / sizeof code[0]);
    return;
  }
  passTypes4(fd, false);
  sock_filter code[] = {
      BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0),
      BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ICMP_DEST_UNREACH, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ICMP_TIME_EXCEEDED, 0, 3),
      BPF_STMT(BPF_LD | BPF_B | BPF_IND, 17),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0xffff),
      BPF_STMT(BPF_RET | BPF_K, 0),
  };
  attach(fd, code, sizeof code / sizeof code[0]);
}

/** Appends one control message; `at` is the room that is taken. */
void* addControl(uint8_t* control, size_t& at, int level, int type, size_t bytes) {
  auto* header = reinterpret_cast<cmsghdr*>(control + at);
  header->cmsg_level = level;
  header->cmsg_type = type;
  header->cmsg_len = CMSG_LEN(bytes);
  at += CMSG_SPACE(bytes);
  return CMSG_DATA(header);
}

/** Sends by this device, from this address; 0 and null: the system chooses. */
void addOrigin(uint8_t* control, size_t& at, bool v6, unsigned device, const sockaddr_storage* source) {
  if (v6) {
    in6_pktinfo info{};
    info.ipi6_ifindex = device;
    if (source != nullptr) info.ipi6_addr = reinterpret_cast<const sockaddr_in6*>(source)->sin6_addr;
    std::memcpy(addControl(control, at, IPPROTO_IPV6, IPV6_PKTINFO, sizeof info), &info, sizeof info);
  } else {
    in_pktinfo info{};
    info.ipi_ifindex = static_cast<int>(device);
    if (source != nullptr) info.ipi_spec_dst = reinterpret_cast<const sockaddr_in*>(source)->sin_addr;
    std::memcpy(addControl(control, at, IPPROTO_IP, IP_PKTINFO, sizeof info), &info, sizeof info);
  }
}

/** Don't-fragment on every packet whatever is known of the path, or as the system thinks fit. */
void discoverMtu(int fd, bool v6, bool always) {
  if (v6) setOption(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, always ? IPV6_PMTUDISC_PROBE : IPV6_PMTUDISC_WANT);
  else setOption(fd, IPPROTO_IP, IP_MTU_DISCOVER, always ? IP_PMTUDISC_PROBE : IP_PMTUDISC_WANT);
}

/**
 * A socket bound to a port of loopback, with stamps on; -1 where there is no loopback. `self` is its address.
 */
int openToItself(sockaddr_in& self) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  self = {};
  self.sin_family = AF_INET;
  self.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof self;
  setOption(fd, SOL_SOCKET, SO_TIMESTAMPING, static_cast<int>(stampFlags()));
  if (bind(fd, reinterpret_cast<sockaddr*>(&self), length) == 0 &&
      getsockname(fd, reinterpret_cast<sockaddr*>(&self), &length) == 0) {
    return fd;
  }
  close(fd);
  return -1;
}

/** Whether the kernel carries our number with a packet to its stamp; asked with a datagram to the socket that sends it. */
bool carriesNumbers(int fd, sockaddr_in& self) {
  alignas(cmsghdr) uint8_t control[CMSG_SPACE(sizeof(uint32_t))]{};
  size_t used = 0;
  std::memset(addControl(control, used, SOL_SOCKET, kScmTsOptId, sizeof(uint32_t)), 0, sizeof(uint32_t));
  uint8_t octet = 0;
  iovec vector{&octet, 1};
  msghdr message{};
  message.msg_name = &self;
  message.msg_namelen = sizeof self;
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = used;
  return sendmsg(fd, &message, 0) == 1;
}

/**
 * The kernel begins to stamp what arrives a moment after the first socket of the machine asked for it: waits for that, so
 * that the first answers have stamps.
 */
void awaitStamps(int fd, const sockaddr_in& self) {
  const int64_t giveUpNs = monoNs() + kStampsBeginNs;
  for (bool stamped = false; !stamped && monoNs() < giveUpNs;) {
    uint8_t octet = 0;
    if (sendto(fd, &octet, 1, 0, reinterpret_cast<const sockaddr*>(&self), sizeof self) != 1) return;
    pollfd waited{fd, POLLIN, 0};
    if (poll(&waited, 1, 1) < 0) return;
    alignas(cmsghdr) uint8_t control[kControlBytes];
    iovec vector{&octet, 1};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (recvmsg(fd, &message, MSG_DONTWAIT) < 0) message.msg_controllen = 0;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SO_TIMESTAMPING) continue;
      stamped = nsOf(reinterpret_cast<const scm_timestamping*>(CMSG_DATA(header))->ts[0]) != 0;
    }
    if (!stamped) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace

uint32_t stampFlags() {
  return SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE |
         SOF_TIMESTAMPING_OPT_ID | SOF_TIMESTAMPING_OPT_TSONLY;
}

struct Engine::Stream {
  uint32_t id;
  Port* port;
  sockaddr_storage destination;
  socklen_t destinationLength;
  uint16_t ssid;
  uint16_t length;
  uint16_t checksum;
  bool traces;
  bool probesMtu;
  /** The latest probe of each hop limit, plus 1: what a short quote is about. */
  uint32_t latest[kMaxHops];
  int64_t timeoutNs;
  std::unique_ptr<Hmac> hmac;
  /** Asked of the reflector. */
  Questions asked;
  alignas(cmsghdr) uint8_t control[96];
  size_t controlLength;
  /** By sequence number: it waits for its first answer; its transmit stamp is not the kernel's. */
  std::bitset<kWindow> awaited;
  std::bitset<kWindow> ownStamp;
};

/** One socket, the probes that wait for their stamps, and the memory its batches are sent and read with. */
struct Engine::Port {
  SocketKind kind = SocketKind::kUdp;
  bool v6 = false;
  std::string source;
  std::string device;
  DomainRef domain;
  uint16_t sourcePort = 0;
  /** All its streams are of the authenticated mode: their fields are elsewhere. */
  bool authenticated = false;
  /** The port it is bound to. */
  uint16_t boundPort = 0;
  int fd = -1;
  /** Where packets go that warm the way; no length: there are none. */
  sockaddr_storage self{};
  socklen_t selfLength = 0;
  unsigned loopback = 0;
  int64_t lastSentNs = 0;
  /** The kernel carries our number with each packet, so that a failed send cannot shift the match. */
  bool numbersTravel = false;
  /** Until when answers are awaited here. */
  int64_t awaitUntilNs = 0;
  /** When the receive queue was last seen empty: what is in it now came later. */
  int64_t lastEmptyNs = 0;
  size_t streams = 0;
  std::unordered_map<uint16_t, Stream*> bySsid;

  enum TxState : uint8_t { kFree, kAwaitsStamp };
  struct Tx {
    uint32_t stream;
    uint32_t seq;
    int64_t dueNs;
    int64_t userNs;
    Token token;
    /** The probe before it in its bucket. */
    uint32_t before;
    TxState state;
  };
  const uint32_t slots;
  std::vector<Tx> tx;
  /** The latest probe of each bucket, so that an answer finds its probe without a search through all that wait. */
  std::vector<uint32_t> buckets;
  uint32_t txNext = 0;
  uint32_t txOldest = 0;
  /** Our number of the packet that the socket's own counter calls zero. */
  uint32_t counterStart = 0;
  uint32_t lastOverflow = 0;

  size_t batch = 0;
  Due due[kBatch];
  Stream* targets[kBatch];
  Token tokens[kBatch];
  mmsghdr out[kBatch];
  iovec outVectors[kBatch][2];
  uint8_t heads[kBatch][kHeadBytes];
  alignas(cmsghdr) uint8_t outControls[kBatch][128];

  mmsghdr in[kBatch];
  iovec inVectors[kBatch];
  sockaddr_storage from[kBatch];
  uint8_t messages[kBatch][kMessageBytes];
  alignas(cmsghdr) uint8_t inControls[kBatch][kControlBytes];
  mmsghdr stamps[kBatch];
  alignas(cmsghdr) uint8_t stampControls[kBatch][kControlBytes];

  explicit Port(uint32_t slotCount = kTxSlots) : slots(slotCount), tx(slotCount), buckets(slotCount) {}
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;
  ~Port() {
    if (fd >= 0) close(fd);
  }

  uint32_t& bucketOf(uint32_t stream, uint32_t seq) {
    return buckets[((stream * 0x9e3779b1U) ^ (seq * 0x85ebca6bU)) >> 7 & (slots - 1)];
  }

  /** True while number `key` waits for its stamp or has not been passed over. */
  bool isOut(uint32_t key) const { return key - txOldest < txNext - txOldest; }

  /** Number `key` is of a packet that was just sent. */
  void advance(uint32_t key) {
    txNext = key + 1;
    if (txNext - txOldest > slots) txOldest = txNext - slots;
  }

  /** Its own address, or the loopback's: over the loopback in any case, which a socket of a device cannot be reached by. */
  void findSelf() {
    loopback = if_nametoindex("lo");
    socklen_t length = sizeof self;
    if (loopback == 0 || !device.empty() || getsockname(fd, reinterpret_cast<sockaddr*>(&self), &length) != 0) return;
    if (v6) {
      auto& own = reinterpret_cast<sockaddr_in6&>(self);
      if (IN6_IS_ADDR_UNSPECIFIED(&own.sin6_addr)) own.sin6_addr = in6addr_loopback;
      // By another address the rules of a domain may lead elsewhere.
      else if (domain != nullptr) return;
      else loopback = 0;
      if (kind != SocketKind::kUdp) own.sin6_port = 0;
    } else {
      auto& own = reinterpret_cast<sockaddr_in&>(self);
      if (own.sin_addr.s_addr == htonl(INADDR_ANY)) own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    }
    selfLength = length;
  }

  /** What it receives begins with the IP header. */
  bool givesHeader() const { return (kind == SocketKind::kRawIcmp || kind == SocketKind::kQuotes) && !v6; }

  void prepare() {
    std::memset(in, 0, sizeof in);
    std::memset(stamps, 0, sizeof stamps);
    std::memset(out, 0, sizeof out);
    for (size_t i = 0; i < kBatch; i += 1) {
      inVectors[i] = {messages[i], kMessageBytes};
      in[i].msg_hdr.msg_iov = &inVectors[i];
      in[i].msg_hdr.msg_iovlen = 1;
      in[i].msg_hdr.msg_name = &from[i];
      in[i].msg_hdr.msg_control = inControls[i];
      stamps[i].msg_hdr.msg_control = stampControls[i];
      outVectors[i][0].iov_base = heads[i];
      outVectors[i][1].iov_base = const_cast<uint8_t*>(kZeros);
      out[i].msg_hdr.msg_iov = outVectors[i];
      out[i].msg_hdr.msg_control = outControls[i];
    }
  }

  /** Starts the socket's own counter again at zero. */
  void restartCounter() {
    setOption(fd, SOL_SOCKET, SO_TIMESTAMPING, 0);
    setOption(fd, SOL_SOCKET, SO_TIMESTAMPING, static_cast<int>(stampFlags()));
    counterStart = txNext;
  }
};

Engine::Engine(const EngineOptions& options, double* rows, size_t rowCapacity, std::function<void()> wake)
    : options_(options), cookie_(options.cookieKey), rows_(rows), rowMask_(rowCapacity - 1), wake_(std::move(wake)) {
  submitted_.reserve(1'024);
  sockaddr_in self;
  stampKeeper_ = openToItself(self);
  if (stampKeeper_ >= 0) {
    numbersTravel_ = !options.countStamps && carriesNumbers(stampKeeper_, self);
    awaitStamps(stampKeeper_, self);
  }
  wallClock_.observe();
  lastTickNs_ = lastDrainNs_ = rateSinceNs_ = monoNs();
  drainGapNs_ = kDrainGapNs;
  thread_ = std::thread([this] { run(); });
}

Engine::~Engine() {
  {
    const std::lock_guard<std::mutex> lock(submitMutex_);
    stopping_ = true;
  }
  submitSignal_.notify_one();
  thread_.join();
  if (stampKeeper_ >= 0) close(stampKeeper_);
}

int Engine::openPort(Port& port) {
  return inDomain(port.domain, [&] { return openPortHere(port); });
}

int Engine::openPortHere(Port& port) {
  const int domain = port.v6 ? AF_INET6 : AF_INET;
  const bool icmp = port.kind != SocketKind::kUdp;
  const bool raw = port.kind == SocketKind::kRawIcmp || port.kind == SocketKind::kQuotes;
  const int type = raw ? SOCK_RAW : SOCK_DGRAM;
  const int protocol = !icmp ? 0 : port.v6 ? static_cast<int>(IPPROTO_ICMPV6) : static_cast<int>(IPPROTO_ICMP);
  const int fd = socket(domain, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
  if (fd < 0) return errno;
  port.fd = fd;
  if (port.domain != nullptr) {
    if (const int error = port.domain->prepare(fd)) return error;
  }
  const auto buffer = port.kind == SocketKind::kQuotes ? kQuoteBufferBytes : static_cast<int>(options_.receiveBufferBytes);
  // The forced form passes over the system's limit and needs a privilege.
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) != 0) setOption(fd, SOL_SOCKET, SO_RCVBUF, buffer);
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer) != 0) setOption(fd, SOL_SOCKET, SO_SNDBUF, buffer);
  // What is dropped among complaints about packets, other people's too, is no answer.
  if (port.kind != SocketKind::kQuotes) setOption(fd, SOL_SOCKET, SO_RXQ_OVFL, 1);
  if (port.v6) {
    setOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    setOption(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
    setOption(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    if (icmp) setOption(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
  } else {
    // A raw socket gives the header, where both are.
    if (!port.givesHeader()) {
      setOption(fd, IPPROTO_IP, IP_RECVTTL, 1);
      setOption(fd, IPPROTO_IP, IP_RECVTOS, 1);
    }
    // Do not fragment: a probe that is too large for the path is an answer in itself.
    if (icmp) setOption(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
  }
  if (port.kind == SocketKind::kRawIcmp) {
    if (port.v6) filterIcmp6(fd, options_.identifier);
    else filterIcmp4(fd, options_.identifier);
  } else if (port.kind == SocketKind::kQuotes) {
    filterQuotes(fd, port.v6);
  }
  if (!icmp) {
    if (!port.device.empty() && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, port.device.c_str(),
                                           static_cast<socklen_t>(port.device.size() + 1)) != 0) {
      return errno;
    }
    sockaddr_storage address;
    socklen_t length;
    const std::string any = port.v6 ? "::" : "0.0.0.0";
    if (!parseAddress(port.source.empty() ? any : port.source, port.v6, port.sourcePort, address, length)) return EINVAL;
    if (bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0) return errno;
    length = sizeof address;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0) port.boundPort = portOf(address);
  }
  if (port.kind == SocketKind::kUdp || port.kind == SocketKind::kRawIcmp) port.findSelf();
  const auto flags = static_cast<int>(stampFlags());
  if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof flags) != 0) return errno;
  port.numbersTravel = numbersTravel_;
  port.lastEmptyNs = monoNs();
  port.prepare();
  return 0;
}

int Engine::openIcmp(bool v6, const DomainRef& domain) {
  const std::lock_guard<std::mutex> lock(mutex_);
  int error = 0;
  for (const auto kind : {SocketKind::kRawIcmp, SocketKind::kIcmp}) {
    if (kind == SocketKind::kRawIcmp && options_.unprivileged) continue;
    auto port = std::make_unique<Port>();
    port->kind = kind;
    port->v6 = v6;
    port->domain = domain;
    const int failed = openPort(*port);
    if (failed == 0) {
      ports_.push_back(std::move(port));
      if (kind == SocketKind::kIcmp) return 0;
      auto quotes = std::make_unique<Port>(1U);
      quotes->kind = SocketKind::kQuotes;
      quotes->v6 = v6;
      quotes->domain = domain;
      if (openPort(*quotes) == 0) ports_.push_back(std::move(quotes));
      return 0;
    }
    error = failed;
  }
  return error;
}

bool Engine::icmpIsRaw(bool v6) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::any_of(ports_.begin(), ports_.end(),
                     [v6](const auto& port) {
                       return port->v6 == v6 && port->domain == nullptr && port->kind == SocketKind::kRawIcmp;
                     });
}

Engine::Port* Engine::quotesPort(bool v6, const DomainRef& domain) {
  for (const auto& port : ports_) {
    if (port->v6 == v6 && port->domain == domain && port->kind == SocketKind::kQuotes) return port.get();
  }
  return nullptr;
}

uint16_t Engine::streamFlow(uint32_t id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = streams_.find(id);
  if (found == streams_.end()) return 0;
  const Stream& stream = *found->second;
  return stream.port->kind == SocketKind::kUdp ? stream.port->boundPort : stream.checksum;
}

/** One that no other stream of a port they could share has, if there is one. */
uint16_t Engine::chooseSsid(const StreamOptions& options) const {
  const auto shared = [&](const auto& port) {
    return port->kind == SocketKind::kUdp && port->v6 == options.v6 && port->domain == options.domain &&
           port->source == options.source && port->device == options.device && port->sourcePort == options.sourcePort;
  };
  const auto nth = [&](uint32_t n) {
    if (options.ssidClass == 0) return static_cast<uint16_t>(n % 0xffff + 1);
    return static_cast<uint16_t>(options.ssidClass + kSsidClasses * (n % kSsidsOfClass));
  };
  if (options.ssidClass == 0) return nth(options.id);
  for (uint32_t i = 0; i < kSsidsOfClass; i += 1) {
    const uint16_t ssid = nth(options.id + i);
    const bool taken = std::any_of(ports_.begin(), ports_.end(), [&](const auto& port) {
      if (!shared(port)) return false;
      const auto found = port->bySsid.find(ssid);
      return found != port->bySsid.end() && found->second->id != options.id;
    });
    if (!taken) return ssid;
  }
  return nth(options.id);
}

Engine::Port* Engine::portFor(const StreamOptions& options, uint16_t ssid, int& error) {
  for (const auto& port : ports_) {
    if (port->kind == SocketKind::kQuotes) continue;
    if (port->v6 != options.v6 || port->domain != options.domain) continue;
    if ((port->kind == SocketKind::kUdp) != options.udp) continue;
    if (!options.udp) return port.get();
    const auto taken = port->bySsid.find(ssid);
    if (port->source == options.source && port->device == options.device && port->sourcePort == options.sourcePort &&
        port->authenticated == !options.key.empty() &&
        (taken == port->bySsid.end() || taken->second->id == options.id)) {
      return port.get();
    }
  }
  if (!options.udp) {
    error = EACCES;
    return nullptr;
  }
  auto port = std::make_unique<Port>(options.traces && options.sourcePort != 0 ? kTraceTxSlots : kTxSlots);
  port->v6 = options.v6;
  port->source = options.source;
  port->device = options.device;
  port->domain = options.domain;
  port->sourcePort = options.sourcePort;
  port->authenticated = !options.key.empty();
  error = openPort(*port);
  if (error != 0) return nullptr;
  ports_.push_back(std::move(port));
  return ports_.back().get();
}

int Engine::openStream(const StreamOptions& options) {
  return inDomain(options.domain, [&] { return openStreamHere(options); });
}

int Engine::openStreamHere(const StreamOptions& options) {
  closeStream(options.id);
  const std::lock_guard<std::mutex> lock(mutex_);
  auto stream = std::make_unique<Stream>();
  stream->id = options.id;
  stream->ssid = chooseSsid(options);
  stream->timeoutNs = options.timeoutNs;
  stream->traces = options.traces;
  stream->probesMtu = options.probesMtu;
  if (!options.traces && !options.probesMtu) stream->asked = {options.dscp, options.asksCounts};
  std::memset(stream->latest, 0, sizeof stream->latest);
  if (!options.key.empty()) stream->hmac = std::make_unique<Hmac>(options.key);
  const size_t least = stream->hmac ? kAuthenticatedBytes : options.udp ? kStampBytes : kEchoBytes;
  stream->length = static_cast<uint16_t>(std::min(kMaxPacketBytes, std::max<size_t>(least, options.length)));
  stream->checksum = !options.udp && stream->length >= kBalancedEchoBytes ? options.checksum : 0;
  if (!parseAddress(options.destination, options.v6, options.udp ? options.port : 0, stream->destination,
                    stream->destinationLength)) {
    return EINVAL;
  }
  sockaddr_storage source{};
  socklen_t sourceLength = 0;
  if (!options.source.empty() && !parseAddress(options.source, options.v6, 0, source, sourceLength)) return EINVAL;
  const unsigned device = options.device.empty() ? 0 : if_nametoindex(options.device.c_str());
  if (!options.device.empty() && device == 0) return ENODEV;
  int error = 0;
  Port* port = portFor(options, stream->ssid, error);
  if (port == nullptr) return error;
  stream->port = port;
  size_t used = 0;
  std::memset(stream->control, 0, sizeof stream->control);
  if (!options.udp && (!options.source.empty() || device != 0)) {
    addOrigin(stream->control, used, options.v6, device, options.source.empty() ? nullptr : &source);
  }
  if (options.dscp != 0) {
    const int value = options.dscp << 2;
    void* at = options.v6 ? addControl(stream->control, used, IPPROTO_IPV6, IPV6_TCLASS, sizeof value)
                          : addControl(stream->control, used, IPPROTO_IP, IP_TOS, sizeof value);
    std::memcpy(at, &value, sizeof value);
  }
  stream->controlLength = used;
  port->streams += 1;
  if (options.udp) port->bySsid[stream->ssid] = stream.get();
  streams_[options.id] = std::move(stream);
  // What others were told meanwhile leaves no room for what is about to come.
  if (options.udp && options.traces) {
    if (Port* quotes = quotesPort(options.v6, options.domain)) drainPort(*quotes);
  }
  return 0;
}

void Engine::closeStream(uint32_t id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  Port* port = found->second->port;
  port->streams -= 1;
  if (port->kind == SocketKind::kUdp) port->bySsid.erase(found->second->ssid);
  streams_.erase(found);
  if (port->streams > 0 || port->kind != SocketKind::kUdp) return;
  ports_.erase(std::find_if(ports_.begin(), ports_.end(), [port](const auto& each) { return each.get() == port; }));
}

bool Engine::submit(uint32_t stream, uint32_t seq, int64_t dueNs) {
  bool wakes = false;
  {
    const std::lock_guard<std::mutex> lock(submitMutex_);
    if (submitted_.size() + waiting_ >= kMaxWaiting) return false;
    submitted_.push_back({dueNs, stream, seq, 0});
    wakes = dueNs < wakeAtNs_;
  }
  if (wakes) submitSignal_.notify_one();
  return true;
}

bool Engine::submitBatch(const double* triples, size_t count) {
  bool wakes = false;
  {
    const std::lock_guard<std::mutex> lock(submitMutex_);
    if (submitted_.size() + waiting_ + count > kMaxWaiting) return false;
    for (size_t i = 0; i < count; i += 1) {
      const double* triple = triples + 3 * i;
      const int64_t dueNs = static_cast<int64_t>(triple[2]) + options_.baseNs;
      submitted_.push_back({dueNs, static_cast<uint32_t>(triple[0]), static_cast<uint32_t>(triple[1]), 0});
      wakes = wakes || dueNs < wakeAtNs_;
    }
  }
  if (wakes) submitSignal_.notify_one();
  return true;
}

void Engine::drain() {
  const std::lock_guard<std::mutex> lock(mutex_);
  drainPorts(kNever);
  const int64_t now = monoNs();
  for (const auto& port : ports_) emitStale(*port, now - kStampWaitNs);
  lastDrainNs_ = counts_.drainedNs = now;
}

uint64_t Engine::takeRows() {
  wakePending_.store(false, std::memory_order_seq_cst);
  return rowsWritten_.load(std::memory_order_seq_cst);
}

EngineCounts Engine::counts() {
  const std::lock_guard<std::mutex> lock(mutex_);
  EngineCounts counts = counts_;
  counts.wallSteps = wallClock_.steps();
  counts.sockets = ports_.size();
  return counts;
}

int64_t Engine::wakeReader(int64_t now) {
  const uint64_t unread = rowsWritten_.load(std::memory_order_relaxed) - rowsRead_.load(std::memory_order_acquire);
  if (unread == 0 || wakePending_.load(std::memory_order_seq_cst)) return kNever;
  if (now < lastWakeNs_ + kWakeGapNs && unread <= rowMask_ / 4) return lastWakeNs_ + kWakeGapNs;
  lastWakeNs_ = now;
  if (!wakePending_.exchange(true, std::memory_order_seq_cst)) wake_();
  return kNever;
}

int64_t Engine::tickGapNs() const {
  if (ratePerS_ < kLoneRatePerS) return kShortestGapNs;
  const auto gap = static_cast<int64_t>(kPacketsPerTick / ratePerS_ * 1e9);
  return std::clamp(gap, kShortestGapNs, kLongestGapNs);
}

void Engine::takeSubmitted() {
  const std::lock_guard<std::mutex> lock(submitMutex_);
  for (const Due& due : submitted_) queue_.push(due);
  submitted_.clear();
  waiting_ = queue_.size();
}

void Engine::run() {
  prctl(PR_SET_NAME, "wan-engine");
  // The default lets the kernel deliver this thread's timers 50 us late.
  prctl(PR_SET_TIMERSLACK, 1'000UL);
  if (!options_.readSockets) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ring_.open();
  }
  for (;;) {
    int64_t wakeAt = kNever;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      takeSubmitted();
      int64_t now = monoNs();
      if (!queue_.empty() && queue_.front().dueNs <= now && (isBehind_ || now >= lastTickNs_ + tickGapNs())) {
        lastTickNs_ = now;
        if (!isBehind_) counts_.ticks += 1;
        // The first look for the answers to what follows a pause is a whole gap after it.
        if (now >= awaitUntilNs_) lastDrainNs_ = now;
        isBehind_ = !sendDue(now);
        drainGapNs_ = kDrainGapNs;
      }
      if (now < awaitUntilNs_ && (now >= lastDrainNs_ + drainGapNs_ || sentSinceDrain_ >= kPacketsPerDrain)) {
        const uint64_t before = rowsWritten_.load(std::memory_order_relaxed);
        drainPorts(now);
        now = monoNs();
        for (const auto& port : ports_) emitStale(*port, now - kStampWaitNs);
        lastDrainNs_ = counts_.drainedNs = now;
        sentSinceDrain_ = 0;
        const bool quiet = rowsWritten_.load(std::memory_order_relaxed) == before;
        drainGapNs_ = quiet ? std::min(drainGapNs_ * 2, kLongestDrainGapNs) : kDrainGapNs;
      }
      if (isBehind_) wakeAt = now;
      else if (!queue_.empty()) wakeAt = std::max(queue_.front().dueNs, lastTickNs_ + tickGapNs());
      // A tick that comes soon looks for answers, too.
      if (now < awaitUntilNs_ && wakeAt > lastDrainNs_ + drainGapNs_ + kLongestGapNs) wakeAt = lastDrainNs_ + drainGapNs_;
    }
    wakeAt = std::min(wakeAt, wakeReader(monoNs()));
    std::unique_lock<std::mutex> lock(submitMutex_);
    waiting_ = queue_.size();
    wakeAtNs_ = wakeAt;
    while (!stopping_) {
      int64_t until = wakeAtNs_;
      for (const Due& due : submitted_) until = std::min(until, std::max(due.dueNs, lastTickNs_ + kShortestGapNs));
      if (until == kNever) {
        submitSignal_.wait(lock);
        continue;
      }
      const std::chrono::steady_clock::time_point when{std::chrono::nanoseconds(until)};
      if (monoNs() >= until || submitSignal_.wait_until(lock, when) == std::cv_status::timeout) break;
    }
    if (stopping_) return;
    wakeAtNs_ = INT64_MIN;
  }
}

double* Engine::nextRow() {
  const uint64_t written = rowsWritten_.load(std::memory_order_relaxed);
  if (written - rowsRead_.load(std::memory_order_acquire) > rowMask_) {
    counts_.rowsDropped += 1;
    return nullptr;
  }
  return rows_ + (written & rowMask_) * kRowNumbers;
}

size_t Engine::freeRows() const {
  return rowMask_ + 1 - (rowsWritten_.load(std::memory_order_relaxed) - rowsRead_.load(std::memory_order_acquire));
}

namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

void fill(double* row, double meta, uint32_t stream, uint32_t seq, int64_t time, Token token, double a, double b) {
  row[0] = meta;
  row[1] = stream;
  row[2] = seq;
  row[3] = static_cast<double>(time);
  row[4] = token.high;
  row[5] = token.low;
  row[6] = a;
  row[7] = b;
  row[8] = row[9] = row[10] = row[11] = kUnknown;
}

}  // namespace

bool Engine::sendDue(int64_t now) {
  if (now - rateSinceNs_ >= 100 * kMs) {
    ratePerS_ = static_cast<double>(rateCount_) * 1e9 / static_cast<double>(now - rateSinceNs_);
    rateCount_ = 0;
    rateSinceNs_ = now;
  }
  // What has no room for what it will tell waits here, late, instead of being lost later.
  const size_t room = freeRows();
  const size_t most = room > 4 * kBatch ? std::min((room - 4 * kBatch) / 2, kPacketsPerTurn) : 0;
  bool allTaken = true;
  const auto send = [&](Port& port) { allTaken = flush(port, now) && allTaken; };
  for (size_t left = most; left > 0 && !queue_.empty() && queue_.front().dueNs <= now; left -= 1) {
    const Due due = queue_.front();
    queue_.pop();
    const auto found = streams_.find(due.stream);
    if (found == streams_.end()) continue;
    Port& port = *found->second->port;
    // The system sends larger packets whole only where the socket is told to, and the other streams are not to notice.
    const bool alone = found->second->probesMtu && port.kind == SocketKind::kUdp;
    if (alone && port.batch > 0) send(port);
    port.due[port.batch] = due;
    port.targets[port.batch++] = found->second.get();
    rateCount_ += 1;
    if (alone) discoverMtu(port.fd, port.v6, true);
    if (alone || port.batch == kBatch) send(port);
    if (alone) discoverMtu(port.fd, port.v6, false);
  }
  for (const auto& port : ports_) {
    if (port->batch > 0) send(*port);
  }
  return queue_.empty() || queue_.front().dueNs > now || most < kPacketsPerTurn || !allTaken;
}

/**
 * Sends a packet to ourselves where the one before was long ago. The kernel stamps a packet and then does more with it before it is
 * out, 1 to 2 us more when nothing of that is in the processor's caches; it would count as the network's.
 */
void Engine::warm(Port& port) {
  // To whoever has not asked, an answer that nobody waits for: our own filter does not let it through either.
  const uint16_t foreign = options_.identifier ^ 0xffffU;
  uint8_t echo[8]{};
  echo[0] = port.v6 ? uint8_t{ICMP6_ECHO_REPLY} : uint8_t{ICMP_ECHOREPLY};
  put16(echo + 2, port.v6 ? 0 : foreign ^ 0xffffU);
  put16(echo + 4, foreign);
  // A datagram of nothing comes back to our own socket, which looks at its length.
  iovec vector{echo, port.kind == SocketKind::kUdp ? 0 : sizeof echo};
  alignas(cmsghdr) uint8_t control[128]{};
  size_t used = 0;
  if (port.loopback != 0) addOrigin(control, used, port.v6, port.loopback, nullptr);
  const uint32_t key = port.txNext;
  if (port.numbersTravel) {
    std::memcpy(addControl(control, used, SOL_SOCKET, kScmTsOptId, sizeof key), &key, sizeof key);
  }
  const msghdr message{&port.self, port.selfLength, &vector, 1, control, used, 0};
  if (port.tx[key % port.slots].state == Port::kAwaitsStamp) emitSent(port, key - port.slots, 0);
  port.tx[key % port.slots].state = Port::kFree;
  port.advance(key);
  if (sendmsg(port.fd, &message, MSG_DONTWAIT) >= 0) return;
  port.selfLength = 0;
  if (!port.numbersTravel) countAnew(port);
}

/** Whether the socket counted a packet that it refused depends on how far that came: settles what is open. */
void Engine::countAnew(Port& port) {
  drainPort(port);
  emitStale(port, kNever);
  port.restartCounter();
}

bool Engine::flush(Port& port, int64_t now) {
  const size_t count = port.batch;
  port.batch = 0;
  const bool isMeasured = !port.targets[0]->traces && !port.targets[0]->probesMtu;
  const bool isCold = isMeasured && port.selfLength != 0 && now - port.lastSentNs > kColdAfterNs;
  port.lastSentNs = now;
  const uint32_t base = port.txNext + (isCold ? 1U : 0U);
  for (size_t i = 0; i < count; i += 1) {
    const Due& due = port.due[i];
    Stream& stream = *port.targets[i];
    uint8_t* head = port.heads[i];
    const int64_t time = monoNs();
    size_t headBytes = kEchoBytes;
    if (port.kind == SocketKind::kUdp && stream.hmac) {
      headBytes = kAuthenticatedBytes;
      port.tokens[i] = writeAuthenticatedStamp(head, stream.id, stream.ssid, due.seq, readClock(CLOCK_REALTIME),
                                               clockState_.estimate(time), cookie_, *stream.hmac);
    } else if (port.kind == SocketKind::kUdp) {
      headBytes = kStampBytes;
      port.tokens[i] = writeStamp(head, stream.id, stream.ssid, due.seq, readClock(CLOCK_REALTIME),
                                  clockState_.estimate(time), cookie_);
    } else {
      port.tokens[i] = writeEcho(head, port.v6, options_.identifier, stream.id, due.seq, time - options_.baseNs,
                                 stream.checksum, cookie_);
      if (stream.checksum != 0) headBytes = kBalancedEchoBytes;
    }
    if (port.kind == SocketKind::kUdp) {
      headBytes += writeQuestions(head, headBytes, stream.length - headBytes, stream.asked, stream.hmac.get());
    }
    const uint32_t hops = stream.traces ? due.seq % kMaxHops : 0;
    size_t length = stream.length + (port.kind == SocketKind::kUdp ? hops : 0);
    msghdr& message = port.out[i].msg_hdr;
    // The system takes one piece faster than two.
    message.msg_iovlen = length <= kHeadBytes ? 1 : 2;
    if (length <= kHeadBytes) {
      std::memset(head + headBytes, 0, length - headBytes);
      headBytes = length;
    }
    port.outVectors[i][0].iov_len = headBytes;
    port.outVectors[i][1].iov_len = length - headBytes;
    message.msg_name = &stream.destination;
    message.msg_namelen = stream.destinationLength;
    size_t used = stream.controlLength;
    std::memcpy(port.outControls[i], stream.control, used);
    if (hops != 0) {
      const auto value = static_cast<int>(hops);
      void* at = port.v6 ? addControl(port.outControls[i], used, IPPROTO_IPV6, IPV6_HOPLIMIT, sizeof value)
                         : addControl(port.outControls[i], used, IPPROTO_IP, IP_TTL, sizeof value);
      std::memcpy(at, &value, sizeof value);
    }
    if (port.numbersTravel) {
      const uint32_t key = base + static_cast<uint32_t>(i);
      std::memcpy(addControl(port.outControls[i], used, SOL_SOCKET, kScmTsOptId, sizeof key), &key, sizeof key);
    }
    message.msg_controllen = used;
  }
  if (isCold) warm(port);
  size_t first = 0;
  size_t refused = count;
  bool allTaken = true;
  while (first < count) {
    const int64_t userNs = monoNs();
    const int sent = sendmmsg(port.fd, port.out + first, static_cast<unsigned>(count - first), MSG_DONTWAIT);
    if (sent > 0) {
      for (size_t i = first; i < first + static_cast<size_t>(sent); i += 1) {
        const Due& due = port.due[i];
        // Numbers that travel are the position in the batch; the socket's own count only what was sent.
        const uint32_t key = port.numbersTravel ? base + static_cast<uint32_t>(i) : port.txNext;
        Port::Tx& tx = port.tx[key % port.slots];
        if (tx.state == Port::kAwaitsStamp) emitSent(port, key - port.slots, 0);
        uint32_t& bucket = port.bucketOf(due.stream, due.seq);
        tx = {due.stream, due.seq, due.dueNs, userNs, port.tokens[i], bucket, Port::kAwaitsStamp};
        bucket = key;
        port.targets[i]->awaited.set(due.seq % kWindow);
        port.targets[i]->ownStamp.reset(due.seq % kWindow);
        port.advance(key);
        const int64_t until = userNs + port.targets[i]->timeoutNs + kLongestDrainGapNs;
        if (port.targets[i]->traces || port.targets[i]->probesMtu) {
          port.targets[i]->latest[due.seq % kMaxHops] = due.seq + 1;
          Port* quotes = port.kind == SocketKind::kUdp ? quotesPort(port.v6, port.domain) : nullptr;
          if (quotes != nullptr && until > quotes->awaitUntilNs) quotes->awaitUntilNs = until;
        }
        if (until > port.awaitUntilNs) port.awaitUntilNs = until;
        if (until > awaitUntilNs_) awaitUntilNs_ = until;
      }
      counts_.sent += static_cast<uint64_t>(sent);
      sentSinceDrain_ += static_cast<size_t>(sent);
      first += static_cast<size_t>(sent);
      continue;
    }
    const int error = errno;
    if (error == EINTR) continue;
    Due due = port.due[first];
    // What a router says of one packet the system tells whoever sends next on a raw socket, once.
    if (port.kind == SocketKind::kRawIcmp && refused != first && error != EAGAIN && error != ENOBUFS) {
      refused = first;
      continue;
    }
    if ((error == EAGAIN || error == ENOBUFS) && due.attempts < kMaxAttempts) {
      // The device's queue is full: what is left waits for the next tick.
      for (size_t i = first; i < count; i += 1) {
        port.due[i].attempts += 1;
        queue_.push(port.due[i]);
      }
      allTaken = false;
      break;
    }
    counts_.failed += 1;
    if (double* row = nextRow()) {
      fill(row, kFailed, due.stream, due.seq, now - options_.baseNs, {}, error, 0);
      rowsWritten_.fetch_add(1, std::memory_order_release);
    }
    first += 1;
    if (!port.numbersTravel) countAnew(port);
  }
  if (port.numbersTravel) port.txNext = base + static_cast<uint32_t>(count);
  return allTaken;
}

void Engine::emitSent(Port& port, uint32_t key, int64_t kernelNs) {
  Port::Tx& tx = port.tx[key % port.slots];
  if (tx.state != Port::kAwaitsStamp) return;
  tx.state = Port::kFree;
  const bool stamped = kernelNs != 0;
  if (!stamped) {
    const auto found = streams_.find(tx.stream);
    if (found != streams_.end()) found->second->ownStamp.set(tx.seq % kWindow);
  }
  double* row = nextRow();
  if (row == nullptr) return;
  const int64_t time = stamped ? kernelNs : tx.userNs;
  fill(row, kSent | (stamped ? kKernelStamp : 0U), tx.stream, tx.seq, time - options_.baseNs, tx.token,
       static_cast<double>(tx.userNs - tx.dueNs), static_cast<double>(tx.userNs - options_.baseNs));
  rowsWritten_.fetch_add(1, std::memory_order_release);
}

void Engine::emitStale(Port& port, int64_t before) {
  for (; port.txOldest != port.txNext; port.txOldest += 1) {
    const Port::Tx& tx = port.tx[port.txOldest % port.slots];
    if (tx.state != Port::kAwaitsStamp) continue;
    if (tx.userNs > before) return;
    emitSent(port, port.txOldest, 0);
  }
}

void Engine::drainPort(Port& port) {
  for (;;) {
    // Each answer may also need its `sent` row; what does not fit waits in the socket.
    if (freeRows() < 4 * kBatch) return;
    for (size_t i = 0; i < kBatch; i += 1) {
      port.in[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage);
      port.in[i].msg_hdr.msg_controllen = kControlBytes;
    }
    const int64_t before = monoNs();
    int received = recvmmsg(port.fd, port.in, kBatch, MSG_DONTWAIT, nullptr);
    // The system tells what routers said before it hands over what came.
    for (int told = 0; received < 0 && errno != EAGAIN && told < 4; told += 1) {
      received = recvmmsg(port.fd, port.in, kBatch, MSG_DONTWAIT, nullptr);
    }
    // Stamps after answers: whatever was answered has its stamp by now, and its `sent` row comes first.
    if (port.kind != SocketKind::kQuotes) takeStamps(port);
    if (received > 0) {
      wallClock_.observe();
      settleMessages(port, static_cast<size_t>(received), monoNs());
    }
    if (received < static_cast<int>(kBatch)) {
      port.lastEmptyNs = before;
      return;
    }
  }
}

/** Reads every port, or those that still await something at `now`. What is said of a probe comes after its stamp. */
void Engine::drainPorts(int64_t now) {
  for (const bool quotes : {false, true}) {
    for (const auto& port : ports_) {
      if ((port->kind == SocketKind::kQuotes) != quotes) continue;
      if (now == kNever ? !quotes || port->awaitUntilNs != 0 : now < port->awaitUntilNs) drainPort(*port);
    }
  }
}

void Engine::takeStamps(Port& port) {
  bool allTaken = false;
  // Sockets for echoes without a privilege know no such request.
  if (port.kind != SocketKind::kIcmp && ring_.fetch(port.fd)) {
    wallClock_.observe();
    const int64_t now = monoNs();
    for (StampRing::Stamp stamp; ring_.next(stamp);) settleStamp(port, stamp.number, stamp.wallNs, now);
    allTaken = ring_.tookAll();
  }
  while (!allTaken) {
    for (auto& stamp : port.stamps) stamp.msg_hdr.msg_controllen = kControlBytes;
    const int stamped = recvmmsg(port.fd, port.stamps, kBatch, MSG_DONTWAIT | MSG_ERRQUEUE, nullptr);
    if (stamped <= 0) break;
    wallClock_.observe();
    settleStamps(port, static_cast<size_t>(stamped));
    allTaken = stamped < static_cast<int>(kBatch);
  }
  while (port.txOldest != port.txNext && port.tx[port.txOldest % port.slots].state == Port::kFree) port.txOldest += 1;
}

void Engine::settleStamp(Port& port, uint32_t number, int64_t wallNs, int64_t now) {
  const uint32_t key = port.numbersTravel ? number : port.counterStart + number;
  // A number that is not out there belongs to an older count.
  if (!port.isOut(key)) return;
  const auto time = wallClock_.toMono(wallNs, port.tx[key % port.slots].userNs, now);
  if (time) emitSent(port, key, *time);
}

void Engine::settleStamps(Port& port, size_t count) {
  const int64_t now = monoNs();
  for (size_t i = 0; i < count; i += 1) {
    msghdr& message = port.stamps[i].msg_hdr;
    const scm_timestamping* times = nullptr;
    const sock_extended_err* error = nullptr;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SO_TIMESTAMPING) {
        times = reinterpret_cast<const scm_timestamping*>(CMSG_DATA(header));
      } else if ((header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_RECVERR) ||
                 (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_RECVERR)) {
        error = reinterpret_cast<const sock_extended_err*>(CMSG_DATA(header));
      }
    }
    if (times == nullptr || error == nullptr || error->ee_origin != SO_EE_ORIGIN_TIMESTAMPING) continue;
    settleStamp(port, error->ee_data, nsOf(times->ts[0]), now);
  }
}

void Engine::settleMessages(Port& port, size_t count, int64_t now) {
  for (size_t i = 0; i < count; i += 1) {
    msghdr& message = port.in[i].msg_hdr;
    const uint8_t* bytes = port.messages[i];
    size_t length = std::min<size_t>(port.in[i].msg_len, kMessageBytes);
    uint32_t ttl = 0;
    uint32_t tos = 0;
    int64_t wall = 0;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      const auto* data = CMSG_DATA(header);
      if (header->cmsg_level == SOL_SOCKET) {
        if (header->cmsg_type == SO_TIMESTAMPING) {
          wall = nsOf(reinterpret_cast<const scm_timestamping*>(data)->ts[0]);
        } else if (header->cmsg_type == SO_RXQ_OVFL) {
          uint32_t dropped;
          std::memcpy(&dropped, data, sizeof dropped);
          counts_.receiveDropped += dropped - port.lastOverflow;
          port.lastOverflow = dropped;
        }
      } else if ((header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_TTL) ||
                 (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_HOPLIMIT)) {
        int value;
        std::memcpy(&value, data, sizeof value);
        ttl = static_cast<uint32_t>(value) & 0xff;
      } else if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_TOS) {
        tos = *data;
      } else if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_TCLASS) {
        int value;
        std::memcpy(&value, data, sizeof value);
        tos = static_cast<uint32_t>(value) & 0xff;
      }
    }
    if (port.givesHeader()) {
      const size_t headerBytes = length == 0 ? 0 : (bytes[0] & 0xf) * 4U;
      if (headerBytes < 20 || headerBytes > length) continue;
      tos = bytes[1];
      ttl = bytes[8];
      bytes += headerBytes;
      length -= headerBytes;
    }

    uint32_t kind = kReceived;
    Found found;
    int64_t dwellNs = 0;
    int64_t arrivedWallNs = 0;
    uint16_t estimate = 0;
    uint32_t reflectorSeq = 0;
    Told told;
    Quote quote;
    if (port.kind == SocketKind::kUdp) {
      const StampLayout& at = port.authenticated ? kAuthenticatedLayout : kOpenLayout;
      if (length < at.least) continue;
      found.seq = get32(bytes + at.senderSeq);
      found.token = {get32(bytes + at.t1), get32(bytes + at.t1 + 4)};
      estimate = get16(bytes + at.estimate);
      arrivedWallNs = wallNsOf(get64(bytes + at.t2), estimate);
      dwellNs = wallNsOf(get64(bytes + at.t3), estimate) - arrivedWallNs;
      reflectorSeq = get32(bytes);
      const auto isOurs = [&](const Stream& candidate) {
        return markT1(candidate.id, found.seq, found.token.high, found.token.low, cookie_) == found.token.low;
      };
      const uint16_t ssid = get16(bytes + at.ssid);
      if (ssid != 0) {
        const auto known = port.bySsid.find(ssid);
        if (known != port.bySsid.end()) found.stream = known->second;
      } else {
        // A TWAMP-Light reflector has no SSID: the keyed bits of T1 tell which of its sessions this is.
        for (const auto& entry : port.bySsid) {
          if (!sameAddress(entry.second->destination, port.from[i], true)) continue;
          found.stream = entry.second;
          if (isOurs(*found.stream)) break;
        }
      }
      if (found.stream == nullptr) continue;
      found.authentic = isOurs(*found.stream);
      if (found.authentic && length < kTwampLightBytes) counts_.shortAnswers += 1;
      if (found.stream->hmac && !found.stream->hmac->verify(bytes, kHmacAt, bytes + kHmacAt)) {
        // No token is the one that was sent: it will be called forged.
        found.token = {~found.token.high, ~found.token.low};
        found.authentic = false;
      } else {
        const size_t base = found.stream->hmac ? kAuthenticatedBytes : kStampBytes;
        told = readTold(bytes, length, base, found.stream->hmac.get());
      }
    } else if (isEchoReply(bytes, length, port.v6)) {
      Echo echo;
      if (!readEcho(bytes, length, echo) || !findEcho(port, echo, found)) continue;
    } else {
      if (!readQuote(bytes, length, port.v6, quote) || !findQuoted(port, quote, found)) continue;
      kind = found.stream->traces || found.stream->probesMtu ? kQuoted : kUnreachable;
      // To whoever only wants to know of answers, version 6 has never told that a packet was too big.
      if (kind == kUnreachable && (quote.cause == Quote::kHopLimit || (port.v6 && quote.cause == Quote::kTooBig))) continue;
    }
    Stream* stream = found.stream;
    const uint32_t seq = found.seq;
    const bool authentic = found.authentic;
    // An answer to a probe whose stamp never came. Probes of a bucket follow each other from the latest to the oldest.
    Port& sender = *stream->port;
    uint32_t key = sender.bucketOf(stream->id, seq);
    for (uint32_t later = sender.txNext; sender.isOut(key) && key - sender.txOldest < later - sender.txOldest;) {
      const Port::Tx& tx = sender.tx[key % sender.slots];
      if (tx.state == Port::kAwaitsStamp && tx.stream == stream->id && tx.seq == seq) emitSent(sender, key, 0);
      later = key;
      key = tx.before;
    }
    const auto time = wall == 0 ? std::nullopt : wallClock_.toMono(wall, port.lastEmptyNs - kQueueingNs, now);
    double* row = nextRow();
    if (row == nullptr) continue;
    uint32_t meta = kind | ttl << 8 | tos >> 2 << 16;
    if (told.dscp) meta |= kFarClass | uint32_t{*told.dscp} << 22;
    if (time) meta |= kKernelStamp;
    else meta |= kContaminated;
    if (authentic) meta |= kAuthentic;
    if (sameAddress(stream->destination, port.from[i], port.kind == SocketKind::kUdp)) meta |= kFromTarget;
    const int64_t when = time.value_or(now) - options_.baseNs;
    if (kind == kQuoted) {
      const uint8_t* from = octetsOf(port.from[i]);
      const auto word = [&](size_t at) { return port.v6 || at == 0 ? get32(from + 4 * at) : 0; };
      const double detail = quote.cause | quote.value << 2;
      fill(row, meta + detail * 4'294'967'296.0, stream->id, seq, when, {word(0), word(1)}, word(2), word(3));
    } else {
      fill(row, meta, stream->id, seq, when, found.token, static_cast<double>(dwellNs), reflectorSeq);
      if (kind == kReceived && port.kind == SocketKind::kUdp) {
        row[8] = static_cast<double>(wallClock_.asMono(arrivedWallNs) - options_.baseNs);
        const auto ownErrorNs = clockState_.errorNs(now);
        const auto farErrorNs = errorOfEstimate(estimate);
        if (ownErrorNs && farErrorNs) row[9] = static_cast<double>(*ownErrorNs + *farErrorNs);
        if (told.hasCounts && stream->asked.counts && told.sent == seq + 1) {
          row[10] = told.received;
          row[11] = told.answered;
        } else if (told.claimsCounts && stream->asked.counts && authentic) {
          counts_.farCountsRefused += 1;
        }
      }
    }
    rowsWritten_.fetch_add(1, std::memory_order_release);
    counts_.received += 1;
    if (stream->traces || stream->probesMtu) continue;
    if (authentic && kind == kReceived && stream->awaited.test(seq % kWindow)) {
      stream->awaited.reset(seq % kWindow);
      const bool ownStamp = stream->ownStamp.test(seq % kWindow);
      (time ? ownStamp ? counts_.userKernel : counts_.kernelKernel : ownStamp ? counts_.userUser : counts_.userKernel) += 1;
    }
  }
}

bool Engine::findEcho(const Port& port, const Echo& echo, Found& found) {
  if (port.kind == SocketKind::kRawIcmp && echo.identifier != options_.identifier) return false;
  const auto known = streams_.find(echo.session);
  if (known == streams_.end() || known->second->port != &port) return false;
  const Token own = cookie_.compute(echo.session, echo.seq, echo.timeHigh, echo.timeLow);
  found = {known->second.get(), echo.seq, echo.token, own.high == echo.token.high && own.low == echo.token.low};
  return true;
}

/**
 * The probe that a quoted packet is. A quote that reaches into the payload must have our cookie there; one of a few octets
 * is only told by ports and length (UDP) or sequence number (ICMP) of the latest trace, and is not authentic.
 */
bool Engine::findQuoted(const Port& port, const Quote& quote, Found& found) {
  const size_t addressBytes = port.v6 ? 16 : 4;
  const auto isTowards = [&](const Stream& stream) {
    return std::memcmp(octetsOf(stream.destination), quote.destination, addressBytes) == 0;
  };
  if (port.kind != SocketKind::kQuotes) {
    const uint8_t protocol = port.v6 ? uint8_t{IPPROTO_ICMPV6} : uint8_t{IPPROTO_ICMP};
    if (quote.protocol != protocol || quote.bytes[0] != (port.v6 ? 128 : 8)) return false;
    Echo echo;
    if (readEcho(quote.bytes, quote.length, echo)) {
      return findEcho(port, echo, found) && (found.authentic || !found.stream->traces);
    }
    if (quote.length >= kEchoBytes || get16(quote.bytes + 4) != options_.identifier) return false;
    const uint32_t seq = get16(quote.bytes + 6);
    for (const auto& [id, stream] : streams_) {
      if (!stream->traces || stream->port != &port || !isTowards(*stream)) continue;
      const uint32_t latest = stream->latest[seq % kMaxHops];
      if (latest == 0 || ((latest - 1) & 0xffff) != seq) continue;
      found = {stream.get(), latest - 1, {}, false};
      return true;
    }
    return false;
  }
  if (quote.protocol != IPPROTO_UDP) return false;
  constexpr size_t kUdpBytes = 8;
  for (const auto& candidate : ports_) {
    if (candidate->kind != SocketKind::kUdp || candidate->v6 != port.v6 || candidate->domain != port.domain) continue;
    if (candidate->boundPort != get16(quote.bytes)) continue;
    for (const auto& [ssid, stream] : candidate->bySsid) {
      if (!(stream->traces || stream->probesMtu) || !isTowards(*stream)) continue;
      if (portOf(stream->destination) != get16(quote.bytes + 2)) continue;
      if (quote.length >= kUdpBytes + 16) {
        const uint8_t* stamp = quote.bytes + kUdpBytes;
        const size_t before = candidate->authenticated ? 12 : 0;
        if (quote.length < kUdpBytes + before + 16 || get16(stamp + before + 14) != ssid) continue;
        const Token token{get32(stamp + before + 4), get32(stamp + before + 8)};
        if (markT1(stream->id, get32(stamp), token.high, token.low, cookie_) != token.low) return false;
        found = {stream, get32(stamp), token, true};
        return true;
      }
      const uint32_t payload = get16(quote.bytes + 4) - static_cast<uint32_t>(kUdpBytes);
      const uint32_t hops = payload - stream->length;
      if (hops >= kMaxHops || stream->latest[hops] == 0) continue;
      found = {stream, stream->latest[hops] - 1, {}, false};
      return true;
    }
  }
  return false;
}

}  // namespace wanscope
