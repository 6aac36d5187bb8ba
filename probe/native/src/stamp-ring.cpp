#include "stamp-ring.hpp"

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace wanscope {

namespace {

/** SOCKET_URING_OP_TX_TIMESTAMP; older headers do not name it. */
constexpr uint32_t kTakeStamps = 4;
constexpr uint64_t kReading = 1;

/** A completion of such a request: a stamp, as long as more may follow; then how it ended. */
struct Answer {
  uint64_t request;
  /** The stamp's number. */
  int32_t result;
  uint32_t flags;
  uint64_t seconds;
  uint64_t nanoseconds;
};

uint8_t* map(int fd, size_t bytes, off_t which) {
  void* const mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, which);
  return mapped == MAP_FAILED ? nullptr : static_cast<uint8_t*>(mapped);
}

}  // namespace

void StampRing::open() {
  io_uring_params params{};
  // Nothing is done for us unless we ask: no stamp wakes or interrupts a thread.
  params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQE32 | IORING_SETUP_CQSIZE;
  params.cq_entries = kMostStamps;
  fd_ = static_cast<int>(syscall(SYS_io_uring_setup, 1, &params));
  if (fd_ < 0) return;
  owner_ = std::this_thread::get_id();
  // One mapping holds both queues since Linux 5.4, which has no such flags yet. That of the answers is the longer one.
  ringBytes_ = params.cq_off.cqes + params.cq_entries * sizeof(Answer);
  requestsBytes_ = params.sq_entries * sizeof(io_uring_sqe);
  ring_ = map(fd_, ringBytes_, IORING_OFF_SQ_RING);
  requests_ = map(fd_, requestsBytes_, static_cast<off_t>(IORING_OFF_SQES));
  if (ring_ == nullptr || requests_ == nullptr) return close();
  const auto numbersAt = [this](uint32_t offset) { return reinterpret_cast<uint32_t*>(ring_ + offset); };
  requestTail_ = numbersAt(params.sq_off.tail);
  requestOrder_ = numbersAt(params.sq_off.array);
  requestMask_ = *numbersAt(params.sq_off.ring_mask);
  answerHead_ = numbersAt(params.cq_off.head);
  answerTail_ = numbersAt(params.cq_off.tail);
  answerMask_ = *numbersAt(params.cq_off.ring_mask);
  answers_ = ring_ + params.cq_off.cqes;
}

void StampRing::close() {
  if (ring_ != nullptr) munmap(ring_, ringBytes_);
  if (requests_ != nullptr) munmap(requests_, requestsBytes_);
  if (fd_ >= 0) ::close(fd_);
  ring_ = requests_ = nullptr;
  fd_ = -1;
}

bool StampRing::fetch(int socket) {
  if (fd_ < 0 || std::this_thread::get_id() != owner_) return false;
  taken_ = 0;
  result_ = 0;
  auto* const reading = static_cast<io_uring_sqe*>(request(IORING_OP_URING_CMD));
  reading->fd = socket;
  reading->cmd_op = kTakeStamps;
  reading->user_data = kReading;
  submit();
  // It would go on with what comes later, and keep the socket open.
  auto* const ending = static_cast<io_uring_sqe*>(request(IORING_OP_ASYNC_CANCEL));
  ending->addr = kReading;
  ending->flags = IOSQE_CQE_SKIP_SUCCESS;
  submit();
  return true;
}

bool StampRing::next(Stamp& stamp) {
  for (;;) {
    const uint32_t head = *answerHead_;
    if (head == __atomic_load_n(answerTail_, __ATOMIC_ACQUIRE)) return false;
    Answer answer;
    std::memcpy(&answer, answers_ + (head & answerMask_) * sizeof answer, sizeof answer);
    __atomic_store_n(answerHead_, head + 1, __ATOMIC_RELEASE);
    if (answer.request != kReading) continue;
    if ((answer.flags & IORING_CQE_F_MORE) == 0) {
      result_ = answer.result;
      continue;
    }
    taken_ += 1;
    const auto seconds = static_cast<int64_t>(answer.seconds);
    stamp = {static_cast<uint32_t>(answer.result), seconds * 1'000'000'000 + static_cast<int64_t>(answer.nanoseconds)};
    return true;
  }
}

bool StampRing::tookAll() {
  // How a full ring's request ended comes with the next one.
  if (taken_ >= kMostStamps) return false;
  if (result_ == -ECANCELED) return true;
  // A system before 6.17, or one that fails us: whatever still goes on there ends with the ring.
  close();
  return false;
}

void* StampRing::request(uint8_t operation) {
  const uint32_t slot = *requestTail_ & requestMask_;
  requestOrder_[slot] = slot;
  auto* const entry = reinterpret_cast<io_uring_sqe*>(requests_) + slot;
  std::memset(entry, 0, sizeof *entry);
  entry->opcode = operation;
  return entry;
}

/** Hands the request over and has done what is to be done for it. What it failed in shows at the end. */
void StampRing::submit() {
  __atomic_store_n(requestTail_, *requestTail_ + 1, __ATOMIC_RELEASE);
  syscall(SYS_io_uring_enter, fd_, 1, 0, IORING_ENTER_GETEVENTS, nullptr, 0);
}

}  // namespace wanscope
