/**
 * Routing domains: a network namespace, a VRF, a mark, or several of them together.
 *
 * What it takes to enter one is needed once, while privileges are still there: a thread enters the namespace and stays, and
 * every socket of the domain is opened by it. Only a thread that sets marks keeps what that needs.
 */
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace wanscope {

struct DomainOptions {
  /** Path of a network namespace; empty: the process's own. */
  std::string netns;
  /** A VRF device; empty: none. */
  std::string vrf;
  /** SO_MARK; 0: none. */
  uint32_t mark = 0;
};

class Domain {
 public:
  /** Enters the namespace. `error` is 0 or an errno. */
  Domain(const DomainOptions& options, int& error);
  ~Domain();
  Domain(const Domain&) = delete;
  Domain& operator=(const Domain&) = delete;

  /** Does `work` in the namespace and returns what it does. */
  int run(const std::function<int()>& work);
  /** What a socket needs before it is bound. Within `run`. Returns 0 or an errno. */
  int prepare(int fd) const;
  /** False when the path leads to another namespace by now, or to none. */
  bool isCurrent() const;
  uint32_t mark() const { return options_.mark; }

 private:
  int enter();
  void live();

  const DomainOptions options_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  std::mutex callers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<int()>* work_ = nullptr;
  int result_ = 0;
  bool done_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

using DomainRef = std::shared_ptr<Domain>;

/** `work` in a domain, or where the process is. */
inline int inDomain(const DomainRef& domain, const std::function<int()>& work) {
  return domain == nullptr ? work() : domain->run(work);
}

struct SocketOptions {
  DomainRef domain;
  bool datagram = false;
  bool v6 = false;
  /** Empty: any. */
  std::string source;
  std::string device;
  /** 0: the system's choice. */
  uint16_t port = 0;
  /** It will listen. */
  bool listens = false;
};

/** A bound socket: its descriptor, or an errno below 0. */
int openSocket(const SocketOptions& options);

/** Every address of the interfaces where `domain` is, without zones, whether their links are up or not. Returns 0 or an errno. */
int listAddresses(const DomainRef& domain, std::vector<std::string>& addresses);

}  // namespace wanscope
