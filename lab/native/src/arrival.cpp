#include "arrival.hpp"

#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <vector>

namespace wan {
namespace {

constexpr uint32_t kStamps = 65'536;
constexpr uint64_t kHashSeed = 0x9e3779b97f4a7c15ULL;
constexpr uint64_t kHashFactor = 0xff51afd7ed558ccdULL;
// How much of a packet is hashed: the most it has. 64 octets hold every checksum and sequence number there is.
constexpr int kHashedOctets[] = {64, 40, 28};
constexpr int kHashedWords = 8;
// A stamp older than this is another packet's, half overwritten.
constexpr int64_t kOldestNs = 1'000'000'000;

int bpf(int command, bpf_attr& attributes) {
  return static_cast<int>(syscall(SYS_bpf, command, &attributes, sizeof attributes));
}

// Assembles the few instructions needed.
class Assembler {
 public:
  void move(uint8_t to, uint8_t from) { add(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0); }
  void set(uint8_t to, int32_t value) { add(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value); }
  void alu(uint8_t operation, uint8_t to, uint8_t from) { add(BPF_ALU64 | operation | BPF_X, to, from, 0, 0); }
  void aluValue(uint8_t operation, uint8_t to, int32_t value) { add(BPF_ALU64 | operation | BPF_K, to, 0, 0, value); }
  void load(uint8_t size, uint8_t to, uint8_t from, int16_t offset) { add(BPF_LDX | size | BPF_MEM, to, from, offset, 0); }
  void store(uint8_t size, uint8_t to, int16_t offset, uint8_t from) { add(BPF_STX | size | BPF_MEM, to, from, offset, 0); }
  void storeZero(uint8_t to, int16_t offset) { add(BPF_ST | BPF_DW | BPF_MEM, to, 0, offset, 0); }
  void call(int32_t function) { add(BPF_JMP | BPF_CALL, 0, 0, 0, function); }
  void exit() { add(BPF_JMP | BPF_EXIT, 0, 0, 0, 0); }

  void set64(uint8_t to, uint64_t value, uint8_t kind = 0) {
    add(BPF_LD | BPF_DW | BPF_IMM, to, kind, 0, static_cast<int32_t>(value));
    add(0, 0, 0, 0, static_cast<int32_t>(value >> 32));
  }

  // A jump on `register` == 0 or != 0, to where `land` is called with its result.
  size_t jumpIfZero(uint8_t reg) { return jump(BPF_JEQ, reg); }
  size_t jumpIfNotZero(uint8_t reg) { return jump(BPF_JNE, reg); }
  void land(size_t jump) { code_[jump].off = static_cast<int16_t>(code_.size() - jump - 1); }

  const std::vector<bpf_insn>& code() const { return code_; }

 private:
  size_t jump(uint8_t condition, uint8_t reg) {
    add(BPF_JMP | condition | BPF_K, reg, 0, 0, 0);
    return code_.size() - 1;
  }

  void add(int code, uint8_t to, uint8_t from, int16_t offset, int32_t value) {
    bpf_insn instruction{};
    instruction.code = static_cast<uint8_t>(code);
    instruction.dst_reg = to & 0xf;
    instruction.src_reg = from & 0xf;
    instruction.off = offset;
    instruction.imm = value;
    code_.push_back(instruction);
  }

  std::vector<bpf_insn> code_;
};

// hash = hashOf(packet); stamps[hash % kStamps] = {hash, now}; pass the packet whole.
std::vector<bpf_insn> stampProgram(int map) {
  constexpr uint8_t kContext = 6, kHash = 7, kFactor = 8, kNow = 9, kStack = 10;
  constexpr int16_t kOctetsAt = -64, kKeyAt = -72;
  Assembler a;
  a.move(kContext, 1);
  for (int16_t word = 0; word < kHashedWords; word += 1) a.storeZero(kStack, static_cast<int16_t>(kOctetsAt + word * 8));
  std::vector<size_t> loaded;
  for (const int octets : kHashedOctets) {
    a.move(1, kContext);
    a.set(2, 0);
    a.move(3, kStack);
    a.aluValue(BPF_ADD, 3, kOctetsAt);
    a.set(4, octets);
    a.call(BPF_FUNC_skb_load_bytes);
    loaded.push_back(a.jumpIfZero(0));
  }
  const size_t tooShort = a.jumpIfNotZero(0);
  for (const size_t jump : loaded) a.land(jump);
  a.set64(kHash, kHashSeed);
  a.set64(kFactor, kHashFactor);
  for (int16_t word = 0; word < kHashedWords; word += 1) {
    a.load(BPF_DW, 1, kStack, static_cast<int16_t>(kOctetsAt + word * 8));
    a.alu(BPF_XOR, kHash, 1);
    a.alu(BPF_MUL, kHash, kFactor);
    a.move(1, kHash);
    a.aluValue(BPF_RSH, 1, 32);
    a.alu(BPF_XOR, kHash, 1);
  }
  a.call(BPF_FUNC_ktime_get_ns);
  a.move(kNow, 0);
  a.move(1, kHash);
  a.aluValue(BPF_AND, 1, kStamps - 1);
  a.store(BPF_W, kStack, kKeyAt, 1);
  a.set64(1, static_cast<uint64_t>(map), BPF_PSEUDO_MAP_FD);
  a.move(2, kStack);
  a.aluValue(BPF_ADD, 2, kKeyAt);
  a.call(BPF_FUNC_map_lookup_elem);
  const size_t noEntry = a.jumpIfZero(0);
  a.store(BPF_DW, 0, 8, kNow);
  a.store(BPF_DW, 0, 0, kHash);
  a.land(noEntry);
  a.land(tooShort);
  a.load(BPF_W, 0, kContext, offsetof(__sk_buff, len));
  a.exit();
  return a.code();
}

// The same as in the program.
uint64_t hashOf(const uint8_t* packet, size_t length) {
  uint64_t words[kHashedWords] = {};
  for (const int octets : kHashedOctets) {
    if (length < static_cast<size_t>(octets)) continue;
    std::memcpy(words, packet, static_cast<size_t>(octets));
    break;
  }
  uint64_t hash = kHashSeed;
  for (const uint64_t word : words) {
    hash = (hash ^ word) * kHashFactor;
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace

ArrivalClock::ArrivalClock() {
  bpf_attr attributes{};
  attributes.map_type = BPF_MAP_TYPE_ARRAY;
  attributes.key_size = sizeof(uint32_t);
  attributes.value_size = sizeof(Stamp);
  attributes.max_entries = kStamps;
  attributes.map_flags = BPF_F_MMAPABLE;
  const int map = bpf(BPF_MAP_CREATE, attributes);
  if (map < 0) return;
  const std::vector<bpf_insn> code = stampProgram(map);
  attributes = {};
  attributes.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
  attributes.insns = reinterpret_cast<uint64_t>(code.data());
  attributes.insn_cnt = static_cast<uint32_t>(code.size());
  attributes.license = reinterpret_cast<uint64_t>("Dual MIT/GPL");
  program_ = bpf(BPF_PROG_LOAD, attributes);
  if (program_ >= 0) {
    void* memory = mmap(nullptr, kStamps * sizeof(Stamp), PROT_READ, MAP_SHARED, map, 0);
    if (memory != MAP_FAILED) stamps_ = static_cast<Stamp*>(memory);
  }
  close(map);  // the program and the mapping keep it
}

ArrivalClock::~ArrivalClock() {
  if (stamps_ != nullptr) munmap(stamps_, kStamps * sizeof(Stamp));
  if (program_ >= 0) close(program_);
}

void ArrivalClock::attach(int tunFd) const {
  int program = program_;
  if (available()) ioctl(tunFd, TUNSETFILTEREBPF, &program);
}

int64_t ArrivalClock::arrivalNs(const uint8_t* packet, size_t length, int64_t readNs) const {
  if (!available()) return readNs;
  const uint64_t hash = hashOf(packet, length);
  const Stamp& stamp = stamps_[hash % kStamps];
  if (stamp.hash != hash) return readNs;
  const auto arrivedNs = static_cast<int64_t>(stamp.arrivedNs);
  return arrivedNs <= readNs && readNs - arrivedNs <= kOldestNs ? arrivedNs : readNs;
}

}  // namespace wan
