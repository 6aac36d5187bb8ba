#include "impairments.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace wan {
namespace {

constexpr double kMaxUs = 60e6;
constexpr double kMaxBitsPerSecond = 1e12;
constexpr double kMaxQueueBytes = 1e9;
// RFC 1812, 4.3.2.8, and RFC 4443, 2.4 (f): errors are limited. Enough that every path learns its MTU at once.
constexpr double kTooBigPerSecond = 100;
constexpr double kTooBigBurst = 50;

[[noreturn]] void refuse(const std::string& name, const char* expected) {
  throw InvalidRequest(name + ": expected " + expected);
}

double numberIn(const Json& value, const std::string& name, double low, double high, const char* expected) {
  if (value.kind != Json::Kind::number || value.number < low || value.number > high) refuse(name, expected);
  return value.number;
}

double ratioOf(const Json& value, const std::string& name) {
  return numberIn(value, name, 0, 1, "a ratio from 0 to 1");
}

double usOf(const Json& value, const std::string& name) {
  return numberIn(value, name, 0, kMaxUs, "microseconds from 0 to 60000000");
}

bool booleanOf(const Json& value, const std::string& name) {
  if (value.kind != Json::Kind::boolean) refuse(name, "true or false");
  return value.boolean;
}

// The members of an object setting, each of which must be asked for.
class Members {
 public:
  Members(const Json& object, std::string name) : object_(object), name_(std::move(name)) {
    if (object.kind != Json::Kind::object) refuse(name_, "an object or null");
  }

  const Json& at(const char* member) {
    const Json* found = optional(member);
    if (found == nullptr) throw InvalidRequest(name_ + "." + member + ": missing");
    return *found;
  }

  const Json* optional(const char* member) {
    const Json* found = object_.find(member);
    if (found != nullptr) taken_ += 1;
    return found;
  }

  std::string nameOf(const char* member) const { return name_ + "." + member; }

  double ratio(const char* member) { return ratioOf(at(member), nameOf(member)); }

  void expectNoMore() const {
    if (taken_ != object_.members.size()) throw InvalidRequest(name_ + ": has a member that is not known");
  }

 private:
  const Json& object_;
  std::string name_;
  size_t taken_ = 0;
};

Settings::Jitter jitterOf(const Json& value) {
  Members members(value, "jitter");
  const Json& kind = members.at("kind");
  if (kind.string != "uniform" && kind.string != "normal") refuse("jitter.kind", "\"uniform\" or \"normal\"");
  Settings::Jitter jitter;
  jitter.normal = kind.string == "normal";
  jitter.us = usOf(members.at("us"), "jitter.us");
  jitter.keepOrder = booleanOf(members.at("keepOrder"), "jitter.keepOrder");
  members.expectNoMore();
  return jitter;
}

Settings::Burst burstOf(const Json& value) {
  Members members(value, "burst");
  const Settings::Burst burst{members.ratio("p"), members.ratio("r"), members.ratio("h"), members.ratio("k")};
  members.expectNoMore();
  return burst;
}

std::array<double, 64> lossByDscpOf(const Json& value) {
  if (value.kind != Json::Kind::object) refuse("lossByDscp", "an object or null");
  std::array<double, 64> ratios{};
  for (const auto& [key, ratio] : value.members) {
    unsigned dscp = 64;
    const auto result = std::from_chars(key.data(), key.data() + key.size(), dscp);
    if (result.ec != std::errc() || result.ptr != key.data() + key.size() || dscp > 63) {
      refuse("lossByDscp", "code points from 0 to 63");
    }
    ratios[dscp] = ratioOf(ratio, "lossByDscp." + key);
  }
  return ratios;
}

Settings::Reorder reorderOf(const Json& value) {
  Members members(value, "reorder");
  Settings::Reorder reorder;
  reorder.ratio = members.ratio("ratio");
  reorder.extraUs = usOf(members.at("extraUs"), "reorder.extraUs");
  members.expectNoMore();
  return reorder;
}

Settings::Rate rateOf(const Json& value) {
  Members members(value, "rate");
  Settings::Rate rate;
  rate.bitsPerSecond =
      numberIn(members.at("bitsPerSecond"), "rate.bitsPerSecond", 1'000, kMaxBitsPerSecond, "1000 to 1e12");
  const Json* bytes = members.optional("queueBytes");
  const Json* ms = members.optional("queueMs");
  if ((bytes == nullptr) == (ms == nullptr)) throw InvalidRequest("rate: one of queueBytes and queueMs");
  rate.queueBytes = bytes != nullptr
                        ? numberIn(*bytes, "rate.queueBytes", 0, kMaxQueueBytes, "octets from 0 to 1e9")
                        : numberIn(*ms, "rate.queueMs", 0, 60'000, "0 to 60000") * rate.bitsPerSecond / 8'000;
  members.expectNoMore();
  return rate;
}

bool isNull(const Json& value) { return value.kind == Json::Kind::null; }

void applyChange(Settings& settings, const std::string& name, const Json& value) {
  if (name == "delayUs") {
    settings.delayUs = usOf(value, name);
  } else if (name == "jitter") {
    settings.jitter = isNull(value) ? std::nullopt : std::optional(jitterOf(value));
  } else if (name == "loss") {
    settings.loss = ratioOf(value, name);
  } else if (name == "burst") {
    settings.burst = isNull(value) ? std::nullopt : std::optional(burstOf(value));
  } else if (name == "lossByDscp") {
    settings.lossByDscp = isNull(value) ? std::nullopt : std::optional(lossByDscpOf(value));
  } else if (name == "duplicate") {
    settings.duplicate = ratioOf(value, name);
  } else if (name == "reorder") {
    settings.reorder = isNull(value) ? std::nullopt : std::optional(reorderOf(value));
  } else if (name == "rate") {
    settings.rate = isNull(value) ? std::nullopt : std::optional(rateOf(value));
  } else if (name == "mtu") {
    settings.mtuBytes.reset();
    if (!isNull(value)) settings.mtuBytes = static_cast<uint32_t>(numberIn(value, name, 68, 65'535, "68 to 65535"));
  } else if (name == "mtuTooBig") {
    settings.mtuTooBig = booleanOf(value, name);
  } else if (name == "down") {
    settings.down = booleanOf(value, name);
  } else if (name == "blackhole") {
    settings.blackhole = booleanOf(value, name);
  } else if (name == "corrupt") {
    settings.corrupt = ratioOf(value, name);
  } else {
    throw InvalidRequest("a setting that is not known: " + name);
  }
}

void appendName(std::string& out, const char* name) {
  out += '"';
  out += name;
  out += "\":";
}

void append(std::string& out, const char* name, double value) {
  appendName(out, name);
  appendNumber(out, value);
}

void append(std::string& out, const char* name, bool value) {
  appendName(out, name);
  out += value ? "true" : "false";
}

int64_t usToNs(double us) { return std::llround(us * 1000); }

}  // namespace

Settings withChanges(const Settings& current, const Json& request) {
  Settings settings = current;
  for (const auto& [name, value] : request.members) {
    if (name != "op" && name != "link" && name != "dir") applyChange(settings, name, value);
  }
  return settings;
}

void appendSettings(std::string& out, const Settings& settings) {
  out += '{';
  append(out, "delayUs", settings.delayUs);
  out += ",\"jitter\":";
  if (const auto& jitter = settings.jitter) {
    out += jitter->normal ? "{\"kind\":\"normal\"," : "{\"kind\":\"uniform\",";
    append(out, "us", jitter->us);
    out += ',';
    append(out, "keepOrder", jitter->keepOrder);
    out += '}';
  } else {
    out += "null";
  }
  out += ',';
  append(out, "loss", settings.loss);
  out += ",\"burst\":";
  if (const auto& burst = settings.burst) {
    out += '{';
    append(out, "p", burst->p);
    out += ',';
    append(out, "r", burst->r);
    out += ',';
    append(out, "h", burst->h);
    out += ',';
    append(out, "k", burst->k);
    out += '}';
  } else {
    out += "null";
  }
  out += ",\"lossByDscp\":";
  if (const auto& ratios = settings.lossByDscp) {
    out += '{';
    bool first = true;
    for (size_t dscp = 0; dscp < ratios->size(); dscp += 1) {
      if ((*ratios)[dscp] == 0) continue;
      if (!first) out += ',';
      first = false;
      append(out, std::to_string(dscp).c_str(), (*ratios)[dscp]);
    }
    out += '}';
  } else {
    out += "null";
  }
  out += ',';
  append(out, "duplicate", settings.duplicate);
  out += ",\"reorder\":";
  if (const auto& reorder = settings.reorder) {
    out += '{';
    append(out, "ratio", reorder->ratio);
    out += ',';
    append(out, "extraUs", reorder->extraUs);
    out += '}';
  } else {
    out += "null";
  }
  out += ",\"rate\":";
  if (const auto& rate = settings.rate) {
    out += '{';
    append(out, "bitsPerSecond", rate->bitsPerSecond);
    out += ',';
    append(out, "queueBytes", rate->queueBytes);
    out += '}';
  } else {
    out += "null";
  }
  out += ",\"mtu\":";
  if (settings.mtuBytes) {
    appendNumber(out, uint64_t{*settings.mtuBytes});
  } else {
    out += "null";
  }
  out += ',';
  append(out, "mtuTooBig", settings.mtuTooBig);
  out += ',';
  append(out, "down", settings.down);
  out += ',';
  append(out, "blackhole", settings.blackhole);
  out += ',';
  append(out, "corrupt", settings.corrupt);
  out += '}';
}

Impairments::Impairments(uint64_t seed, std::string_view link, std::string_view direction)
    : loss_(seed, link, direction, "loss"),
      burst_(seed, link, direction, "burst"),
      dscp_(seed, link, direction, "dscp"),
      corrupt_(seed, link, direction, "corrupt"),
      duplicate_(seed, link, direction, "duplicate"),
      reorder_(seed, link, direction, "reorder"),
      jitter_(seed, link, direction, "jitter") {}

void Impairments::change(const Settings& settings, bool burstNamed) {
  settings_ = settings;
  if (burstNamed) inBurst_ = false;
  if (!settings.rate) serverFreeNs_ = 0;
}

bool Impairments::drawBurst(const Settings::Burst& burst) {
  const double step = burst_.uniform();
  const double fate = burst_.uniform();
  inBurst_ = inBurst_ ? step >= burst.r : step < burst.p;
  return fate >= (inBurst_ ? burst.h : burst.k);
}

Impairments::Draws Impairments::draw(uint8_t dscp) {
  Draws draws;
  if (settings_.lossByDscp) draws.dscp = dscp_.uniform() < (*settings_.lossByDscp)[dscp];
  if (settings_.burst) draws.burst = drawBurst(*settings_.burst);
  if (settings_.loss > 0) draws.loss = loss_.uniform() < settings_.loss;
  if (settings_.corrupt > 0) draws.corrupt = corrupt_.uniform() < settings_.corrupt;
  if (settings_.duplicate > 0) draws.duplicate = duplicate_.uniform() < settings_.duplicate;
  if (settings_.reorder) draws.reorder = reorder_.uniform() < settings_.reorder->ratio;
  if (const auto& jitter = settings_.jitter) {
    draws.jitterUs = jitter->us * (jitter->normal ? jitter_.normal() : 2 * jitter_.uniform() - 1);
  }
  return draws;
}

bool Impairments::mayAnswerTooBig(int64_t nowNs) {
  const double refill = static_cast<double>(nowNs - tooBigFilledNs_) / 1e9 * kTooBigPerSecond;
  tooBigTokens_ = std::min(kTooBigBurst, tooBigTokens_ + refill);
  tooBigFilledNs_ = nowNs;
  if (tooBigTokens_ < 1) return false;
  tooBigTokens_ -= 1;
  return true;
}

Decision Impairments::decide(size_t bytes, uint8_t dscp, int64_t nowNs, bool haveBuffer) {
  const Draws draws = draw(dscp);
  Decision decision;
  if (settings_.down) {
    decision.drop = DropCause::down;
  } else if (settings_.blackhole) {
    decision.drop = DropCause::blackhole;
  } else if (settings_.mtuBytes && bytes > *settings_.mtuBytes) {
    decision.drop = DropCause::mtu;
    decision.tooBig = settings_.mtuTooBig && mayAnswerTooBig(nowNs);
  } else if (draws.dscp) {
    decision.drop = DropCause::dscp;
  } else if (draws.burst) {
    decision.drop = DropCause::burst;
  } else if (draws.loss) {
    decision.drop = DropCause::loss;
  } else if (!haveBuffer) {
    decision.drop = DropCause::pool;
  }
  if (decision.drop) return decision;

  int64_t leavesNs = nowNs;
  if (const auto& rate = settings_.rate) {
    const double nsPerByte = 8e9 / rate->bitsPerSecond;
    const int64_t startsNs = std::max(nowNs, serverFreeNs_);
    const double waitingBytes = static_cast<double>(startsNs - nowNs) / nsPerByte;
    if (startsNs > nowNs && waitingBytes + static_cast<double>(bytes) > rate->queueBytes) {
      decision.drop = DropCause::queue;
      return decision;
    }
    leavesNs = serverFreeNs_ = startsNs + std::llround(nsPerByte * static_cast<double>(bytes));
  }

  decision.corrupt = draws.corrupt;
  decision.duplicate = draws.duplicate && !draws.corrupt;
  decision.dueNs = leavesNs + std::max<int64_t>(usToNs(settings_.delayUs + draws.jitterUs), 0);
  const bool heldBack = draws.reorder;
  if (heldBack) {
    decision.dueNs += usToNs(settings_.reorder->extraUs);
  } else {
    if (settings_.jitter && settings_.jitter->keepOrder) decision.dueNs = std::max(decision.dueNs, lastDueNs_);
    lastDueNs_ = std::max(lastDueNs_, decision.dueNs);
  }
  return decision;
}

}  // namespace wan
