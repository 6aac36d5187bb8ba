#include "json.hpp"

#include <charconv>
#include <cmath>

namespace wan {
namespace {

constexpr int kMaxDepth = 8;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    Json value = parseValue(0);
    skipSpace();
    if (at_ != text_.size()) fail("text after the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const char* what) const { throw JsonError(std::string("not JSON: ") + what); }

  bool done() const { return at_ >= text_.size(); }

  char take() {
    if (done()) fail("ends too early");
    return text_[at_++];
  }

  void skipSpace() {
    while (!done() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\r' || text_[at_] == '\n')) at_ += 1;
  }

  bool takeIf(char c) {
    if (done() || text_[at_] != c) return false;
    at_ += 1;
    return true;
  }

  void expectWord(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) fail("unknown word");
    at_ += word.size();
  }

  Json parseValue(int depth) {
    if (depth > kMaxDepth) fail("nested too deep");
    skipSpace();
    if (done()) fail("ends too early");
    Json value;
    switch (text_[at_]) {
      case '{':
        at_ += 1;
        value.kind = Json::Kind::object;
        parseMembers(value, depth);
        return value;
      case '[':
        at_ += 1;
        value.kind = Json::Kind::array;
        parseItems(value, depth);
        return value;
      case '"':
        at_ += 1;
        value.kind = Json::Kind::string;
        value.string = parseString();
        return value;
      case 't':
        expectWord("true");
        value.kind = Json::Kind::boolean;
        value.boolean = true;
        return value;
      case 'f':
        expectWord("false");
        value.kind = Json::Kind::boolean;
        return value;
      case 'n':
        expectWord("null");
        return value;
      default:
        value.kind = Json::Kind::number;
        value.number = parseNumber();
        return value;
    }
  }

  void parseMembers(Json& object, int depth) {
    skipSpace();
    if (takeIf('}')) return;
    for (;;) {
      skipSpace();
      if (take() != '"') fail("a member without a name");
      std::string name = parseString();
      if (object.find(name) != nullptr) fail("a name given twice");
      skipSpace();
      if (take() != ':') fail("a member without a value");
      object.members.emplace_back(std::move(name), parseValue(depth + 1));
      skipSpace();
      if (takeIf('}')) return;
      if (take() != ',') fail("members not separated");
    }
  }

  void parseItems(Json& array, int depth) {
    skipSpace();
    if (takeIf(']')) return;
    for (;;) {
      array.items.push_back(parseValue(depth + 1));
      skipSpace();
      if (takeIf(']')) return;
      if (take() != ',') fail("items not separated");
    }
  }

  double parseNumber() {
    const size_t start = at_;
    takeIf('-');
    if (!takeIf('0')) takeDigits();
    if (takeIf('.')) takeDigits();
    if (takeIf('e') || takeIf('E')) {
      if (!takeIf('+')) takeIf('-');
      takeDigits();
    }
    double value = 0;
    const auto result = std::from_chars(text_.data() + start, text_.data() + at_, value);
    if (result.ec != std::errc() || !std::isfinite(value)) fail("a number out of range");
    return value;
  }

  void takeDigits() {
    const size_t start = at_;
    while (!done() && text_[at_] >= '0' && text_[at_] <= '9') at_ += 1;
    if (at_ == start) fail("unexpected character");
  }

  std::string parseString() {
    std::string value;
    for (;;) {
      const char c = take();
      if (c == '"') return value;
      if (static_cast<uint8_t>(c) < 0x20) fail("a control character in a string");
      if (c != '\\') {
        value += c;
        continue;
      }
      const char escape = take();
      switch (escape) {
        case '"':
        case '\\':
        case '/':
          value += escape;
          break;
        case 'b':
          value += '\b';
          break;
        case 'f':
          value += '\f';
          break;
        case 'n':
          value += '\n';
          break;
        case 'r':
          value += '\r';
          break;
        case 't':
          value += '\t';
          break;
        case 'u':
          appendCodePoint(value, parseCodePoint());
          break;
        default:
          fail("unknown escape");
      }
    }
  }

  uint32_t parseCodePoint() {
    const uint32_t first = parseHex();
    if (first < 0xd800 || first > 0xdfff) return first;
    if (first > 0xdbff || take() != '\\' || take() != 'u') fail("half a surrogate pair");
    const uint32_t second = parseHex();
    if (second < 0xdc00 || second > 0xdfff) fail("half a surrogate pair");
    return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
  }

  uint32_t parseHex() {
    uint32_t value = 0;
    for (int i = 0; i < 4; i += 1) {
      const char c = take();
      uint32_t digit = 0;
      if (c >= '0' && c <= '9') {
        digit = static_cast<uint32_t>(c - '0');
      } else if (c >= 'a' && c <= 'f') {
        digit = static_cast<uint32_t>(c - 'a' + 10);
      } else if (c >= 'A' && c <= 'F') {
        digit = static_cast<uint32_t>(c - 'A' + 10);
      } else {
        fail("unknown escape");
      }
      value = value << 4 | digit;
    }
    return value;
  }

  static void appendCodePoint(std::string& out, uint32_t point) {
    const auto add = [&out](uint32_t byte) { out += static_cast<char>(byte); };
    if (point < 0x80) {
      add(point);
    } else if (point < 0x800) {
      add(0xc0 | point >> 6);
      add(0x80 | (point & 0x3f));
    } else if (point < 0x10000) {
      add(0xe0 | point >> 12);
      add(0x80 | (point >> 6 & 0x3f));
      add(0x80 | (point & 0x3f));
    } else {
      add(0xf0 | point >> 18);
      add(0x80 | (point >> 12 & 0x3f));
      add(0x80 | (point >> 6 & 0x3f));
      add(0x80 | (point & 0x3f));
    }
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

const Json* Json::find(std::string_view name) const {
  for (const auto& member : members) {
    if (member.first == name) return &member.second;
  }
  return nullptr;
}

Json parseJson(std::string_view text) { return Parser(text).document(); }

void appendString(std::string& out, std::string_view value) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (const char c : value) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte > 0x7e) {
      // Outside ASCII only in messages that quote a request: shown octet by octet, so that a line is always valid text.
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 0xf];
    } else {
      out += c;
    }
  }
  out += '"';
}

void appendNumber(std::string& out, double value) {
  char text[32];
  const auto result = std::to_chars(text, text + sizeof text, value);
  out.append(text, result.ptr);
}

void appendNumber(std::string& out, uint64_t value) {
  char text[24];
  const auto result = std::to_chars(text, text + sizeof text, value);
  out.append(text, result.ptr);
}

}  // namespace wan
