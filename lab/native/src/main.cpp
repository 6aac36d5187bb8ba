// wan-emulator: links between network namespaces, whose impairments are set and whose truth is read through a socket.
//
// One thread. Between events it sleeps in the kernel; it spins only for the last microseconds before a packet is due,
// because a sleeper wakes too late to be exact.
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "control.hpp"
#include "emulator.hpp"

namespace {

constexpr uint64_t kSignalTag = UINT64_MAX;
constexpr uint64_t kTimerTag = UINT64_MAX - 1;
constexpr int kMaxEvents = 64;

struct Options {
  std::string socket;
  uint64_t seed = 1;
  int64_t spinNs = 250'000;
  bool priority = false;
  bool dieWithParent = false;
};

[[noreturn]] void usage() {
  std::fputs(
      "usage: wan-emulator --socket PATH [--seed N] [--spin-us N] [--priority] [--die-with-parent]\n"
      "  --socket PATH      where the control protocol is spoken\n"
      "  --seed N           the same seed and the same packets give the same drops (1)\n"
      "  --spin-us N        busy wait before a packet is due, at most; 0 to 1000 (250)\n"
      "  --priority         ask for real-time scheduling; goes on without\n"
      "  --die-with-parent  end when the process that started this one ends\n",
      stderr);
  std::exit(2);
}

uint64_t numberOf(const char* text, uint64_t max) {
  char* end = nullptr;
  errno = 0;
  const unsigned long long value = std::strtoull(text, &end, 10);
  if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value > max) usage();
  return value;
}

Options optionsOf(int argc, char** argv) {
  static const option kLong[] = {{"socket", required_argument, nullptr, 's'},
                                 {"seed", required_argument, nullptr, 'n'},
                                 {"spin-us", required_argument, nullptr, 'u'},
                                 {"priority", no_argument, nullptr, 'p'},
                                 {"die-with-parent", no_argument, nullptr, 'd'},
                                 {nullptr, 0, nullptr, 0}};
  Options options;
  for (int found = 0; (found = getopt_long(argc, argv, "", kLong, nullptr)) != -1;) {
    switch (found) {
      case 's':
        options.socket = optarg;
        break;
      case 'n':
        options.seed = numberOf(optarg, (1ULL << 53) - 1);
        break;
      case 'u':
        options.spinNs = static_cast<int64_t>(numberOf(optarg, 1'000)) * 1'000;
        break;
      case 'p':
        options.priority = true;
        break;
      case 'd':
        options.dieWithParent = true;
        break;
      default:
        usage();
    }
  }
  if (options.socket.empty() || optind != argc) usage();
  return options;
}

void prepareProcess(const Options& options, pid_t parent) {
  if (options.dieWithParent) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) std::exit(0);
  }
  prctl(PR_SET_TIMERSLACK, 1UL);
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  if (options.priority) {
    sched_param parameters{};
    parameters.sched_priority = 10;
    if (sched_setscheduler(0, SCHED_FIFO, &parameters) != 0) setpriority(PRIO_PROCESS, 0, -20);
  }
}

int checked(int result, const char* what) {
  if (result < 0) throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
  return result;
}

void watch(int epoll, int fd, uint64_t tag) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  checked(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll");
}

// How long before a deadline to wake up and poll: what all but a few of the recent sleeps were late by, at most `maxNs`.
// A machine that wakes up fast spins little.
class WakeMargin {
 public:
  explicit WakeMargin(int64_t maxNs) : maxNs_(static_cast<double>(maxNs)), marginNs_(maxNs_) {}

  int64_t ns() const { return static_cast<int64_t>(marginNs_); }

  // Settles where a share kMissed of the sleeps is later than the margin.
  void slept(int64_t lateNs) {
    constexpr double kMissed = 0.005;
    constexpr double kStepNs = 20'000;
    constexpr double kLeastNs = 10'000;
    const bool missed = static_cast<double>(lateNs) > marginNs_;
    marginNs_ += kStepNs * (missed ? 1 - kMissed : -kMissed);
    marginNs_ = std::min(std::max(marginNs_, kLeastNs), maxNs_);
  }

 private:
  double maxNs_;
  double marginNs_;
};

// Waits for events until an absolute moment; kernels before 5.11 have no epoll_pwait2, so a timer stands in.
class Waiter {
 public:
  explicit Waiter(int epoll) : epoll_(epoll) {}

  int wait(epoll_event* events, int64_t untilNs) {
    if (untilNs == INT64_MAX) return epoll_wait(epoll_, events, kMaxEvents, -1);
    const int64_t waitNs = untilNs - wan::monotonicNs();
    if (waitNs <= 0) return epoll_wait(epoll_, events, kMaxEvents, 0);
    if (timer_ < 0) {
      const timespec timeout{waitNs / 1'000'000'000, waitNs % 1'000'000'000};
      const int count = epoll_pwait2(epoll_, events, kMaxEvents, &timeout, nullptr);
      if (count >= 0 || errno != ENOSYS) return count;
      timer_ = checked(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), "timerfd");
      watch(epoll_, timer_, kTimerTag);
    }
    const itimerspec deadline{{0, 0}, {untilNs / 1'000'000'000, untilNs % 1'000'000'000}};
    timerfd_settime(timer_, TFD_TIMER_ABSTIME, &deadline, nullptr);
    return epoll_wait(epoll_, events, kMaxEvents, -1);
  }

  void onTimer() {
    uint64_t expirations = 0;
    if (read(timer_, &expirations, sizeof expirations) < 0) return;
  }

 private:
  int epoll_;
  int timer_ = -1;
};

void run(const Options& options) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  checked(sigprocmask(SIG_BLOCK, &signals, nullptr), "signals");

  const int epoll = checked(epoll_create1(EPOLL_CLOEXEC), "epoll");
  watch(epoll, checked(signalfd(-1, &signals, SFD_CLOEXEC), "signals"), kSignalTag);
  wan::Emulator emulator(epoll, options.seed);
  wan::Control control(epoll, emulator, options.socket);
  Waiter waiter(epoll);
  WakeMargin margin(options.spinNs);

  epoll_event events[kMaxEvents];
  for (;;) {
    const bool pending = emulator.writeDue() || control.busy();
    const int64_t dueNs = emulator.nextDueNs();
    const int64_t untilNs = pending ? 0 : dueNs == INT64_MAX ? INT64_MAX : dueNs - margin.ns();
    const bool sleeps = untilNs != INT64_MAX && untilNs > wan::monotonicNs();
    const int count = waiter.wait(events, untilNs);
    if (sleeps && count == 0) margin.slept(wan::monotonicNs() - untilNs);
    for (int i = 0; i < count; i += 1) {
      const uint64_t tag = events[i].data.u64;
      if (tag == kSignalTag) return;
      if (tag == kTimerTag) {
        waiter.onTimer();
      } else if (tag >= wan::Control::kFirstTag) {
        control.onEvent(tag, events[i].events);
      } else {
        emulator.onReadable(tag);
        emulator.writeDue();
      }
    }
    control.step();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const pid_t parent = getppid();
  const Options options = optionsOf(argc, argv);
  prepareProcess(options, parent);
  try {
    run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "wan-emulator: %s\n", error.what());
    return 1;
  }
  return 0;
}
