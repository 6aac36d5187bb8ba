#include "tun.hpp"

#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace wan {
namespace {

// Deep enough for a flood that comes while the emulator writes a batch.
constexpr uint32_t kDeviceQueuePackets = 10'000;

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;

  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

[[noreturn]] void fail(const std::string& what) { throw DeviceError(what + ": " + std::strerror(errno)); }

// This thread is inside a namespace while one of these lives.
class InNamespace {
 public:
  explicit InNamespace(const std::string& netns)
      : home_(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)),
        there_(open(("/run/netns/" + netns).c_str(), O_RDONLY | O_CLOEXEC)) {
    if (home_.get() < 0) fail("own network namespace");
    if (there_.get() < 0 || setns(there_.get(), CLONE_NEWNET) != 0) fail("network namespace " + netns);
  }
  ~InNamespace() {
    // Anywhere but at home every later device would land in a stranger's namespace.
    if (setns(home_.get(), CLONE_NEWNET) != 0) std::abort();
  }
  InNamespace(const InNamespace&) = delete;
  InNamespace& operator=(const InNamespace&) = delete;

 private:
  Fd home_;
  Fd there_;
};

// Sends one rtnetlink request and reads its one answer; the answer's octets, or 0 and errno.
size_t askNetlink(int socket, const void* request, size_t bytes, char* answer, size_t answerBytes) {
  if (send(socket, request, bytes, 0) < 0) return 0;
  const ssize_t got = recv(socket, answer, answerBytes, 0);
  if (got < static_cast<ssize_t>(sizeof(nlmsghdr))) return 0;
  const auto* header = reinterpret_cast<const nlmsghdr*>(answer);
  if (header->nlmsg_type == NLMSG_ERROR) {
    const auto* error = static_cast<const nlmsgerr*>(NLMSG_DATA(header));
    if (error->error != 0) {
      errno = -error->error;
      return 0;
    }
  }
  return static_cast<size_t>(got);
}

void setQueueLength(int netlink, int index) {
  struct {
    nlmsghdr header;
    ifinfomsg info;
    rtattr attribute;
    uint32_t packets;
  } request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = RTM_SETLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  request.info.ifi_index = index;
  request.attribute.rta_len = RTA_LENGTH(sizeof request.packets);
  request.attribute.rta_type = IFLA_TXQLEN;
  request.packets = kDeviceQueuePackets;
  alignas(nlmsghdr) char answer[4096];
  if (askNetlink(netlink, &request, sizeof request, answer, sizeof answer) == 0) fail("queue length");
}

}  // namespace

TunDevice::TunDevice(const std::string& netns, const std::string& device) {
  const InNamespace inside(netns);
  Fd tun(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (tun.get() < 0) fail("/dev/net/tun");
  ifreq request{};
  request.ifr_flags = static_cast<short>(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL);
  std::memcpy(request.ifr_name, device.data(), std::min(device.size(), size_t{IFNAMSIZ - 1}));
  if (ioctl(tun.get(), TUNSETIFF, &request) != 0) fail("device " + device + " in " + netns);
  const int sendBufferBytes = INT_MAX;
  ioctl(tun.get(), TUNSETSNDBUF, &sendBufferBytes);
  Fd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (netlink.get() < 0) fail("rtnetlink in " + netns);
  index_ = static_cast<int>(if_nametoindex(device.c_str()));
  if (index_ == 0) fail("device " + device + " in " + netns);
  setQueueLength(netlink.get(), index_);
  fd_ = tun.release();
  netlink_ = netlink.release();
}

TunDevice::~TunDevice() {
  if (fd_ >= 0) close(fd_);
  if (netlink_ >= 0) close(netlink_);
}

void TunDevice::setCarrier(bool up) {
  int carrier = up ? 1 : 0;
  ioctl(fd_, TUNSETCARRIER, &carrier);
}

uint64_t TunDevice::readTxDropped() {
  struct {
    nlmsghdr header;
    if_stats_msg stats;
  } request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = RTM_GETSTATS;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  request.stats.ifindex = static_cast<uint32_t>(index_);
  request.stats.filter_mask = IFLA_STATS_FILTER_BIT(IFLA_STATS_LINK_64);
  alignas(nlmsghdr) char answer[4096];
  const size_t bytes = askNetlink(netlink_, &request, sizeof request, answer, sizeof answer);
  const auto* header = reinterpret_cast<const nlmsghdr*>(answer);
  if (bytes == 0 || header->nlmsg_type != RTM_NEWSTATS) return droppedLatest_;
  const auto* attribute =
      reinterpret_cast<const rtattr*>(static_cast<const char*>(NLMSG_DATA(header)) + NLMSG_ALIGN(sizeof(if_stats_msg)));
  rtnl_link_stats64 counters{};
  if (attribute->rta_type != IFLA_STATS_LINK_64 || RTA_PAYLOAD(attribute) < offsetof(rtnl_link_stats64, rx_length_errors)) {
    return droppedLatest_;
  }
  std::memcpy(&counters, RTA_DATA(attribute), std::min(sizeof counters, size_t{RTA_PAYLOAD(attribute)}));
  return droppedLatest_ = counters.tx_dropped;
}

uint64_t TunDevice::droppedBeforeRead() { return readTxDropped() - droppedBase_; }

void TunDevice::resetDropped() { droppedBase_ = readTxDropped(); }

}  // namespace wan
