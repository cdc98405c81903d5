// The fuzzer's bytes, read as a script.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#define FUZZ_CHECK(condition)           \
  do {                                  \
    if (!(condition)) __builtin_trap(); \
  } while (false)

class Script {
 public:
  Script(const std::uint8_t* data, std::size_t size) : left_(reinterpret_cast<const char*>(data), size) {}
  [[nodiscard]] bool empty() const { return left_.empty(); }
  std::uint8_t byte() {
    if (left_.empty()) return 0;
    const auto value = static_cast<std::uint8_t>(left_.front());
    left_.remove_prefix(1);
    return value;
  }
  std::uint16_t word() { return static_cast<std::uint16_t>(byte() | (byte() << 8)); }
  std::string_view bytes(std::size_t n) {
    const std::string_view out = left_.substr(0, n);
    left_.remove_prefix(out.size());
    return out;
  }
  std::string_view rest() { return bytes(left_.size()); }

 private:
  std::string_view left_;
};
