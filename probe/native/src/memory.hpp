/** What a start leaves behind in the process's memory. */
#pragma once

namespace wanscope {

/**
 * Gives back what only the start needed: freed heap, and mapped pages of programs and libraries. Such a page is a clean copy of its
 * file: it comes back from the system's cache when it is used again, so that what stays is what the process works with.
 */
void releaseMemory();

}  // namespace wanscope
