// The control socket: one JSON request per line, one JSON answer per line, in order, for several clients.
//
// Whatever a client sends is answered or skipped; it never ends the emulator. A long answer (truth with flows) is written in
// small steps between packets, each direction from a copy taken at one moment, so that asking delays no packet.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "emulator.hpp"
#include "json.hpp"

namespace wan {

class Control {
 public:
  static constexpr size_t kMaxRequestBytes = 65'536;
  static constexpr size_t kMaxClients = 64;
  // epoll tags from here on are this socket's.
  static constexpr uint64_t kFirstTag = Emulator::kMaxLinks * 2;

  // Throws std::runtime_error when the socket cannot be made or another emulator answers there.
  Control(int epoll, Emulator& emulator, std::string socketPath);
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  void onEvent(uint64_t tag, uint32_t events);
  // True while a step can go on with some answer.
  bool busy() const;
  // One small step on each unfinished answer.
  void step();

 private:
  struct Client;
  class TruthAnswer;

  void accept();
  void read(Client& client);
  // Answers requests already read, up to the first that takes steps or whose answer is not taken.
  void serve(Client& client);
  void answer(Client& client, std::string_view line);
  void answerRequest(Client& client, const Json& request);
  void flush(Client& client);
  // Drops a client that has ended and got all its answers, or waits for what it needs next.
  void settle(size_t index);

  int epoll_;
  Emulator& emulator_;
  std::string path_;
  int listener_ = -1;
  std::vector<std::unique_ptr<Client>> clients_;
};

}  // namespace wan
