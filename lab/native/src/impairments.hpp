// What a link does to packets in one direction: its settings, their validation, and the decision for each packet.
//
// Order for each packet: down, black hole, MTU, loss by DSCP, bursts, independent loss, (a buffer to hold it,) the queue of
// the rate; then, for what goes on: corruption, duplication, jitter, reordering, delay. The first that drops it is its cause.
// Each enabled kind draws from a stream of its own for every packet, also for one that another kind drops: the n-th packet
// of a direction gets the n-th draw, so one impairment never shifts another's.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "json.hpp"
#include "random.hpp"
#include "truth.hpp"

namespace wan {

// A setting that cannot be; the text is for the one who asked.
struct InvalidRequest : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Settings {
  struct Jitter {
    bool normal = false;
    double us = 0;
    bool keepOrder = true;
  };
  // Gilbert-Elliott: p good to bad, r bad to good, h and k the probability that a packet passes in bad and in good.
  struct Burst {
    double p = 0;
    double r = 0;
    double h = 0;
    double k = 1;
  };
  struct Reorder {
    double ratio = 0;
    double extraUs = 0;
  };
  struct Rate {
    double bitsPerSecond = 0;
    double queueBytes = 0;
  };

  double delayUs = 0;
  std::optional<Jitter> jitter;
  double loss = 0;
  std::optional<Burst> burst;
  std::optional<std::array<double, 64>> lossByDscp;
  double duplicate = 0;
  std::optional<Reorder> reorder;
  std::optional<Rate> rate;
  std::optional<uint32_t> mtuBytes;
  bool mtuTooBig = false;
  bool down = false;
  bool blackhole = false;
  double corrupt = 0;
};

// `current` with every setting that `request` names replaced. `link`, `op` and `dir` are skipped; any other name, and any
// value that cannot be, throws InvalidRequest.
Settings withChanges(const Settings& current, const Json& request);

void appendSettings(std::string& out, const Settings& settings);

struct Decision {
  std::optional<DropCause> drop;
  bool corrupt = false;
  bool duplicate = false;
  // Answer the sender with "too big".
  bool tooBig = false;
  int64_t dueNs = 0;
};

class Impairments {
 public:
  Impairments() = default;
  Impairments(uint64_t seed, std::string_view link, std::string_view direction);

  const Settings& settings() const { return settings_; }
  void change(const Settings& settings, bool burstNamed);

  // `haveBuffer` false: what nothing else drops is dropped for want of a buffer.
  Decision decide(size_t bytes, uint8_t dscp, int64_t nowNs, bool haveBuffer);

 private:
  struct Draws {
    bool loss = false;
    bool burst = false;
    bool dscp = false;
    bool corrupt = false;
    bool duplicate = false;
    bool reorder = false;
    double jitterUs = 0;
  };
  Draws draw(uint8_t dscp);
  bool drawBurst(const Settings::Burst& burst);
  bool mayAnswerTooBig(int64_t nowNs);

  Settings settings_;
  Random loss_, burst_, dscp_, corrupt_, duplicate_, reorder_, jitter_;
  bool inBurst_ = false;
  // When the rate's virtual server has sent all it holds.
  int64_t serverFreeNs_ = 0;
  // The latest deadline given to a packet that was not held back.
  int64_t lastDueNs_ = 0;
  double tooBigTokens_ = 0;
  int64_t tooBigFilledNs_ = 0;
};

}  // namespace wan
