// How much memory a gateway holds at most, whatever its clients and sandboxes do: computed from its options and from the bounds
// that the code keeps to.
#pragma once

#include "gateway/gateway.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cwsandbox::gateway {

struct MemoryTerm {
  const char* what;
  std::uint64_t count = 1, each = 0;
  [[nodiscard]] std::uint64_t bytes() const noexcept { return count * each; }
};

/// \param owners who have tokens
[[nodiscard]] std::vector<MemoryTerm> memory_terms(const GatewayOptions& options, std::size_t owners);
[[nodiscard]] std::uint64_t memory_bound(const std::vector<MemoryTerm>& terms) noexcept;
/// For the log: "at most 1234567 bytes of memory (1.2 MiB): ...".
[[nodiscard]] std::string memory_text(const std::vector<MemoryTerm>& terms);

}  // namespace cwsandbox::gateway
