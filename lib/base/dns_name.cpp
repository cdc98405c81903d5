#include "base/dns_name.hpp"

#include "base/ascii.hpp"

#include <algorithm>

namespace cwsandbox::base {

bool is_dns_label(std::string_view text) noexcept {
  return !text.empty() && text.size() <= 63 && text.front() != '-' && text.back() != '-' &&
         std::all_of(text.begin(), text.end(), [](char c) { return is_lower(c) || is_digit(c) || c == '-'; });
}

bool is_dns_name(std::string_view text) noexcept {
  if (text.size() > 253) return false;
  for (;;) {
    const auto label = text.substr(0, text.find('.'));
    if (!is_dns_label(label)) return false;
    if (label.size() == text.size()) return true;
    text.remove_prefix(label.size() + 1);
  }
}

}  // namespace cwsandbox::base
