/** Monotonic time, and the kernel's wall-clock stamps brought onto it. */
#pragma once

#include <sys/timex.h>

#include <cstdint>
#include <ctime>
#include <optional>

namespace wanscope {

constexpr int64_t kNever = INT64_MAX;

inline int64_t nsOf(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

inline int64_t readClock(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return nsOf(time);
}

inline int64_t monoNs() { return readClock(CLOCK_MONOTONIC); }

/**
 * CLOCK_REALTIME stamps on CLOCK_MONOTONIC. Both clocks are slewed alike, so their difference is constant until somebody
 * sets the wall clock; each constant stretch is an era. A stamp belongs to the one era in which its time makes sense;
 * where two do (a small step at just that moment) there is no answer rather than a wrong one.
 */
class WallClock {
 public:
  /** Reads both clocks. */
  void observe() {
    for (int attempt = 0; attempt < 3; attempt += 1) {
      const int64_t before = monoNs();
      const int64_t wall = readClock(CLOCK_REALTIME);
      const int64_t after = monoNs();
      // A thread that was interrupted in between knows too little; the last attempt has to do.
      if (after - before > 2'000 && attempt < 2) continue;
      observe(before, wall, after);
      return;
    }
  }

  /** The wall clock showed `wall` at some moment between `before` and `after`. */
  void observe(int64_t before, int64_t wall, int64_t after) {
    const int64_t low = wall - after;
    const int64_t high = wall - before;
    Era& current = eras_[0];
    if (count_ > 0 && low <= current.high + kNoise && high >= current.low - kNoise) {
      if (low > current.low) current.low = low;
      if (high < current.high) current.high = high;
      if (current.low > current.high) current.low = current.high = (current.low + current.high) / 2;
      current.lastSeen = before;
      return;
    }
    for (int i = kEras - 1; i > 0; i -= 1) eras_[i] = eras_[i - 1];
    if (count_ > 0) {
      eras_[1].until = after;
      steps_ += 1;
    }
    eras_[0] = {low, high, count_ > 0 ? eras_[1].lastSeen : before, kNever, before};
    if (count_ < kEras) count_ += 1;
  }

  /** Monotonic time of a stamp that was made between `notBefore` and `notAfter`; none when that is not certain. */
  std::optional<int64_t> toMono(int64_t wall, int64_t notBefore, int64_t notAfter) const {
    std::optional<int64_t> found;
    for (int i = 0; i < count_; i += 1) {
      const Era& era = eras_[i];
      const int64_t time = wall - (era.low + (era.high - era.low) / 2);
      const int64_t from = era.from > notBefore ? era.from : notBefore;
      const int64_t until = era.until < notAfter ? era.until : notAfter;
      if (time < from - kSlack || time - kSlack > until) continue;
      if (found) return std::nullopt;
      found = time;
    }
    return found;
  }

  /** Wall time of a monotonic moment, by the clock as it is set now. */
  int64_t toWall(int64_t mono) const { return mono + eras_[0].low + (eras_[0].high - eras_[0].low) / 2; }

  /** Monotonic time of a wall time that is not of this machine, as if its clock were. */
  int64_t asMono(int64_t wall) const { return wall - (eras_[0].low + (eras_[0].high - eras_[0].low) / 2); }

  /** How often the wall clock was set. */
  uint64_t steps() const { return steps_; }

 private:
  struct Era {
    int64_t low;
    int64_t high;
    /** The era before was last seen then, this one was over by `until`. */
    int64_t from;
    int64_t until;
    int64_t lastSeen;
  };

  static constexpr int kEras = 4;
  /** Differences of readings that are rounding. */
  static constexpr int64_t kNoise = 50;
  /** How far two processors' clocks may be apart. */
  static constexpr int64_t kSlack = 1'000;
  Era eras_[kEras]{};
  int count_ = 0;
  uint64_t steps_ = 0;
};

/** Bits of STAMP's error estimate (RFC 8762 section 4.2.1): the clock is synchronised; timestamps are PTP's. */
constexpr uint16_t kSynchronised = 0x8000;
constexpr uint16_t kPtpFormat = 0x4000;
/** Without a synchronised clock: 2^-12 s, about a quarter millisecond, which nobody may rely on. */
constexpr uint16_t kUnsynchronised = 0x1401;

/** What an error estimate says in nanoseconds: multiplier * 2^(scale - 32) s; none unless synchronised. */
inline std::optional<int64_t> errorOfEstimate(uint16_t estimate) {
  const int scale = estimate >> 8 & 0x3f;
  const uint64_t multiplier = estimate & 0xff;
  // More than some 4 s, or nothing, is no statement.
  if ((estimate & kSynchronised) == 0 || multiplier == 0 || scale > 26) return std::nullopt;
  return static_cast<int64_t>((multiplier << scale) * 1'000'000'000 >> 32);
}

/** The error estimate that states at least this error. */
inline uint16_t estimateOfError(int64_t errorNs) {
  uint64_t fraction = (static_cast<uint64_t>(errorNs) << 32) / 1'000'000'000 + 1;
  uint16_t scale = 0;
  while (fraction > 0xff) {
    fraction = (fraction + 1) >> 1;
    scale += 1;
  }
  return static_cast<uint16_t>(kSynchronised | scale << 8 | fraction);
}

/** Whether the system's clock is synchronised, as the kernel is told by whoever disciplines it (ntp_adjtime). */
class ClockState {
 public:
  uint16_t estimate(int64_t now) {
    refresh(now);
    return estimate_;
  }

  std::optional<int64_t> errorNs(int64_t now) { return errorOfEstimate(estimate(now)); }

 private:
  void refresh(int64_t now) {
    if (now < nextNs_) return;
    nextNs_ = now + 1'000'000'000;
    timex state{};
    const bool known = ntp_adjtime(&state) >= 0 && (state.status & STA_UNSYNC) == 0;
    estimate_ = known && state.maxerror < kMostUs ? estimateOfError(state.maxerror * 1'000) : kUnsynchronised;
  }

  static constexpr long kMostUs = 1'000'000;
  uint16_t estimate_ = kUnsynchronised;
  int64_t nextNs_ = INT64_MIN;
};

}  // namespace wanscope
