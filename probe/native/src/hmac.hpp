/** HMAC-SHA-256 (RFC 2104, FIPS 180-4), of which STAMP takes the first 16 octets (RFC 8762 section 4.2.2). */
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace wanscope {

class Sha256 {
 public:
  void add(const uint8_t* data, size_t length) {
    for (size_t i = 0; i < length; i += 1) {
      block_[total_ % 64] = data[i];
      total_ += 1;
      if (total_ % 64 == 0) compress();
    }
  }

  void finish(uint8_t* digest) {
    const uint64_t bits = total_ * 8;
    const uint8_t one = 0x80;
    const uint8_t zero = 0;
    add(&one, 1);
    while (total_ % 64 != 56) add(&zero, 1);
    uint8_t length[8];
    for (int i = 0; i < 8; i += 1) length[i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
    add(length, 8);
    for (int i = 0; i < 32; i += 1) digest[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
  }

 private:
  static uint32_t rotate(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

  void compress() {
    static constexpr uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64];
    for (int i = 0; i < 16; i += 1) {
      w[i] = uint32_t{block_[4 * i]} << 24 | uint32_t{block_[4 * i + 1]} << 16 | uint32_t{block_[4 * i + 2]} << 8 |
             block_[4 * i + 3];
    }
    for (int i = 16; i < 64; i += 1) {
      const uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
      const uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t v[8];
    std::memcpy(v, state_, sizeof v);
    for (int i = 0; i < 64; i += 1) {
      const uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
      const uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
      const uint32_t first = v[7] + s1 + choice + k[i] + w[i];
      const uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
      const uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
      for (int at = 7; at > 0; at -= 1) v[at] = v[at - 1];
      v[4] += first;
      v[0] = first + s0 + majority;
    }
    for (int i = 0; i < 8; i += 1) state_[i] += v[i];
  }

  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t block_[64]{};
  uint64_t total_ = 0;
};

class Hmac {
 public:
  static constexpr size_t kBytes = 16;

  explicit Hmac(const std::string& key) {
    uint8_t padded[64]{};
    if (key.size() > sizeof padded) {
      Sha256 hash;
      hash.add(reinterpret_cast<const uint8_t*>(key.data()), key.size());
      hash.finish(padded);
    } else {
      std::memcpy(padded, key.data(), key.size());
    }
    for (auto& octet : padded) octet ^= 0x36;
    inner_.add(padded, sizeof padded);
    for (auto& octet : padded) octet ^= 0x36 ^ 0x5c;
    outer_.add(padded, sizeof padded);
  }

  /** Writes the first kBytes of the code of `data`. */
  void sign(const uint8_t* data, size_t length, uint8_t* code) const {
    uint8_t digest[32];
    Sha256 inner = inner_;
    inner.add(data, length);
    inner.finish(digest);
    Sha256 outer = outer_;
    outer.add(digest, sizeof digest);
    outer.finish(digest);
    std::memcpy(code, digest, kBytes);
  }

  /** In a time that does not tell where they differ. */
  bool verify(const uint8_t* data, size_t length, const uint8_t* code) const {
    uint8_t expected[kBytes];
    sign(data, length, expected);
    uint8_t different = 0;
    for (size_t i = 0; i < kBytes; i += 1) different |= static_cast<uint8_t>(expected[i] ^ code[i]);
    return different == 0;
  }

 private:
  Sha256 inner_;
  Sha256 outer_;
};

}  // namespace wanscope
