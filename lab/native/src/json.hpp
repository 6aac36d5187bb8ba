// JSON as the control protocol needs it: a strict reader with bounded depth and helpers to append to a line of text.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace wan {

struct JsonError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Json {
  enum class Kind { null, boolean, number, string, array, object };

  Kind kind = Kind::null;
  bool boolean = false;
  double number = 0;
  std::string string;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;

  // The member of that name; nullptr when there is none.
  const Json* find(std::string_view name) const;
};

// Parses one document. Throws JsonError: not RFC 8259, a name given twice, or nested deeper than 8.
Json parseJson(std::string_view text);

void appendString(std::string& out, std::string_view value);
void appendNumber(std::string& out, double value);
void appendNumber(std::string& out, uint64_t value);

}  // namespace wan
