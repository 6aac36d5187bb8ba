#include "memory.hpp"

#include <malloc.h>
#include <sys/mman.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <vector>

namespace wanscope {

namespace {

struct Mapping {
  uintptr_t start = 0;
  uintptr_t end = 0;
  /** Read-only and of a file. */
  bool isFile = false;
  /** No page was written to, so that every one is as in the file: relocated data is not, although it is read-only by now. */
  bool isClean = false;
};

/** Mappings whose pages can be dropped and read again from their files. */
std::vector<Mapping> cleanFileMappings() {
  std::vector<Mapping> found;
  FILE* file = fopen("/proc/self/smaps", "re");
  if (file == nullptr) return found;
  char line[512];
  Mapping current;
  const auto keep = [&] {
    if (current.isFile && current.isClean) found.push_back(current);
  };
  while (fgets(line, sizeof line, file) != nullptr) {
    uintptr_t start = 0;
    uintptr_t end = 0;
    char access[5] = "";
    int path = 0;
    if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %*s %*s %*s %n", &start, &end, access, &path) == 3) {
      keep();
      const bool isPrivateReadOnly = access[0] == 'r' && access[1] == '-' && access[3] == 'p';
      current = {start, end, isPrivateReadOnly && path > 0 && line[path] == '/', false};
    } else if (strncmp(line, "Anonymous:", 10) == 0) {
      unsigned long written = 1;
      current.isClean = sscanf(line + 10, "%lu", &written) == 1 && written == 0;
    }
  }
  keep();
  fclose(file);
  return found;
}

}  // namespace

void releaseMemory() {
  malloc_trim(0);
  for (const Mapping& mapping : cleanFileMappings()) {
    madvise(reinterpret_cast<void*>(mapping.start), mapping.end - mapping.start, MADV_DONTNEED);
  }
}

}  // namespace wanscope
