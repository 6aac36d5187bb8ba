#include "routes.hpp"

#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace wanscope {

namespace {

struct Request {
  nlmsghdr header;
  rtmsg route;
  uint8_t attributes[2 * RTA_SPACE(16) + RTA_SPACE(4)];
};

void addAttribute(Request& request, unsigned short type, const void* octets, size_t length) {
  auto* attribute = reinterpret_cast<rtattr*>(reinterpret_cast<uint8_t*>(&request) + NLMSG_ALIGN(request.header.nlmsg_len));
  attribute->rta_type = type;
  attribute->rta_len = static_cast<unsigned short>(RTA_LENGTH(length));
  std::memcpy(RTA_DATA(attribute), octets, length);
  request.header.nlmsg_len = NLMSG_ALIGN(request.header.nlmsg_len) + RTA_LENGTH(length);
}

/** Index of the interface that the answer names; 0 for none. */
int interfaceOf(uint8_t* answer, size_t length) {
  auto* header = reinterpret_cast<nlmsghdr*>(answer);
  if (!NLMSG_OK(header, length) || header->nlmsg_type != RTM_NEWROUTE) return 0;
  auto* route = static_cast<rtmsg*>(NLMSG_DATA(header));
  size_t left = RTM_PAYLOAD(header);
  for (rtattr* attribute = RTM_RTA(route); RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
    if (attribute->rta_type != RTA_OIF) continue;
    int index = 0;
    std::memcpy(&index, RTA_DATA(attribute), sizeof index);
    return index;
  }
  return 0;
}

std::string egressInterfaceHere(const std::string& source, const std::string& destination, uint32_t mark) {
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
  const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0) return {};
  alignas(nlmsghdr) uint8_t answer[4'096];
  // The kernel answers within the call that asks.
  const ssize_t received = send(fd, &request, request.header.nlmsg_len, 0) < 0
                               ? -1
                               : recv(fd, answer, sizeof answer, MSG_DONTWAIT);
  close(fd);
  const int index = received <= 0 ? 0 : interfaceOf(answer, static_cast<size_t>(received));
  char name[IF_NAMESIZE];
  return index == 0 || if_indextoname(static_cast<unsigned>(index), name) == nullptr ? std::string{} : std::string{name};
}

}  // namespace

std::string egressInterface(const std::string& source, const std::string& destination, const DomainRef& domain) {
  std::string name;
  inDomain(domain, [&] {
    name = egressInterfaceHere(source, destination, domain == nullptr ? 0 : domain->mark());
    return 0;
  });
  return name;
}

}  // namespace wanscope
