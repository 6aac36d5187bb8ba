#include "domain.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace wanscope {

namespace {

/** Of the calling thread: keeps what marks sockets, and no other privilege. */
void keepMarking() {
  // What the process was started as goes first: until then a thread must be able to follow it.
  if (geteuid() == 0) return;
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (syscall(SYS_capget, &header, data) != 0) return;
  data[0].permitted &= 1U << CAP_NET_ADMIN | 1U << CAP_NET_RAW;
  data[0].effective = data[0].permitted;
  data[0].inheritable = 0;
  data[1] = {};
  syscall(SYS_capset, &header, data);
}

int bindToDevice(int fd, const std::string& device) {
  if (device.empty()) return 0;
  const auto length = static_cast<socklen_t>(device.size() + 1);
  return setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device.c_str(), length) == 0 ? 0 : errno;
}

int bindSocket(int fd, const SocketOptions& options) {
  const int one = 1;
  if (options.listens && !options.datagram) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  // The port of a connect has to be free towards its destination only.
  if (!options.listens && !options.datagram) setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  if (options.v6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  if (options.domain != nullptr) {
    if (const int error = options.domain->prepare(fd)) return error;
  }
  if (const int error = bindToDevice(fd, options.device)) return error;
  sockaddr_storage address{};
  socklen_t length = 0;
  if (options.v6) {
    auto& in6 = reinterpret_cast<sockaddr_in6&>(address);
    const size_t zone = options.source.find('%');
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(options.port);
    if (zone != std::string::npos) in6.sin6_scope_id = if_nametoindex(options.source.c_str() + zone + 1);
    length = sizeof in6;
    if (!options.source.empty() && inet_pton(AF_INET6, options.source.substr(0, zone).c_str(), &in6.sin6_addr) != 1) {
      return EINVAL;
    }
  } else {
    auto& in4 = reinterpret_cast<sockaddr_in&>(address);
    in4.sin_family = AF_INET;
    in4.sin_port = htons(options.port);
    length = sizeof in4;
    if (!options.source.empty() && inet_pton(AF_INET, options.source.c_str(), &in4.sin_addr) != 1) return EINVAL;
  }
  return bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0 ? 0 : errno;
}

}  // namespace

Domain::Domain(const DomainOptions& options, int& error) : options_(options) {
  error = 0;
  if (options_.netns.empty() && options_.mark == 0) return;
  bool entered = false;
  thread_ = std::thread([this, &error, &entered] {
    prctl(PR_SET_NAME, "wan-domain");
    error = enter();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      entered = true;
    }
    changed_.notify_all();
    live();
  });
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&entered] { return entered; });
}

Domain::~Domain() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

int Domain::enter() {
  if (!options_.netns.empty()) {
    const int fd = open(options_.netns.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno;
    struct stat facts {};
    const int error = fstat(fd, &facts) != 0 || setns(fd, CLONE_NEWNET) != 0 ? errno : 0;
    close(fd);
    if (error != 0) return error;
    device_ = facts.st_dev;
    inode_ = facts.st_ino;
  }
  if (options_.mark == 0) return 0;
  prctl(PR_SET_KEEPCAPS, 1);
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  const int error = setsockopt(fd, SOL_SOCKET, SO_MARK, &options_.mark, sizeof options_.mark) == 0 ? 0 : errno;
  close(fd);
  return error;
}

void Domain::live() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || work_ != nullptr; });
    if (stopping_) return;
    const auto* work = work_;
    lock.unlock();
    if (options_.mark != 0) keepMarking();
    const int result = (*work)();
    lock.lock();
    work_ = nullptr;
    result_ = result;
    done_ = true;
    changed_.notify_all();
  }
}

int Domain::run(const std::function<int()>& work) {
  if (!thread_.joinable() || std::this_thread::get_id() == thread_.get_id()) return work();
  const std::lock_guard<std::mutex> caller(callers_);
  std::unique_lock<std::mutex> lock(mutex_);
  done_ = false;
  work_ = &work;
  changed_.notify_all();
  changed_.wait(lock, [this] { return done_; });
  return result_;
}

int Domain::prepare(int fd) const {
  if (const int error = bindToDevice(fd, options_.vrf)) return error;
  if (options_.mark == 0) return 0;
  return setsockopt(fd, SOL_SOCKET, SO_MARK, &options_.mark, sizeof options_.mark) == 0 ? 0 : errno;
}

bool Domain::isCurrent() const {
  if (options_.netns.empty()) return true;
  struct stat facts {};
  return stat(options_.netns.c_str(), &facts) == 0 && facts.st_dev == device_ && facts.st_ino == inode_;
}

int openSocket(const SocketOptions& options) {
  int fd = -1;
  const int error = inDomain(options.domain, [&] {
    const int type = (options.datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK;
    fd = socket(options.v6 ? AF_INET6 : AF_INET, type, 0);
    return fd < 0 ? errno : bindSocket(fd, options);
  });
  if (error == 0) return fd;
  if (fd >= 0) close(fd);
  return -error;
}

int listAddresses(const DomainRef& domain, std::vector<std::string>& addresses) {
  return inDomain(domain, [&] {
    ifaddrs* list = nullptr;
    if (getifaddrs(&list) != 0) return errno;
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr) continue;
      const int family = entry->ifa_addr->sa_family;
      if (family != AF_INET && family != AF_INET6) continue;
      const void* octets = family == AF_INET
                               ? static_cast<const void*>(&reinterpret_cast<sockaddr_in*>(entry->ifa_addr)->sin_addr)
                               : &reinterpret_cast<sockaddr_in6*>(entry->ifa_addr)->sin6_addr;
      char text[INET6_ADDRSTRLEN];
      if (inet_ntop(family, octets, text, sizeof text) != nullptr) addresses.emplace_back(text);
    }
    freeifaddrs(list);
    return 0;
  });
}

}  // namespace wanscope
