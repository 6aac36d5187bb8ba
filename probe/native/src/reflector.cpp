#include "reflector.hpp"

#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "engine.hpp"
#include "hmac.hpp"
#include "packet.hpp"
#include "socket.hpp"

namespace wanscope {

namespace {

constexpr int kReceiveBufferBytes = 1 << 20;
constexpr int kSendBufferBytes = 4 << 20;
/** The next answer asks for its transmit stamp after so many others, or after so long. */
constexpr uint64_t kSampleEvery = 32;
constexpr int64_t kSampleGapNs = 50'000'000;
/** Of a sample without a stamp. */
constexpr int64_t kGiveUpNs = 1'000'000'000;
/** The way to the wire is the mean of so many samples, then their moving average. */
constexpr int64_t kSamples = 8;
/** A longer way to the wire is a queue, not the steady part. */
constexpr int64_t kMaxSendDelayNs = 100'000;

}  // namespace

Reflector::Reflector(ReflectorMemory memory, std::function<void()> wake)
    : memory_(memory), wake_(std::move(wake)), slots_(kReflectorSlots) {}

Reflector::~Reflector() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  freed_.notify_one();
  if (thread_.joinable()) {
    const uint64_t one = 1;
    if (write(stopFd_, &one, sizeof one) < 0) freed_.notify_one();
    thread_.join();
  }
  if (fd_ >= 0) close(fd_);
  if (stopFd_ >= 0) close(stopFd_);
}

int Reflector::open(const std::string& address, uint16_t port, bool v6, bool onlyV6, const DomainRef& domain) {
  v6_ = v6;
  if (const int error = inDomain(domain, [&] { return openSocketHere(address, port, onlyV6, domain.get()); })) return error;
  stopFd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (stopFd_ < 0) return errno;
  wallClock_.observe();
  lastEmptyNs_ = monoNs();
  thread_ = std::thread([this] { run(); });
  return 0;
}

int Reflector::openSocketHere(const std::string& address, uint16_t port, bool onlyV6, const Domain* domain) {
  const bool v6 = v6_;
  fd_ = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd_ < 0) return errno;
  if (domain != nullptr) {
    if (const int error = domain->prepare(fd_)) return error;
  }
  if (setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBufferBytes, sizeof kReceiveBufferBytes) != 0) {
    setOption(fd_, SOL_SOCKET, SO_RCVBUF, kReceiveBufferBytes);
  }
  // Answers to neighbours that do not exist wait here for seconds; they must not keep back those of others.
  if (setsockopt(fd_, SOL_SOCKET, SO_SNDBUFFORCE, &kSendBufferBytes, sizeof kSendBufferBytes) != 0) {
    setOption(fd_, SOL_SOCKET, SO_SNDBUF, kSendBufferBytes);
  }
  setOption(fd_, SOL_SOCKET, SO_RXQ_OVFL, 1);
  if (v6) {
    setOption(fd_, IPPROTO_IPV6, IPV6_V6ONLY, onlyV6 ? 1 : 0);
    setOption(fd_, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
    setOption(fd_, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    setOption(fd_, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
  }
  // On a version 6 socket these are about the version 4 packets that it takes as well.
  setOption(fd_, IPPROTO_IP, IP_RECVTTL, 1);
  setOption(fd_, IPPROTO_IP, IP_RECVTOS, 1);
  if (!v6) setOption(fd_, IPPROTO_IP, IP_PKTINFO, 1);
  const int flags = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_OPT_TSONLY;
  setOption(fd_, SOL_SOCKET, SO_TIMESTAMPING, flags);
  sockaddr_storage local{};
  socklen_t length = 0;
  if (v6) {
    auto& in6 = reinterpret_cast<sockaddr_in6&>(local);
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    length = sizeof in6;
    if (inet_pton(AF_INET6, address.c_str(), &in6.sin6_addr) != 1) return EINVAL;
  } else {
    auto& in4 = reinterpret_cast<sockaddr_in&>(local);
    in4.sin_family = AF_INET;
    in4.sin_port = htons(port);
    length = sizeof in4;
    if (inet_pton(AF_INET, address.c_str(), &in4.sin_addr) != 1) return EINVAL;
  }
  if (bind(fd_, reinterpret_cast<sockaddr*>(&local), length) != 0) return errno;
  if (getsockname(fd_, reinterpret_cast<sockaddr*>(&local), &length) != 0) return errno;
  port_ = ntohs(v6 ? reinterpret_cast<sockaddr_in6&>(local).sin6_port : reinterpret_cast<sockaddr_in&>(local).sin_port);
  return 0;
}

void Reflector::run() {
  prctl(PR_SET_NAME, "wan-reflector");
  for (;;) {
    pollfd fds[2] = {{fd_, POLLIN, 0}, {stopFd_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
    bool wakes = false;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      freed_.wait(lock, [this] { return stopping_ || waiting_ < kReflectorSlots; });
      if (stopping_) return;
      if ((fds[0].revents & POLLERR) != 0) learnSendDelay();
      if ((fds[0].revents & POLLIN) != 0) receive();
      if (waiting_ > 0 && !wakePending_) wakes = wakePending_ = true;
    }
    if (wakes) wake_();
  }
}

void Reflector::receive() {
  while (waiting_ < kReflectorSlots) {
    const size_t index = (head_ + waiting_) % kReflectorSlots;
    Slot& slot = slots_[index];
    uint8_t* packet = memory_.packets + index * kReflectorSlotBytes;
    alignas(cmsghdr) uint8_t control[kControlBytes];
    iovec vector{packet, kReflectorSlotBytes};
    msghdr message{};
    message.msg_name = &slot.from;
    message.msg_namelen = sizeof slot.from;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const int64_t before = monoNs();
    const ssize_t length = recvmsg(fd_, &message, MSG_DONTWAIT);
    if (length < 0) {
      if (errno == EAGAIN) lastEmptyNs_ = before;
      return;
    }
    slot.fromLength = message.msg_namelen;
    slot.hasLocal4 = slot.hasLocal6 = false;
    slot.tos = 0;
    int ttl = 0;
    int64_t wall = 0;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      const auto* data = CMSG_DATA(header);
      if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SO_TIMESTAMPING) {
        wall = nsOf(reinterpret_cast<const scm_timestamping*>(data)->ts[0]);
      } else if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SO_RXQ_OVFL) {
        uint32_t dropped;
        std::memcpy(&dropped, data, sizeof dropped);
        receiveDropped_ += dropped - lastOverflow_;
        lastOverflow_ = dropped;
      } else if ((header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_TTL) ||
                 (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_HOPLIMIT)) {
        std::memcpy(&ttl, data, sizeof ttl);
      } else if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_TOS) {
        slot.tos = *data;
      } else if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_TCLASS) {
        int value;
        std::memcpy(&value, data, sizeof value);
        slot.tos = static_cast<uint8_t>(value);
      } else if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO) {
        std::memcpy(&slot.local4, data, sizeof slot.local4);
        slot.hasLocal4 = true;
      } else if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_PKTINFO) {
        std::memcpy(&slot.local6, data, sizeof slot.local6);
        slot.hasLocal6 = true;
      }
    }
    wallClock_.observe();
    const int64_t now = monoNs();
    const auto stamp = wall == 0 ? std::nullopt : wallClock_.toMono(wall, lastEmptyNs_ - kQueueingNs, now);
    slot.receivedNs = stamp.value_or(now);
    slot.receivedWallNs = wallClock_.toWall(slot.receivedNs);
    const uint64_t t2 = ntpOf(slot.receivedWallNs);
    double* numbers = memory_.numbers + index * kReflectorNumbers;
    uint8_t* address = memory_.addresses + index * kAddressBytes;
    bool v4 = true;
    if (slot.from.ss_family == AF_INET6) {
      const auto& in6 = reinterpret_cast<sockaddr_in6&>(slot.from);
      std::memcpy(address, &in6.sin6_addr, kAddressBytes);
      numbers[1] = ntohs(in6.sin6_port);
      v4 = IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr);
    } else {
      const auto& in4 = reinterpret_cast<sockaddr_in&>(slot.from);
      std::memset(address, 0, kAddressBytes);
      address[10] = address[11] = 0xff;
      std::memcpy(address + 12, &in4.sin_addr, 4);
      numbers[1] = ntohs(in4.sin_port);
    }
    numbers[0] = static_cast<double>(std::min<ssize_t>(length, kReflectorSlotBytes));
    numbers[2] = static_cast<double>(t2 >> 32);
    numbers[3] = static_cast<double>(t2 & 0xffffffff);
    numbers[4] = ttl;
    numbers[5] = slot.tos >> 2;
    numbers[6] = v4 ? 1 : 0;
    waiting_ += 1;
  }
}

size_t Reflector::take(size_t& first) {
  const std::lock_guard<std::mutex> lock(mutex_);
  wakePending_ = false;
  first = head_;
  return waiting_;
}

void Reflector::answer(size_t count) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 0; i < std::min(count, waiting_); i += 1) {
    const size_t index = (head_ + i) % kReflectorSlots;
    Slot& slot = slots_[index];
    double* numbers = memory_.numbers + index * kReflectorNumbers;
    const auto length = static_cast<size_t>(numbers[0]);
    if (length == 0 || length > kReflectorSlotBytes) continue;
    uint8_t* packet = memory_.packets + index * kReflectorSlotBytes;
    alignas(cmsghdr) uint8_t control[kControlBytes]{};
    size_t used = 0;
    const auto add = [&](int level, int type, const void* data, size_t bytes) {
      auto* header = reinterpret_cast<cmsghdr*>(control + used);
      header->cmsg_level = level;
      header->cmsg_type = type;
      header->cmsg_len = CMSG_LEN(bytes);
      std::memcpy(CMSG_DATA(header), data, bytes);
      used += CMSG_SPACE(bytes);
    };
    // From the address that was asked, by the way the system routes it.
    if (slot.hasLocal6) {
      slot.local6.ipi6_ifindex = IN6_IS_ADDR_LINKLOCAL(&slot.local6.ipi6_addr) ? slot.local6.ipi6_ifindex : 0;
      add(IPPROTO_IPV6, IPV6_PKTINFO, &slot.local6, sizeof slot.local6);
    } else if (slot.hasLocal4) {
      in_pktinfo info{};
      info.ipi_spec_dst = slot.local4.ipi_spec_dst;
      add(IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    }
    // The class it came with: what was re-marked on the way shows on the way back too.
    if (slot.tos >> 2 != 0) {
      const int tos = slot.tos & 0xfc;
      if (v6_ && numbers[6] == 0) add(IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof tos);
      else add(IPPROTO_IP, IP_TOS, &tos, sizeof tos);
    }
    answersUnsampled_ += 1;
    const bool sampled = sampleWallNs_ == 0 &&
                         (answersUnsampled_ >= kSampleEvery || monoNs() - sampleMonoNs_ >= kSampleGapNs);
    if (sampled) {
      const uint32_t flags = SOF_TIMESTAMPING_TX_SOFTWARE;
      add(SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof flags);
    }
    iovec vector{packet, length};
    msghdr message{};
    message.msg_name = &slot.from;
    message.msg_namelen = slot.fromLength;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = used == 0 ? nullptr : control;
    message.msg_controllen = used;
    // Wall time by the distance from T2, so that setting the clock in between cannot make a wrong dwell.
    const int64_t wall = slot.receivedWallNs + (monoNs() - slot.receivedNs);
    const uint64_t t3 = ntpOf(wall + sendDelayNs_);
    const auto keyBytes = std::min(static_cast<size_t>(numbers[7]), kReflectorKeyBytes);
    const bool authenticated = keyBytes > 0 && length >= kAuthenticatedBytes;
    const StampLayout& at = authenticated ? kAuthenticatedLayout : kOpenLayout;
    put32(packet + at.t3, static_cast<uint32_t>(t3 >> 32));
    put32(packet + at.t3 + 4, static_cast<uint32_t>(t3));
    put16(packet + at.estimate, clockState_.estimate(monoNs()));
    if (authenticated) {
      const auto* key = reinterpret_cast<const char*>(memory_.keys + index * kReflectorKeyBytes);
      Hmac(std::string(key, keyBytes)).sign(packet, kHmacAt, packet + kHmacAt);
    }
    const ssize_t sent = sendmsg(fd_, &message, MSG_DONTWAIT);
    numbers[0] = sent < 0 ? errno : 0;
    if (sampled && sent >= 0) {
      sampleWallNs_ = wall;
      sampleMonoNs_ = monoNs();
      answersUnsampled_ = 0;
    }
    if (sampleWallNs_ != 0) learnSendDelay();
  }
}

void Reflector::release(size_t count) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t freed = std::min(count, waiting_);
    waiting_ -= freed;
    // With none waiting begin at the first again: what is used stays small.
    head_ = waiting_ == 0 ? 0 : (head_ + freed) % kReflectorSlots;
  }
  freed_.notify_one();
}

/** Reads transmit stamps. Without one, a sample that is a second old is given up. */
void Reflector::learnSendDelay() {
  for (;;) {
    alignas(cmsghdr) uint8_t control[kControlBytes];
    msghdr message{};
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (recvmsg(fd_, &message, MSG_DONTWAIT | MSG_ERRQUEUE) < 0) break;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SO_TIMESTAMPING || sampleWallNs_ == 0) continue;
      const int64_t delay = nsOf(reinterpret_cast<const scm_timestamping*>(CMSG_DATA(header))->ts[0]) - sampleWallNs_;
      if (delay >= 0 && delay < kMaxSendDelayNs) {
        samples_ = std::min(samples_ + 1, kSamples);
        sendDelayNs_ += (delay - sendDelayNs_) / samples_;
      }
      sampleWallNs_ = 0;
    }
  }
  if (sampleWallNs_ != 0 && monoNs() - sampleMonoNs_ > kGiveUpNs) sampleWallNs_ = 0;
}

}  // namespace wanscope
