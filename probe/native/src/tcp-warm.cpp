#include "tcp-warm.hpp"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace wanscope {

namespace {

int openSocket(bool v6) { return socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

/** A port of the loopback, held for as long as the process lives so that nobody can come to listen there. */
struct TakenPort {
  sockaddr_storage address{};
  socklen_t length = 0;

  explicit TakenPort(bool v6) {
    const int fd = openSocket(v6);
    if (fd < 0) return;
    address.ss_family = v6 ? AF_INET6 : AF_INET;
    if (v6) reinterpret_cast<sockaddr_in6&>(address).sin6_addr = in6addr_loopback;
    else reinterpret_cast<sockaddr_in&>(address).sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    length = v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    auto* name = reinterpret_cast<sockaddr*>(&address);
    if (bind(fd, name, length) == 0 && getsockname(fd, name, &length) == 0) return;
    close(fd);
    length = 0;
  }
};

}  // namespace

void warmTcp(bool v6) {
  static const TakenPort ports[]{TakenPort(false), TakenPort(true)};
  const TakenPort& port = ports[v6 ? 1 : 0];
  const int fd = port.length == 0 ? -1 : openSocket(v6);
  if (fd < 0) return;
  connect(fd, reinterpret_cast<const sockaddr*>(&port.address), port.length);
  close(fd);
}

}  // namespace wanscope
