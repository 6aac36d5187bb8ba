#include "emulator.hpp"

#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace wan {
namespace {

// Small, so that neither reading nor one busy link holds up what is due elsewhere.
constexpr int kReadBatch = 16;
constexpr int kWriteBatch = 64;
constexpr size_t kMaxPacketBytes = PacketPool::kSlotBytes - kVnetHeaderBytes - 1;
// No such GSO type: the receiving device refuses the packet and counts a frame error.
constexpr uint8_t kImpossibleGsoType = 0x7f;

}  // namespace

int64_t monotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

PacketPool::PacketPool() {
  void* memory = mmap(nullptr, kPackets * kSlotBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<uint8_t*>(memory);
  free_.reserve(kPackets);
}

PacketPool::~PacketPool() { munmap(memory_, kPackets * kSlotBytes); }

uint32_t PacketPool::take() {
  if (!free_.empty()) {
    const uint32_t slot = free_.back();
    free_.pop_back();
    return slot;
  }
  return untouched_ < kPackets ? untouched_++ : kNone;
}

Emulator::Emulator(int epoll, uint64_t seed) : epoll_(epoll), seed_(seed), held_(PacketPool::kPackets) {
  heap_.reserve(PacketPool::kPackets);
}

Link* Emulator::find(const std::string& name) {
  const auto found = byName_.find(name);
  return found == byName_.end() ? nullptr : found->second;
}

void Emulator::addLink(const std::string& name, const EndSpec& a, const EndSpec& b) {
  if (find(name) != nullptr) throw InvalidRequest("link " + name + " exists");
  if (byName_.size() == kMaxLinks) throw InvalidRequest("no room for another link");
  auto link = std::make_unique<Link>();
  link->name = name;
  link->generation = nextGeneration_++;
  const EndSpec* specs[2] = {&a, &b};
  for (int end = 0; end < 2; end += 1) {
    link->ends[end] = std::make_unique<TunDevice>(specs[end]->netns, specs[end]->device);
    arrivals_.attach(link->ends[end]->fd());
    link->addresses[end] = specs[end]->addresses;
    link->impairments[end] = Impairments(seed_, name, kDirectionNames[end]);
  }
  auto slot = std::find(slots_.begin(), slots_.end(), nullptr);
  if (slot == slots_.end()) slot = slots_.insert(slot, nullptr);
  link->number = static_cast<uint32_t>(slot - slots_.begin());
  for (uint32_t end = 0; end < 2; end += 1) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = link->number * 2 + end;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, link->ends[end]->fd(), &event) != 0) {
      throw DeviceError(std::string("epoll: ") + std::strerror(errno));
    }
  }
  byName_[name] = link.get();
  *slot = std::move(link);
}

void Emulator::removeLink(Link& link) {
  if (capture_) capture_->forget(link.number);
  byName_.erase(link.name);
  slots_[link.number].reset();
}

void Emulator::change(Link& link, bool aToB, bool bToA, const Json& request) {
  const bool named[2] = {aToB, bToA};
  Settings changed[2];
  for (int d = 0; d < 2; d += 1) changed[d] = withChanges(link.impairments[d].settings(), request);
  const bool burstNamed = request.find("burst") != nullptr;
  const auto isDown = [&link] { return link.impairments[0].settings().down || link.impairments[1].settings().down; };
  const bool wasDown = isDown();
  for (int d = 0; d < 2; d += 1) {
    if (named[d]) link.impairments[d].change(changed[d], burstNamed);
  }
  if (isDown() == wasDown) return;
  for (const auto& end : link.ends) end->setCarrier(wasDown);
}

void Emulator::resetTruth() {
  for (const auto& [name, link] : byName_) {
    for (int d = 0; d < 2; d += 1) {
      link->truth[d].reset();
      link->ends[d]->resetDropped();
    }
  }
}

void Emulator::startCapture(const std::string& path, uint64_t maxBytes, const Link* only) {
  if (capture_) throw InvalidRequest("a capture is running");
  std::vector<std::string> names;
  std::vector<uint32_t> numbers;
  for (const auto& [name, link] : byName_) {
    if (only != nullptr && link != only) continue;
    names.push_back(name);
    numbers.push_back(link->number);
  }
  capture_ = std::make_unique<Capture>(path, maxBytes, names, numbers);
}

Capture::Result Emulator::stopCapture() {
  if (!capture_) throw InvalidRequest("no capture is running");
  const Capture::Result result = capture_->finish();
  capture_.reset();
  return result;
}

void Emulator::onReadable(uint64_t tag) {
  const auto number = static_cast<size_t>(tag / 2);
  const auto direction = static_cast<Direction>(tag % 2);
  if (number >= slots_.size() || slots_[number] == nullptr) return;
  Link& link = *slots_[number];
  const int fd = link.ends[direction]->fd();
  for (int i = 0; i < kReadBatch; i += 1) {
    const uint32_t slot = pool_.take();
    uint8_t* buffer = slot == PacketPool::kNone ? scratch_ : pool_.at(slot);
    const ssize_t got = read(fd, buffer, PacketPool::kSlotBytes);
    if (got <= static_cast<ssize_t>(kVnetHeaderBytes)) {
      if (slot != PacketPool::kNone) pool_.give(slot);
      // The device was deleted under us: nothing will ever come.
      if (got < 0 && errno == EBADFD) epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
      break;
    }
    take(link, direction, slot, static_cast<size_t>(got) - kVnetHeaderBytes);
  }
}

void Emulator::take(Link& link, Direction direction, uint32_t slot, size_t bytes) {
  const bool haveBuffer = slot != PacketPool::kNone;
  const uint8_t* packet = (haveBuffer ? pool_.at(slot) : scratch_) + kVnetHeaderBytes;
  int64_t& lastNs = link.lastArrivalNs[direction];
  const int64_t nowNs = lastNs = std::max(lastNs, arrivals_.arrivalNs(packet, bytes, monotonicNs()));
  DirectionTruth& truth = link.truth[direction];
  const Received received = truth.receive(packet, bytes, nowNs);
  if (capture_) capture_->record(link.number, direction, CapturePoint::in, nowNs, packet, bytes);
  Decision decision = link.impairments[direction].decide(bytes, received.dscp, nowNs, haveBuffer);
  if (!decision.drop && bytes > kMaxPacketBytes) decision.drop = DropCause::oversize;
  if (decision.drop) {
    truth.drop(received, *decision.drop);
    if (decision.tooBig) answerTooBig(link, direction, packet, bytes);
    if (haveBuffer) pool_.give(slot);
    return;
  }
  held_[slot] = Held{received, link.number, link.generation, direction, decision.corrupt, false};
  hold(slot, decision.dueNs);
  if (decision.duplicate) holdCopy(slot, decision.dueNs);
}

void Emulator::holdCopy(uint32_t slot, int64_t dueNs) {
  const uint32_t copy = pool_.take();
  if (copy == PacketPool::kNone) return;
  held_[copy] = held_[slot];
  held_[copy].isCopy = true;
  std::memcpy(pool_.at(copy), pool_.at(slot), kVnetHeaderBytes + held_[slot].received.bytes);
  hold(copy, dueNs);
}

void Emulator::answerTooBig(Link& link, Direction direction, const uint8_t* packet, size_t bytes) {
  uint8_t answer[kVnetHeaderBytes + kMaxTooBigBytes] = {};
  // From the far end's address: the near end's own would be refused by its kernel as a packet from itself.
  const size_t size = makeTooBig(packet, bytes, *link.impairments[direction].settings().mtuBytes,
                                 link.addresses[1 - direction], answer + kVnetHeaderBytes);
  if (size == 0) return;
  const ssize_t wrote = ::write(link.ends[direction]->fd(), answer, kVnetHeaderBytes + size);
  if (wrote > 0) link.truth[direction].tooBigSent();
}

void Emulator::hold(uint32_t slot, int64_t dueNs) {
  const Deadline added{dueNs, nextOrder_++, slot};
  heap_.push_back(added);
  size_t at = heap_.size() - 1;
  while (at > 0) {
    const size_t parent = (at - 1) / 4;
    if (!added.before(heap_[parent])) break;
    heap_[at] = heap_[parent];
    at = parent;
  }
  heap_[at] = added;
}

uint32_t Emulator::popDue() {
  const uint32_t slot = heap_.front().slot;
  const Deadline last = heap_.back();
  heap_.pop_back();
  if (heap_.empty()) return slot;
  size_t at = 0;
  for (;;) {
    const size_t firstChild = at * 4 + 1;
    if (firstChild >= heap_.size()) break;
    const size_t end = std::min(firstChild + 4, heap_.size());
    size_t least = firstChild;
    for (size_t child = firstChild + 1; child < end; child += 1) {
      if (heap_[child].before(heap_[least])) least = child;
    }
    if (!heap_[least].before(last)) break;
    heap_[at] = heap_[least];
    at = least;
  }
  heap_[at] = last;
  return slot;
}

bool Emulator::writeDue() {
  for (int i = 0; i < kWriteBatch; i += 1) {
    const int64_t dueNs = nextDueNs();
    if (dueNs > monotonicNs()) return false;
    write(popDue(), dueNs);
  }
  return true;
}

void Emulator::write(uint32_t slot, int64_t dueNs) {
  const Held& held = held_[slot];
  pool_.give(slot);  // nothing takes it before this returns
  Link* link = slots_[held.link].get();
  if (link == nullptr || link->generation != held.generation) return;
  const Direction direction = held.direction;
  DirectionTruth& truth = link->truth[direction];
  if (link->impairments[direction].settings().down) {
    // The cut takes what was on the wire.
    if (!held.isCopy) truth.drop(held.received, DropCause::down);
    return;
  }
  uint8_t* buffer = pool_.at(slot);
  std::memset(buffer, 0, kVnetHeaderBytes);
  if (held.corrupt) buffer[1] = kImpossibleGsoType;
  const int64_t writeNs = monotonicNs();
  const ssize_t wrote = ::write(link->ends[1 - direction]->fd(), buffer, kVnetHeaderBytes + held.received.bytes);
  if (capture_ && wrote > 0 && !held.corrupt) {
    capture_->record(link->number, direction, CapturePoint::out, writeNs, buffer + kVnetHeaderBytes, held.received.bytes);
  }
  if (held.isCopy) {
    if (wrote > 0) truth.duplicate(held.received);
  } else if (held.corrupt) {
    truth.drop(held.received, DropCause::corrupt);
  } else if (wrote > 0) {
    truth.forward(held.received, writeNs, dueNs);
  } else {
    truth.drop(held.received, DropCause::device);
  }
}

}  // namespace wan
