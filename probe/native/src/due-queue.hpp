/** Probes that wait for their deadlines. */
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace wanscope {

struct Due {
  int64_t dueNs;
  uint32_t stream;
  uint32_t seq;
  uint32_t attempts;
};

/** Earliest first. What comes in the order of its deadlines, as nearly all does, stands in a ring; the rest is a heap. */
class DueQueue {
 public:
  DueQueue() : ring_(kFewest) {}

  bool empty() const { return count_ == 0 && heap_.empty(); }
  size_t size() const { return count_ + heap_.size(); }
  const Due& front() const { return heapIsFirst() ? heap_.front() : at(0); }

  void push(const Due& due) {
    if (count_ > 0 && due.dueNs < at(count_ - 1).dueNs) {
      heap_.push_back(due);
      std::push_heap(heap_.begin(), heap_.end(), Later{});
      return;
    }
    if (count_ == ring_.size()) grow();
    ring_[(first_ + count_) & (ring_.size() - 1)] = due;
    count_ += 1;
  }

  void pop() {
    if (heapIsFirst()) {
      std::pop_heap(heap_.begin(), heap_.end(), Later{});
      heap_.pop_back();
      return;
    }
    first_ = (first_ + 1) & (ring_.size() - 1);
    count_ -= 1;
  }

 private:
  struct Later {
    bool operator()(const Due& a, const Due& b) const { return a.dueNs > b.dueNs; }
  };
  /** A power of two, as every size of the ring. */
  static constexpr size_t kFewest = 256;

  const Due& at(size_t i) const { return ring_[(first_ + i) & (ring_.size() - 1)]; }
  bool heapIsFirst() const { return !heap_.empty() && (count_ == 0 || heap_.front().dueNs < at(0).dueNs); }

  void grow() {
    std::vector<Due> larger(2 * ring_.size());
    for (size_t i = 0; i < count_; i += 1) larger[i] = at(i);
    ring_.swap(larger);
    first_ = 0;
  }

  std::vector<Due> ring_;
  size_t first_ = 0;
  size_t count_ = 0;
  std::vector<Due> heap_;
};

}  // namespace wanscope
