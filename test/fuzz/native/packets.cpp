/**
 * Whatever comes from the network, to the readers of the packet engine. Each input is in memory of exactly its size, so that the
 * sanitizers see one octet too many.
 *
 * With clang this is a libFuzzer target. Without it `main` below mutates blindly: FILE SEED EXECUTIONS.
 */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "packet.hpp"

namespace {

using namespace wanscope;

/** What was read must lie within what came. */
void require(bool holds) {
  if (!holds) std::abort();
}

void readAll(const uint8_t* bytes, size_t length) {
  for (const bool v6 : {false, true}) {
    Quote quote;
    if (readQuote(bytes, length, v6, quote)) {
      require(quote.length >= 8 && quote.bytes >= bytes && quote.bytes + quote.length == bytes + length);
      require(quote.destination + (v6 ? 16 : 4) <= quote.bytes);
      require(quote.value <= 0xffff);
      Echo quoted;
      (void)readEcho(quote.bytes, quote.length, quoted);
    }
    Echo echo;
    if (isEchoReply(bytes, length, v6) && readEcho(bytes, length, echo)) require(length >= kEchoBytes);
  }
  static const Hmac hmac(std::string(32, 'k'));
  for (const Hmac* key : {static_cast<const Hmac*>(nullptr), &hmac}) {
    const Told told = readTold(bytes, length, key == nullptr ? kStampBytes : kAuthenticatedBytes, key);
    require(!told.dscp || *told.dscp <= 63);
    require(!told.hasCounts || told.claimsCounts);
    require(told.hasCounts || (told.sent == 0 && told.received == 0 && told.answered == 0));
  }
  for (const StampLayout& at : {kOpenLayout, kAuthenticatedLayout}) {
    if (length < at.least) continue;
    const uint16_t estimate = get16(bytes + at.estimate);
    // As the engine does it with the stamps of an answer.
    volatile int64_t sum = wallNsOf(get64(bytes + at.t3), estimate) - wallNsOf(get64(bytes + at.t2), estimate);
    (void)sum;
  }
  if (length < kAuthenticatedBytes) return;
  uint8_t signature[Hmac::kBytes];
  hmac.sign(bytes, kHmacAt, signature);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t length) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[length]);
  if (length > 0) std::memcpy(exact.get(), data, length);
  readAll(exact.get(), length);
  return 0;
}

#ifdef BLIND
int main(int argc, char** argv) {
  std::mt19937 random(argc > 1 ? static_cast<uint32_t>(std::atoi(argv[1])) : 1);
  const long executions = argc > 2 ? std::atol(argv[2]) : 1'000'000;
  const Cookie cookie(reinterpret_cast<const uint8_t*>("0123456789abcdef"));
  std::vector<std::vector<uint8_t>> seeds(4, std::vector<uint8_t>(192));
  writeEcho(seeds[0].data() + 28, false, 7, 1, 2, 3, 0, cookie);
  seeds[0][0] = 3;
  seeds[0][8] = 0x45;
  writeStamp(seeds[1].data(), 1, 2, 3, 4, 0x1401, cookie);
  writeQuestions(seeds[1].data(), kStampBytes, kClassBytes + kCountsBytes, {46, true}, nullptr);
  writeEcho(seeds[2].data(), true, 7, 1, 2, 3, 0, cookie);
  seeds[2][0] = 129;
  const Hmac hmac(std::string(32, 'k'));
  writeAuthenticatedStamp(seeds[3].data(), 1, 2, 3, 4, 0x1401, cookie, hmac);
  writeQuestions(seeds[3].data(), kAuthenticatedBytes, kClassBytes + kCountsBytes + kHmacTlvBytes, {46, true}, &hmac);
  // As an answer has them.
  seeds[3][kAuthenticatedBytes] = seeds[3][kAuthenticatedBytes + kClassBytes] = 0;
  for (long done = 0; done < executions; done += 1) {
    std::vector<uint8_t> input = seeds[random() % seeds.size()];
    for (uint32_t left = random() % 8; left > 0; left -= 1) input[random() % input.size()] = static_cast<uint8_t>(random());
    if (random() % 4 == 0) input.resize(random() % (input.size() + 1));
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%ld executions\n", executions);
}
#endif
