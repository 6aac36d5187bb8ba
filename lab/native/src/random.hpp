// Seeded random streams: one for each link, direction and kind of impairment, so that one never shifts another.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

namespace wan {

// xoshiro256** (Blackman, Vigna), its state filled by SplitMix64 from a seed and a FNV-1a hash of the stream's name.
class Random {
 public:
  Random() = default;

  Random(uint64_t seed, std::string_view link, std::string_view direction, std::string_view kind) {
    uint64_t state = seed ^ hash(hash(hash(0xcbf29ce484222325ULL, link), direction), kind);
    for (uint64_t& word : state_) word = splitMix(state);
  }

  uint64_t next() {
    const uint64_t result = rotate(state_[1] * 5, 7) * 9;
    const uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = rotate(state_[3], 45);
    return result;
  }

  // Uniform in [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

  // Normal with mean 0 and standard deviation 1; always two draws (Box-Muller).
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * M_PI * uniform());
  }

 private:
  static uint64_t rotate(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

  static uint64_t splitMix(uint64_t& state) {
    uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

  // The byte after each part keeps ("ab", "c") apart from ("a", "bc").
  static uint64_t hash(uint64_t h, std::string_view part) {
    for (const char c : part) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
    return (h ^ 0xff) * 0x100000001b3ULL;
  }

  uint64_t state_[4] = {1, 2, 3, 4};
};

}  // namespace wan
