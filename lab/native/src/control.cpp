#include "control.hpp"

#include <arpa/inet.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <stdexcept>

namespace wan {
namespace {

constexpr uint64_t kProtocolVersion = 1;
// No more of an answer is made before the client takes some.
constexpr size_t kMaxWaitingBytes = 262'144;
constexpr uint32_t kFlowsPerStep = 16;
constexpr uint64_t kDefaultCaptureBytes = 256 << 20;

const Json& memberOf(const Json& object, const char* name) {
  const Json* member = object.find(name);
  if (member == nullptr) throw InvalidRequest(std::string(name) + ": missing");
  return *member;
}

bool isNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

// A file name, device name or label: letters, digits, `-`, `_` and `.`, not starting with a dot.
std::string nameIn(const Json& object, const char* member, size_t maxLength) {
  const Json& value = memberOf(object, member);
  const std::string& name = value.string;
  if (value.kind != Json::Kind::string || name.empty() || name.size() > maxLength || name[0] == '.' ||
      !std::all_of(name.begin(), name.end(), isNameCharacter)) {
    throw InvalidRequest(std::string(member) + ": not a name");
  }
  return name;
}

std::string linkNameIn(const Json& request) { return nameIn(request, "link", 128); }

template <size_t kBytes>
std::optional<std::array<uint8_t, kBytes>> addressIn(const Json& end, const char* member, int family) {
  const Json* value = end.find(member);
  if (value == nullptr || value->kind == Json::Kind::null) return std::nullopt;
  std::array<uint8_t, kBytes> address{};
  if (value->kind != Json::Kind::string || inet_pton(family, value->string.c_str(), address.data()) != 1) {
    throw InvalidRequest(std::string(member) + ": not an address");
  }
  return address;
}

Addresses addressesIn(const Json& end) {
  return {addressIn<4>(end, "address4", AF_INET), addressIn<16>(end, "address6", AF_INET6)};
}

EndSpec endIn(const Json& request, const char* member) {
  const Json& end = memberOf(request, member);
  EndSpec spec;
  spec.netns = nameIn(end, "netns", 255);
  spec.device = nameIn(end, "device", 15);
  spec.addresses = addressesIn(end);
  return spec;
}

bool flagIn(const Json& request, const char* member) {
  const Json* value = request.find(member);
  if (value == nullptr) return false;
  if (value->kind != Json::Kind::boolean) throw InvalidRequest(std::string(member) + ": expected true or false");
  return value->boolean;
}

Link& linkIn(Emulator& emulator, const Json& request) {
  const std::string name = linkNameIn(request);
  Link* link = emulator.find(name);
  if (link == nullptr) throw InvalidRequest("no link " + name);
  return *link;
}

void appendError(std::string& out, std::string_view error) {
  out += "{\"ok\":false,\"error\":";
  appendString(out, error);
  out += "}\n";
}

}  // namespace

// The answer to `truth`, made a few flows at a time.
class Control::TruthAnswer {
 public:
  TruthAnswer(std::vector<std::string> links, bool withFlows) : links_(std::move(links)), withFlows_(withFlows) {}

  // Appends a little. True when nothing is left.
  bool step(Emulator& emulator, std::string& out) {
    if (!begun_) {
      out += "{\"ok\":true,\"links\":{";
      begun_ = true;
    }
    if (flowAt_ < flows_.size()) {
      appendFlows(out);
      return false;
    }
    if (inDirection_) {
      out += withFlows_ ? "]}" : "}";
      inDirection_ = false;
      direction_ += 1;
      if (direction_ < 2) return false;
      out += '}';
      direction_ = 0;
      linkAt_ += 1;
      return false;
    }
    if (linkAt_ == links_.size()) {
      out += "}}\n";
      return true;
    }
    beginDirection(emulator, out);
    return false;
  }

 private:
  void appendFlows(std::string& out) {
    const size_t end = std::min(flowAt_ + kFlowsPerStep, flows_.size());
    for (; flowAt_ < end; flowAt_ += 1) {
      if (flowAt_ > 0) out += ',';
      appendFlow(out, flows_[flowAt_]);
    }
  }

  void beginDirection(Emulator& emulator, std::string& out) {
    Link* link = emulator.find(links_[linkAt_]);
    if (link == nullptr) {
      // Removed since it was asked for: left out, or what is left of it empty.
      if (direction_ == 1) {
        out += ",\"b2a\":{";
        DirectionTruth().appendTotals(out, 0);
        out += withFlows_ ? ",\"flows\":[]}}" : "}}";
      }
      direction_ = 0;
      linkAt_ += 1;
      return;
    }
    if (direction_ == 0) {
      if (linkWritten_) out += ',';
      linkWritten_ = true;
      appendString(out, link->name);
      out += ":{";
    } else {
      out += ',';
    }
    const DirectionTruth& truth = link->truth[direction_];
    appendString(out, kDirectionNames[direction_]);
    out += ":{";
    truth.appendTotals(out, emulator.deviceDropped(*link, static_cast<Direction>(direction_)));
    flows_.clear();
    flowAt_ = 0;
    inDirection_ = true;
    if (!withFlows_) return;
    out += ",\"flows\":[";
    flows_.reserve(truth.flowCount());
    for (uint32_t i = 0; i < truth.flowCount(); i += 1) flows_.push_back(truth.flow(i));
  }

  std::vector<std::string> links_;
  bool withFlows_;
  size_t linkAt_ = 0;
  int direction_ = 0;
  bool begun_ = false;
  bool inDirection_ = false;
  bool linkWritten_ = false;
  std::vector<FlowTruth> flows_;
  size_t flowAt_ = 0;
};

struct Control::Client {
  int fd = -1;
  uint64_t tag = 0;
  std::string in;
  std::string out;
  size_t outAt = 0;
  // The rest of a line that was too long is skipped.
  bool skipping = false;
  // It sends no more; what it asked is still answered.
  bool ended = false;
  bool broken = false;
  std::unique_ptr<TruthAnswer> truth;

  size_t waitingBytes() const { return out.size() - outAt; }
  bool canStep() const { return truth != nullptr && waitingBytes() <= kMaxWaitingBytes; }
};

Control::Control(int epoll, Emulator& emulator, std::string socketPath)
    : epoll_(epoll), emulator_(emulator), path_(std::move(socketPath)) {
  const auto fail = [this](const char* what) {
    throw std::runtime_error(std::string(what) + " " + path_ + ": " + std::strerror(errno));
  };
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof address.sun_path) throw std::runtime_error("socket path too long: " + path_);
  std::memcpy(address.sun_path, path_.data(), path_.size());
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener_ < 0) fail("socket");
  if (connect(listener_, generic, sizeof address) == 0) throw std::runtime_error("in use: " + path_);
  if (errno == ECONNREFUSED) unlink(path_.c_str());
  const mode_t mask = umask(0077);
  const int bound = bind(listener_, generic, sizeof address);
  umask(mask);
  if (bound != 0 || listen(listener_, 16) != 0) fail("bind");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kFirstTag;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, listener_, &event) != 0) fail("epoll");
}

Control::~Control() {
  for (const auto& client : clients_) {
    if (client) close(client->fd);
  }
  close(listener_);
  unlink(path_.c_str());
}

void Control::accept() {
  const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;
  auto slot = std::find(clients_.begin(), clients_.end(), nullptr);
  if (slot == clients_.end() && clients_.size() == kMaxClients) {
    close(fd);
    return;
  }
  if (slot == clients_.end()) slot = clients_.insert(slot, nullptr);
  *slot = std::make_unique<Client>();
  (*slot)->fd = fd;
  (*slot)->tag = kFirstTag + 1 + static_cast<uint64_t>(slot - clients_.begin());
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = (*slot)->tag;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
}

void Control::settle(size_t index) {
  const Client& client = *clients_[index];
  if (client.broken || (client.ended && client.waitingBytes() == 0 && !client.truth)) {
    close(client.fd);
    clients_[index].reset();
    return;
  }
  // While an answer is being made or waits to be taken, nothing more is read: memory stays bounded.
  epoll_event event{};
  event.data.u64 = client.tag;
  if (client.waitingBytes() > 0) {
    event.events = EPOLLOUT;
  } else if (!client.truth && !client.ended) {
    event.events = EPOLLIN;
  }
  epoll_ctl(epoll_, EPOLL_CTL_MOD, client.fd, &event);
}

void Control::onEvent(uint64_t tag, uint32_t events) {
  if (tag == kFirstTag) {
    accept();
    return;
  }
  const size_t index = tag - kFirstTag - 1;
  if (index >= clients_.size() || !clients_[index]) return;
  Client& client = *clients_[index];
  if ((events & EPOLLERR) != 0 || ((events & EPOLLHUP) != 0 && (events & EPOLLIN) == 0)) client.broken = true;
  if ((events & EPOLLIN) != 0) read(client);
  if ((events & EPOLLOUT) != 0) flush(client);
  serve(client);
  settle(index);
}

bool Control::busy() const {
  return std::any_of(clients_.begin(), clients_.end(),
                     [](const auto& client) { return client && client->canStep(); });
}

void Control::step() {
  for (size_t index = 0; index < clients_.size(); index += 1) {
    if (!clients_[index] || !clients_[index]->canStep()) continue;
    Client& client = *clients_[index];
    if (client.truth->step(emulator_, client.out)) client.truth.reset();
    constexpr size_t kWorthSendingBytes = 16'384;
    if (client.truth && client.waitingBytes() < kWorthSendingBytes) continue;
    flush(client);
    serve(client);
    settle(index);
  }
}

void Control::read(Client& client) {
  char buffer[16'384];
  const ssize_t got = recv(client.fd, buffer, sizeof buffer, 0);
  if (got > 0) client.in.append(buffer, static_cast<size_t>(got));
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) client.ended = true;
}

void Control::serve(Client& client) {
  size_t at = 0;
  while (!client.truth && client.waitingBytes() <= kMaxWaitingBytes) {
    const size_t end = client.in.find('\n', at);
    if (end == std::string::npos) break;
    const std::string_view line = std::string_view(client.in).substr(at, end - at);
    at = end + 1;
    if (client.skipping) {
      client.skipping = false;
    } else if (line.size() > kMaxRequestBytes) {
      appendError(client.out, "request too long");
    } else {
      answer(client, line);
    }
  }
  client.in.erase(0, at);
  if (client.in.size() > kMaxRequestBytes && client.in.find('\n') == std::string::npos) {
    if (!client.skipping) appendError(client.out, "request too long");
    client.skipping = true;
    client.in.clear();
  }
  flush(client);
}

void Control::flush(Client& client) {
  while (client.waitingBytes() > 0) {
    const ssize_t sent = send(client.fd, client.out.data() + client.outAt, client.waitingBytes(), MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno != EAGAIN && errno != EINTR) {
        client.broken = true;
      }
      break;
    }
    client.outAt += static_cast<size_t>(sent);
  }
  client.out.erase(0, client.outAt);
  client.outAt = 0;
}

void Control::answer(Client& client, std::string_view line) {
  const size_t before = client.out.size();
  try {
    answerRequest(client, parseJson(line));
  } catch (const std::exception& error) {
    client.out.resize(before);
    appendError(client.out, error.what());
  }
}

void Control::answerRequest(Client& client, const Json& request) {
  if (request.kind != Json::Kind::object) throw InvalidRequest("expected an object");
  const std::string& op = memberOf(request, "op").string;
  std::string& out = client.out;
  if (op == "hello") {
    out += "{\"ok\":true,\"version\":";
    appendNumber(out, kProtocolVersion);
    out += ",\"pid\":";
    appendNumber(out, static_cast<uint64_t>(getpid()));
    out += ",\"seed\":";
    appendNumber(out, emulator_.seed());
    out += emulator_.hasArrivalClock() ? ",\"arrivals\":\"kernel\"" : ",\"arrivals\":\"read\"";
    out += "}\n";
  } else if (op == "add-link") {
    emulator_.addLink(linkNameIn(request), endIn(request, "a"), endIn(request, "b"));
    out += "{\"ok\":true}\n";
  } else if (op == "set-addresses") {
    Link& link = linkIn(emulator_, request);
    const Addresses changed[2] = {addressesIn(memberOf(request, "a")), addressesIn(memberOf(request, "b"))};
    for (int end = 0; end < 2; end += 1) link.addresses[end] = changed[end];
    out += "{\"ok\":true}\n";
  } else if (op == "remove-link") {
    emulator_.removeLink(linkIn(emulator_, request));
    out += "{\"ok\":true}\n";
  } else if (op == "set") {
    Link& link = linkIn(emulator_, request);
    const Json* direction = request.find("dir");
    const std::string dir = direction == nullptr ? "both" : direction->string;
    if (dir != "a2b" && dir != "b2a" && dir != "both") throw InvalidRequest("dir: expected a2b, b2a or both");
    emulator_.change(link, dir != "b2a", dir != "a2b", request);
    out += "{\"ok\":true}\n";
  } else if (op == "get") {
    const Link& link = linkIn(emulator_, request);
    out += "{\"ok\":true,\"link\":";
    appendString(out, link.name);
    for (int d = 0; d < 2; d += 1) {
      out += ',';
      appendString(out, kDirectionNames[d]);
      out += ':';
      appendSettings(out, link.impairments[d].settings());
    }
    out += "}\n";
  } else if (op == "links") {
    out += "{\"ok\":true,\"links\":[";
    bool first = true;
    for (const auto& [name, link] : emulator_.links()) {
      if (!first) out += ',';
      first = false;
      appendString(out, name);
    }
    out += "]}\n";
  } else if (op == "truth") {
    std::vector<std::string> names;
    if (request.find("link") != nullptr) {
      names.push_back(linkIn(emulator_, request).name);
    } else {
      for (const auto& [name, link] : emulator_.links()) names.push_back(name);
    }
    client.truth = std::make_unique<TruthAnswer>(std::move(names), flagIn(request, "flows"));
  } else if (op == "reset-truth") {
    emulator_.resetTruth();
    out += "{\"ok\":true}\n";
  } else if (op == "capture") {
    const Json& file = memberOf(request, "file");
    if (file.kind != Json::Kind::string || file.string.empty() || file.string[0] != '/') {
      throw InvalidRequest("file: not an absolute path");
    }
    const Json* maxBytes = request.find("maxBytes");
    if (maxBytes != nullptr && (maxBytes->kind != Json::Kind::number || maxBytes->number < 0 || maxBytes->number > 1e12)) {
      throw InvalidRequest("maxBytes: not a size");
    }
    const Link* only = request.find("link") == nullptr ? nullptr : &linkIn(emulator_, request);
    emulator_.startCapture(file.string,
                           maxBytes == nullptr ? kDefaultCaptureBytes : static_cast<uint64_t>(maxBytes->number), only);
    out += "{\"ok\":true}\n";
  } else if (op == "stop-capture") {
    const Capture::Result result = emulator_.stopCapture();
    out += "{\"ok\":true,\"packets\":";
    appendNumber(out, result.packets);
    out += ",\"missed\":";
    appendNumber(out, result.missed);
    out += "}\n";
  } else {
    throw InvalidRequest("op: not known");
  }
}

}  // namespace wan
