/**
 * What JavaScript sees of the packet engine: functions over handles, N-API only, nothing global, so that each
 * environment (worker, realm) has its own. `net/native.ts` declares them.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <node_api.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include "clock.hpp"
#include "domain.hpp"
#include "engine.hpp"
#include "memory.hpp"
#include "reflector.hpp"
#include "routes.hpp"
#include "tcp-hop.hpp"
#include "tcp-warm.hpp"

namespace {

using namespace wanscope;

napi_value undefined(napi_env env) {
  napi_value value = nullptr;
  napi_get_undefined(env, &value);
  return value;
}

napi_value number(napi_env env, double value) {
  napi_value result = nullptr;
  napi_create_double(env, value, &result);
  return result;
}

napi_value boolean(napi_env env, bool value) {
  napi_value result = nullptr;
  napi_get_boolean(env, value, &result);
  return result;
}

double toNumber(napi_env env, napi_value value) {
  double result = 0;
  napi_get_value_double(env, value, &result);
  return result;
}

bool toBoolean(napi_env env, napi_value value) {
  bool result = false;
  napi_get_value_bool(env, value, &result);
  return result;
}

std::string toText(napi_env env, napi_value value) {
  char text[512];
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, text, sizeof text, &length) != napi_ok) return {};
  return {text, length};
}

napi_value member(napi_env env, napi_value object, const char* name) {
  napi_value value = nullptr;
  if (napi_get_named_property(env, object, name, &value) != napi_ok) return undefined(env);
  return value;
}

/** The memory of a typed array or buffer, and its length in octets. */
template <typename T>
T* memoryOf(napi_env env, napi_value value, size_t& bytes) {
  void* data = nullptr;
  napi_typedarray_type type;
  size_t length = 0;
  napi_value buffer;
  size_t offset;
  bytes = 0;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, &buffer, &offset) != napi_ok) return nullptr;
  bytes = length * (type == napi_float64_array ? sizeof(double) : 1);
  return static_cast<T*>(data);
}

struct Arguments {
  napi_value at[7]{};
  Arguments(napi_env env, napi_callback_info info) {
    size_t count = 7;
    napi_get_cb_info(env, info, &count, at, nullptr, nullptr);
  }
};

/** A native object with the callback that wakes its owner, and the memory it shares with it. */
template <typename T>
struct Handle {
  napi_threadsafe_function wake = nullptr;
  napi_ref memory[4]{};
  std::unique_ptr<T> object;
  /** Alone when the environment goes, or when the owner has closed it. */
  void close(napi_env env) {
    object.reset();
    if (wake != nullptr) napi_release_threadsafe_function(wake, napi_tsfn_abort);
    wake = nullptr;
    for (napi_ref& reference : memory) {
      if (reference != nullptr) napi_delete_reference(env, reference);
      reference = nullptr;
    }
  }
};

template <typename T>
Handle<T>* handleOf(napi_env env, napi_value value) {
  void* data = nullptr;
  if (napi_get_value_external(env, value, &data) != napi_ok) return nullptr;
  auto* handle = static_cast<Handle<T>*>(data);
  return handle->object == nullptr ? nullptr : handle;
}

template <typename T>
void finalize(napi_env env, void* data, void*) {
  auto* handle = static_cast<Handle<T>*>(data);
  handle->close(env);
  delete handle;
}

void callBack(napi_env env, napi_value callback, void*, void*) {
  if (env == nullptr || callback == nullptr) return;
  napi_value ignored;
  napi_call_function(env, undefined(env), callback, 0, nullptr, &ignored);
}

template <typename T>
napi_value wrap(napi_env env, napi_value callback, Handle<T>* handle, const char* name) {
  napi_value title = nullptr;
  napi_create_string_utf8(env, name, NAPI_AUTO_LENGTH, &title);
  napi_create_threadsafe_function(env, callback, nullptr, title, 0, 1, nullptr, nullptr, nullptr, callBack, &handle->wake);
  // What is measured does not keep the process alive; whoever wants it does.
  napi_unref_threadsafe_function(env, handle->wake);
  napi_value external = nullptr;
  napi_create_external(env, handle, finalize<T>, nullptr, &external);
  return external;
}

napi_value createEngine(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  EngineOptions options;
  bool exact = false;
  napi_get_value_bigint_int64(env, member(env, arguments.at[0], "baseNs"), &options.baseNs, &exact);
  options.identifier = static_cast<uint16_t>(toNumber(env, member(env, arguments.at[0], "identifier")));
  options.receiveBufferBytes = static_cast<size_t>(toNumber(env, member(env, arguments.at[0], "receiveBufferBytes")));
  options.countStamps = toBoolean(env, member(env, arguments.at[0], "countStamps"));
  options.readSockets = toBoolean(env, member(env, arguments.at[0], "readSockets"));
  options.unprivileged = toBoolean(env, member(env, arguments.at[0], "unprivileged"));
  size_t keyBytes = 0;
  const auto* key = memoryOf<uint8_t>(env, member(env, arguments.at[0], "cookieKey"), keyBytes);
  size_t rowBytes = 0;
  auto* rows = memoryOf<double>(env, arguments.at[1], rowBytes);
  const size_t capacity = rowBytes / (kRowNumbers * sizeof(double));
  if (keyBytes != sizeof options.cookieKey || capacity < 1'024 || (capacity & (capacity - 1)) != 0) {
    napi_throw_range_error(env, nullptr, "a key of 16 octets and a power of two of rows are needed");
    return nullptr;
  }
  std::memcpy(options.cookieKey, key, keyBytes);
  auto* handle = new Handle<Engine>();
  napi_value external = wrap(env, arguments.at[2], handle, "wan-engine");
  napi_create_reference(env, arguments.at[1], 1, &handle->memory[0]);
  const napi_threadsafe_function wake = handle->wake;
  handle->object = std::make_unique<Engine>(
      options, rows, capacity, [wake] { napi_call_threadsafe_function(wake, nullptr, napi_tsfn_nonblocking); });
  return external;
}

template <typename T>
napi_value closeHandle(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  if (auto* handle = handleOf<T>(env, arguments.at[0])) handle->close(env);
  return undefined(env);
}

/** The domain that a value stands for; none for undefined. */
DomainRef domainOf(napi_env env, napi_value value) {
  void* data = nullptr;
  if (napi_get_value_external(env, value, &data) != napi_ok) return nullptr;
  return *static_cast<DomainRef*>(data);
}

/** A domain, or an errno. */
napi_value openDomain(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  DomainOptions options;
  options.netns = toText(env, member(env, arguments.at[0], "netns"));
  options.vrf = toText(env, member(env, arguments.at[0], "vrf"));
  options.mark = static_cast<uint32_t>(toNumber(env, member(env, arguments.at[0], "mark")));
  int error = 0;
  auto domain = std::make_shared<Domain>(options, error);
  if (error != 0) return number(env, error);
  napi_value external = nullptr;
  napi_create_external(
      env, new DomainRef(std::move(domain)), [](napi_env, void* data, void*) { delete static_cast<DomainRef*>(data); },
      nullptr, &external);
  return external;
}

napi_value domainIsCurrent(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  const DomainRef domain = domainOf(env, arguments.at[0]);
  return boolean(env, domain == nullptr || domain->isCurrent());
}

/** Its thread looks at what it may keep. */
napi_value settleDomain(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  inDomain(domainOf(env, arguments.at[0]), [] { return 0; });
  return undefined(env);
}

/** A descriptor, or an errno below 0. */
napi_value openSocket(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  SocketOptions options;
  options.domain = domainOf(env, member(env, arguments.at[0], "domain"));
  options.datagram = toBoolean(env, member(env, arguments.at[0], "datagram"));
  options.v6 = toBoolean(env, member(env, arguments.at[0], "v6"));
  options.source = toText(env, member(env, arguments.at[0], "source"));
  options.device = toText(env, member(env, arguments.at[0], "device"));
  options.port = static_cast<uint16_t>(toNumber(env, member(env, arguments.at[0], "port")));
  options.listens = toBoolean(env, member(env, arguments.at[0], "listens"));
  return number(env, wanscope::openSocket(options));
}

/** Texts; undefined where the system would not say. */
napi_value addressesIn(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  std::vector<std::string> addresses;
  if (wanscope::listAddresses(domainOf(env, arguments.at[0]), addresses) != 0) return undefined(env);
  napi_value list = nullptr;
  napi_create_array_with_length(env, addresses.size(), &list);
  for (uint32_t i = 0; i < addresses.size(); ++i) {
    napi_value text = nullptr;
    napi_create_string_utf8(env, addresses[i].c_str(), addresses[i].size(), &text);
    napi_set_element(env, list, i, text);
  }
  return list;
}

napi_value openIcmp(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Engine>(env, arguments.at[0]);
  if (handle == nullptr) return number(env, EBADF);
  return number(env, handle->object->openIcmp(toBoolean(env, arguments.at[1]), domainOf(env, arguments.at[2])));
}

napi_value icmpIsRaw(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Engine>(env, arguments.at[0]);
  return boolean(env, handle != nullptr && handle->object->icmpIsRaw(toBoolean(env, arguments.at[1])));
}

napi_value openStream(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Engine>(env, arguments.at[0]);
  if (handle == nullptr) return number(env, EBADF);
  const auto read = [&](const char* name) { return toNumber(env, member(env, arguments.at[1], name)); };
  const auto text = [&](const char* name) { return toText(env, member(env, arguments.at[1], name)); };
  StreamOptions options;
  options.id = static_cast<uint32_t>(read("id"));
  options.udp = toBoolean(env, member(env, arguments.at[1], "udp"));
  options.v6 = toBoolean(env, member(env, arguments.at[1], "v6"));
  options.destination = text("destination");
  options.source = text("source");
  options.device = text("device");
  options.domain = domainOf(env, member(env, arguments.at[1], "domain"));
  options.port = static_cast<uint16_t>(read("port"));
  options.sourcePort = static_cast<uint16_t>(read("sourcePort"));
  options.dscp = static_cast<uint8_t>(read("dscp"));
  options.checksum = static_cast<uint16_t>(read("checksum"));
  options.traces = toBoolean(env, member(env, arguments.at[1], "traces"));
  options.probesMtu = toBoolean(env, member(env, arguments.at[1], "probesMtu"));
  options.length = static_cast<uint16_t>(read("length"));
  options.timeoutNs = static_cast<int64_t>(read("timeoutNs"));
  size_t keyBytes = 0;
  const auto* key = memoryOf<char>(env, member(env, arguments.at[1], "key"), keyBytes);
  if (keyBytes > 0) options.key.assign(key, keyBytes);
  options.ssidClass = static_cast<uint16_t>(toNumber(env, member(env, arguments.at[1], "ssidClass")));
  options.asksCounts = toBoolean(env, member(env, arguments.at[1], "asksCounts"));
  return number(env, handle->object->openStream(options));
}

napi_value streamFlow(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Engine>(env, arguments.at[0]);
  const auto id = static_cast<uint32_t>(toNumber(env, arguments.at[1]));
  return number(env, handle == nullptr ? 0 : handle->object->streamFlow(id));
}

napi_value closeStream(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Engine>(env, arguments.at[0]);
  if (handle != nullptr) handle->object->closeStream(static_cast<uint32_t>(toNumber(env, arguments.at[1])));
  return undefined(env);
}

napi_value submit(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Engine>(env, arguments.at[0]);
  if (handle == nullptr) return boolean(env, false);
  Engine& engine = *handle->object;
  const int64_t due = static_cast<int64_t>(toNumber(env, arguments.at[3])) + engine.baseNs();
  return boolean(env, engine.submit(static_cast<uint32_t>(toNumber(env, arguments.at[1])),
                                    static_cast<uint32_t>(toNumber(env, arguments.at[2])), due));
}

napi_value submitBatch(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Engine>(env, arguments.at[0]);
  size_t bytes = 0;
  const auto* triples = memoryOf<double>(env, arguments.at[1], bytes);
  const auto count = static_cast<size_t>(toNumber(env, arguments.at[2]));
  if (handle == nullptr || triples == nullptr || count * 3 * sizeof(double) > bytes) return boolean(env, false);
  return boolean(env, handle->object->submitBatch(triples, count));
}

napi_value drain(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  if (auto* handle = handleOf<Engine>(env, arguments.at[0])) handle->object->drain();
  return undefined(env);
}

napi_value takeRows(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Engine>(env, arguments.at[0]);
  return number(env, handle == nullptr ? 0 : static_cast<double>(handle->object->takeRows()));
}

napi_value releaseRows(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Engine>(env, arguments.at[0]);
  if (handle != nullptr) handle->object->releaseRows(static_cast<uint64_t>(toNumber(env, arguments.at[1])));
  return undefined(env);
}

void put(napi_env env, napi_value object, const char* name, double value) {
  napi_set_named_property(env, object, name, number(env, value));
}

napi_value engineCounts(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Engine>(env, arguments.at[0]);
  const EngineCounts counts = handle == nullptr ? EngineCounts{} : handle->object->counts();
  napi_value result = nullptr;
  napi_create_object(env, &result);
  put(env, result, "sent", static_cast<double>(counts.sent));
  put(env, result, "failed", static_cast<double>(counts.failed));
  put(env, result, "received", static_cast<double>(counts.received));
  put(env, result, "kernelKernel", static_cast<double>(counts.kernelKernel));
  put(env, result, "userKernel", static_cast<double>(counts.userKernel));
  put(env, result, "userUser", static_cast<double>(counts.userUser));
  put(env, result, "rowsDropped", static_cast<double>(counts.rowsDropped));
  put(env, result, "receiveDropped", static_cast<double>(counts.receiveDropped));
  put(env, result, "shortAnswers", static_cast<double>(counts.shortAnswers));
  put(env, result, "farCountsRefused", static_cast<double>(counts.farCountsRefused));
  put(env, result, "ticks", static_cast<double>(counts.ticks));
  put(env, result, "wallSteps", static_cast<double>(counts.wallSteps));
  return result;
}

/** A descriptor, its port and when it was sent, by the wall clock; or an errno alone. */
napi_value openTcpHop(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  const auto read = [&](const char* name) { return toNumber(env, member(env, arguments.at[0], name)); };
  const auto text = [&](const char* name) { return toText(env, member(env, arguments.at[0], name)); };
  TcpHopOptions options;
  options.v6 = toBoolean(env, member(env, arguments.at[0], "v6"));
  options.source = text("source");
  options.device = text("device");
  options.domain = domainOf(env, member(env, arguments.at[0], "domain"));
  options.sourcePort = static_cast<uint16_t>(read("sourcePort"));
  options.destination = text("destination");
  options.port = static_cast<uint16_t>(read("port"));
  options.ttl = static_cast<uint8_t>(read("ttl"));
  options.dscp = static_cast<uint8_t>(read("dscp"));
  int64_t sentWallNs = 0;
  const int fd = wanscope::openTcpHop(options, sentWallNs);
  napi_value result = nullptr;
  napi_create_object(env, &result);
  put(env, result, "error", fd < 0 ? -fd : 0);
  put(env, result, "fd", fd);
  put(env, result, "port", fd < 0 ? 0 : tcpHopPort(fd));
  napi_value sent = nullptr;
  napi_create_bigint_int64(env, sentWallNs, &sent);
  napi_set_named_property(env, result, "sentWallNs", sent);
  return result;
}

napi_value readTcpHop(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  int64_t sentWallNs = 0;
  bool exact = false;
  napi_get_value_bigint_int64(env, arguments.at[1], &sentWallNs, &exact);
  const TcpHopState state = wanscope::readTcpHop(static_cast<int>(toNumber(env, arguments.at[0])), sentWallNs);
  napi_value result = nullptr;
  napi_create_object(env, &result);
  put(env, result, "kind", state.kind);
  put(env, result, "cause", state.cause);
  put(env, result, "rttNs", static_cast<double>(state.rttNs));
  napi_value address = nullptr;
  napi_create_buffer_copy(env, sizeof state.address, state.address, nullptr, &address);
  napi_set_named_property(env, result, "address", address);
  return result;
}

napi_value closeTcpHop(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  wanscope::closeTcpHop(static_cast<int>(toNumber(env, arguments.at[0])));
  return undefined(env);
}

napi_value releaseMemory(napi_env env, napi_callback_info) {
  wanscope::releaseMemory();
  return undefined(env);
}

napi_value createReflector(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  size_t packetBytes = 0;
  size_t numberBytes = 0;
  size_t addressBytes = 0;
  size_t keyBytes = 0;
  const ReflectorMemory memory{memoryOf<uint8_t>(env, arguments.at[0], packetBytes),
                               memoryOf<double>(env, arguments.at[1], numberBytes),
                               memoryOf<uint8_t>(env, arguments.at[2], addressBytes),
                               memoryOf<uint8_t>(env, arguments.at[3], keyBytes)};
  if (packetBytes < kReflectorSlots * kReflectorSlotBytes ||
      numberBytes < kReflectorSlots * kReflectorNumbers * sizeof(double) ||
      addressBytes < kReflectorSlots * kAddressBytes || keyBytes < kReflectorSlots * kReflectorKeyBytes) {
    napi_throw_range_error(env, nullptr, "too little memory for a reflector's slots");
    return nullptr;
  }
  auto* handle = new Handle<Reflector>();
  napi_value external = wrap(env, arguments.at[4], handle, "wan-reflector");
  for (int i = 0; i < 4; i += 1) napi_create_reference(env, arguments.at[i], 1, &handle->memory[i]);
  const napi_threadsafe_function wake = handle->wake;
  handle->object = std::make_unique<Reflector>(
      memory, [wake] { napi_call_threadsafe_function(wake, nullptr, napi_tsfn_nonblocking); });
  return external;
}

napi_value openReflector(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Reflector>(env, arguments.at[0]);
  if (handle == nullptr) return number(env, EBADF);
  return number(env, handle->object->open(toText(env, arguments.at[1]),
                                          static_cast<uint16_t>(toNumber(env, arguments.at[2])),
                                          toBoolean(env, arguments.at[3]), toBoolean(env, arguments.at[4]),
                                          domainOf(env, arguments.at[5])));
}

/** Requests that the kernel dropped because nobody took them in time. */
napi_value reflectorDrops(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Reflector>(env, arguments.at[0]);
  return number(env, handle == nullptr ? 0 : static_cast<double>(handle->object->receiveDropped()));
}

napi_value reflectorPort(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Reflector>(env, arguments.at[0]);
  return number(env, handle == nullptr ? 0 : handle->object->port());
}

/** The first waiting request's slot and how many wait, as one number: slot + count * slots. */
napi_value takeRequests(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Reflector>(env, arguments.at[0]);
  if (handle == nullptr) return number(env, 0);
  size_t first = 0;
  const size_t count = handle->object->take(first);
  return number(env, static_cast<double>(first + count * kReflectorSlots));
}

napi_value answerRequests(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Reflector>(env, arguments.at[0]);
  if (handle != nullptr) handle->object->answer(static_cast<size_t>(toNumber(env, arguments.at[1])));
  return undefined(env);
}

napi_value releaseRequests(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  auto* handle = handleOf<Reflector>(env, arguments.at[0]);
  if (handle != nullptr) handle->object->release(static_cast<size_t>(toNumber(env, arguments.at[1])));
  return undefined(env);
}

/** The kernel's own round trip of a connection, or nothing when the descriptor is no TCP socket. */
/** The kernel's TCP_SYN_SENT, which <linux/tcp.h> does not name. */
constexpr uint8_t kSynSent = 2;

napi_value tcpInfo(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  tcp_info state{};
  socklen_t length = sizeof state;
  const int fd = static_cast<int>(toNumber(env, arguments.at[0]));
  if (fd < 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &length) != 0) return undefined(env);
  napi_value result = nullptr;
  napi_create_object(env, &result);
  put(env, result, "rttNs", state.tcpi_rtt * 1'000.0);
  put(env, result, "minRttNs", state.tcpi_min_rtt * 1'000.0);
  put(env, result, "retransmissions", state.tcpi_total_retrans);
  put(env, result, "awaitsAnswer", state.tcpi_state == kSynSent ? 1 : 0);
  return result;
}

napi_value warmTcp(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  wanscope::warmTcp(toBoolean(env, arguments.at[0]));
  return undefined(env);
}

/** Name of the interface, or nothing where there is no route. */
napi_value egressInterface(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  const std::string name = wanscope::egressInterface(toText(env, arguments.at[0]), toText(env, arguments.at[1]),
                                                     toText(env, arguments.at[2]), domainOf(env, arguments.at[3]));
  napi_value result = nullptr;
  if (name.empty()) return undefined(env);
  napi_create_string_utf8(env, name.c_str(), name.size(), &result);
  return result;
}

/**
 * Brings stamps onto the monotonic clock as the engine does, for tests of what happens when the wall clock is set:
 * `steps` holds (mono before, wall, mono after) or (stamp, not before, not after) by turns of kind 0 and 1.
 */
napi_value convertStamps(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  size_t bytes = 0;
  const auto* steps = memoryOf<double>(env, arguments.at[0], bytes);
  WallClock clock;
  napi_value results = nullptr;
  napi_create_array(env, &results);
  uint32_t count = 0;
  for (size_t i = 0; i + 4 <= bytes / sizeof(double); i += 4) {
    const auto at = [&](size_t offset) { return static_cast<int64_t>(steps[i + offset]); };
    if (steps[i] == 0) {
      clock.observe(at(1), at(2), at(3));
    } else {
      const auto time = clock.toMono(at(1), at(2), at(3));
      napi_set_element(env, results, count++, time ? number(env, static_cast<double>(*time)) : undefined(env));
    }
  }
  return results;
}

}  // namespace

NAPI_MODULE_INIT() {
  const napi_property_descriptor functions[] = {
#define FUNCTION(name, callback) {name, nullptr, callback, nullptr, nullptr, nullptr, napi_enumerable, nullptr}
      FUNCTION("createEngine", createEngine),
      FUNCTION("closeEngine", closeHandle<wanscope::Engine>),
      FUNCTION("openDomain", openDomain),
      FUNCTION("domainIsCurrent", domainIsCurrent),
      FUNCTION("settleDomain", settleDomain),
      FUNCTION("openSocket", openSocket),
      FUNCTION("addressesIn", addressesIn),
      FUNCTION("openIcmp", openIcmp),
      FUNCTION("icmpIsRaw", icmpIsRaw),
      FUNCTION("openStream", openStream),
      FUNCTION("streamFlow", streamFlow),
      FUNCTION("openTcpHop", openTcpHop),
      FUNCTION("readTcpHop", readTcpHop),
      FUNCTION("closeTcpHop", closeTcpHop),
      FUNCTION("closeStream", closeStream),
      FUNCTION("submit", submit),
      FUNCTION("submitBatch", submitBatch),
      FUNCTION("drain", drain),
      FUNCTION("takeRows", takeRows),
      FUNCTION("releaseRows", releaseRows),
      FUNCTION("engineCounts", engineCounts),
      FUNCTION("createReflector", createReflector),
      FUNCTION("openReflector", openReflector),
      FUNCTION("closeReflector", closeHandle<wanscope::Reflector>),
      FUNCTION("reflectorPort", reflectorPort),
      FUNCTION("reflectorDrops", reflectorDrops),
      FUNCTION("takeRequests", takeRequests),
      FUNCTION("answerRequests", answerRequests),
      FUNCTION("releaseRequests", releaseRequests),
      FUNCTION("releaseMemory", releaseMemory),
      FUNCTION("tcpInfo", tcpInfo),
      FUNCTION("warmTcp", warmTcp),
      FUNCTION("egressInterface", egressInterface),
      FUNCTION("convertStamps", convertStamps),
#undef FUNCTION
  };
  napi_define_properties(env, exports, sizeof functions / sizeof functions[0], functions);
  return exports;
}
