/** What a connect needs is brought into the processor's caches right before it. */
#pragma once

namespace wanscope {

/**
 * Connects to ourselves over the loopback, to a port that is taken and where nobody listens: it is refused at once and leaves
 * nothing behind. Does nothing where the system does not allow that.
 */
void warmTcp(bool v6);

}  // namespace wanscope
