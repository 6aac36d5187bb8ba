/** What the system's routing says. */
#pragma once

#include <string>

#include "domain.hpp"

namespace wanscope {

/**
 * Name of the interface through which a packet with this source would leave for this destination; empty where there is no
 * route, or the addresses are not of one family. Asks the kernel, which knows its rules; nothing is sent.
 */
std::string egressInterface(const std::string& source, const std::string& destination, const DomainRef& domain);

}  // namespace wanscope
