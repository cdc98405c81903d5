// Names of DNS as RFC 1123 has them, in lower case: what Kubernetes lets things be called.
#pragma once

#include <string_view>

namespace cwsandbox::base {

/// 1 to 63 letters, digits and inner hyphens.
[[nodiscard]] bool is_dns_label(std::string_view text) noexcept;

/// Such labels with dots between them, 253 characters in all.
[[nodiscard]] bool is_dns_name(std::string_view text) noexcept;

}  // namespace cwsandbox::base
