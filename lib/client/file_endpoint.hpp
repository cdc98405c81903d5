// The content of files as plain HTTP bodies at /v1/files: what both directions have in common.
#pragma once

#include "base/hex.hpp"
#include "client/files.hpp"

#include <cstddef>
#include <string>
#include <string_view>

namespace cwsandbox::client::files {

inline constexpr std::size_t kChunk = 256 * 1024;   // of a stream
inline constexpr std::size_t kBlock = 1024 * 1024;  // of what is read or written as a whole
inline constexpr std::string_view kInQuery = "/";   // needs no escape in a query, and paths are full of it

[[nodiscard]] inline std::string target_of(const Ready& there, const std::string& path) {
  return "/v1/files?sandbox=" + base::percent_encode(there.id, kInQuery) + "&path=" + base::percent_encode(path, kInQuery);
}

}  // namespace cwsandbox::client::files
