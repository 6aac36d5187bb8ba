/** What the system's routing says. */
#pragma once

#include <string>

#include "domain.hpp"

namespace wanscope {

/**
 * Name of the interface through which a packet with this source would leave for this destination from a socket that is bound
 * to `device` (empty: to none): `device` where there is a route by it or it cannot be bound to, else what the routing would have
 * taken without. Empty where there is no route, or the addresses are not of one family. Asks the kernel, which knows its rules; nothing is sent.
 */
std::string egressInterface(const std::string& source, const std::string& destination, const std::string& device,
                            const DomainRef& domain);

}  // namespace wanscope
