#include "routes.hpp"

#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#include "socket.hpp"

namespace wanscope {

namespace {

struct Request {
  nlmsghdr header;
  rtmsg route;
  uint8_t attributes[2 * RTA_SPACE(16) + 2 * RTA_SPACE(4)];
};

void addAttribute(Request& request, unsigned short type, const void* octets, size_t length) {
  auto* attribute = reinterpret_cast<rtattr*>(reinterpret_cast<uint8_t*>(&request) + NLMSG_ALIGN(request.header.nlmsg_len));
  attribute->rta_type = type;
  attribute->rta_len = static_cast<unsigned short>(RTA_LENGTH(length));
  std::memcpy(RTA_DATA(attribute), octets, length);
  request.header.nlmsg_len = NLMSG_ALIGN(request.header.nlmsg_len) + RTA_LENGTH(length);
}

/** What the kernel says of a destination. */
struct Answer {
  bool isRoute = false;
  /** To this machine itself. */
  bool isLocal = false;
  /** Index of the interface; 0: none is named. */
  unsigned interface = 0;
};

Answer readAnswer(uint8_t* octets, size_t length) {
  Answer answer;
  auto* header = reinterpret_cast<nlmsghdr*>(octets);
  if (!NLMSG_OK(header, length) || header->nlmsg_type != RTM_NEWROUTE) return answer;
  auto* route = static_cast<rtmsg*>(NLMSG_DATA(header));
  answer.isRoute = true;
  answer.isLocal = route->rtm_type == RTN_LOCAL;
  size_t left = RTM_PAYLOAD(header);
  for (rtattr* attribute = RTM_RTA(route); RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
    if (attribute->rta_type == RTA_OIF) std::memcpy(&answer.interface, RTA_DATA(attribute), sizeof answer.interface);
  }
  return answer;
}

/** `device`: the routes by this interface only; 0: all. */
Answer ask(const std::string& source, const std::string& destination, uint32_t mark, unsigned device) {
  const int family = destination.find(':') == std::string::npos ? AF_INET : AF_INET6;
  const size_t length = family == AF_INET ? 4 : 16;
  uint8_t from[16];
  uint8_t to[16];
  if (inet_pton(family, source.c_str(), from) != 1 || inet_pton(family, destination.c_str(), to) != 1) return {};
  Request request{};
  request.header.nlmsg_len = NLMSG_LENGTH(sizeof request.route);
  request.header.nlmsg_type = RTM_GETROUTE;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  request.route.rtm_family = static_cast<unsigned char>(family);
  request.route.rtm_src_len = request.route.rtm_dst_len = static_cast<unsigned char>(8 * length);
  addAttribute(request, RTA_SRC, from, length);
  addAttribute(request, RTA_DST, to, length);
  if (mark != 0) addAttribute(request, RTA_MARK, &mark, sizeof mark);
  if (device != 0) {
    addAttribute(request, RTA_OIF, &device, sizeof device);
    // Else a destination without a route counts as one on the link of the interface.
    request.route.rtm_flags = RTM_F_FIB_MATCH;
  }
  const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0) return {};
  alignas(nlmsghdr) uint8_t answer[4'096];
  // The kernel answers within the call that asks.
  const ssize_t received = send(fd, &request, request.header.nlmsg_len, 0) < 0
                               ? -1
                               : recv(fd, answer, sizeof answer, MSG_DONTWAIT);
  close(fd);
  return received <= 0 ? Answer{} : readAnswer(answer, static_cast<size_t>(received));
}

/** Whether a socket that is bound to an interface finds a way by it. True where there cannot be one: then the system says why. */
bool hasRouteBy(const std::string& device, const std::string& source, const std::string& destination,
                const DomainRef& domain) {
  const bool v6 = destination.find(':') != std::string::npos;
  const unsigned index = if_nametoindex(device.c_str());
  if (!v6) return index == 0 || ask(source, destination, domain == nullptr ? 0 : domain->mark(), index).isRoute;
  // Asked of IPv6, an interface is a wish. For a socket it is not, and connecting one of datagrams sends nothing.
  SocketOptions options;
  options.domain = domain;
  options.datagram = true;
  options.v6 = true;
  options.source = source;
  options.device = device;
  const int fd = openSocket(options);
  if (fd < 0) return true;
  sockaddr_storage address;
  socklen_t length = 0;
  const bool isFound = parseAddress(destination, v6, 9, address, length) &&
                       connect(fd, reinterpret_cast<sockaddr*>(&address), length) == 0;
  close(fd);
  return isFound;
}

}  // namespace

std::string egressInterface(const std::string& source, const std::string& destination, const std::string& device,
                            const DomainRef& domain) {
  std::string found;
  inDomain(domain, [&] {
    const Answer answer = ask(source, destination, domain == nullptr ? 0 : domain->mark(), 0);
    char name[IF_NAMESIZE];
    if (answer.interface != 0 && if_indextoname(answer.interface, name) != nullptr) found = name;
    // This machine's own addresses are behind no interface.
    const bool isElsewhere = !found.empty() && !answer.isLocal && !device.empty() && found != device;
    if (isElsewhere && hasRouteBy(device, source, destination, domain)) found = device;
    return 0;
  });
  return found;
}

}  // namespace wanscope
