/** What every socket here needs: options that are whole numbers, and addresses from their texts. */
#pragma once

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstring>
#include <string>

namespace wanscope {

inline void setOption(int fd, int level, int option, int value) { setsockopt(fd, level, option, &value, sizeof value); }

/** False when the text is no address of the family. A zone (`fe80::1%eth0`) counts for version 6. */
inline bool parseAddress(const std::string& text, bool v6, uint16_t port, sockaddr_storage& into, socklen_t& length) {
  std::memset(&into, 0, sizeof into);
  if (v6) {
    auto& address = reinterpret_cast<sockaddr_in6&>(into);
    const size_t zone = text.find('%');
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(port);
    if (zone != std::string::npos) address.sin6_scope_id = if_nametoindex(text.c_str() + zone + 1);
    length = sizeof address;
    return inet_pton(AF_INET6, text.substr(0, zone).c_str(), &address.sin6_addr) == 1;
  }
  auto& address = reinterpret_cast<sockaddr_in&>(into);
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  length = sizeof address;
  return inet_pton(AF_INET, text.c_str(), &address.sin_addr) == 1;
}

}  // namespace wanscope
