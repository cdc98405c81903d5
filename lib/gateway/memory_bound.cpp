#include "gateway/memory_bound.hpp"

#include "gateway/context.hpp"
#include "gateway/log_store.hpp"
#include "gateway/sandboxes.hpp"
#include "net/sizes.hpp"
#include "protocol/exec_stream.hpp"

#include <array>
#include <numeric>
#include <utility>

namespace cwsandbox::gateway {

namespace {

// The program, its libraries, and what is there once.
constexpr std::uint64_t kProgram = 64ull * 1024 * 1024;
// A value takes more in memory than in its text; and a sandbox has its view and what was asked of the runner.
constexpr std::uint64_t kOfText = 4;
// An id of a process that was given up, in a set and in its order.
constexpr std::uint64_t kUsedId = 512;

// Both outputs, with what of their storage is kept for the next bytes, and the input.
constexpr std::uint64_t kProcess =
    2 * (protocol::kDefaultWindow + BufferPool::kKept * BufferPool::kSize) + protocol::kDefaultWindow;

std::string in_units(std::uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  std::uint64_t tenths = 10 * bytes;
  for (; tenths >= 10 * 1024 && unit + 1 < kUnits.size(); ++unit) tenths /= 1024;
  return std::to_string(tenths / 10) + (tenths % 10 == 0 ? "" : "." + std::to_string(tenths % 10)) + " " + kUnits[unit];
}

}  // namespace

std::vector<MemoryTerm> memory_terms(const GatewayOptions& options, std::size_t owners) {
  const net::ServerLimits& limits = options.limits;
  return {
      {"the program", 1, kProgram + options.runner_memory},
      {"sent by strangers", 1, limits.max_stranger_memory},
      {"held for clients", 1, limits.max_client_memory},
      {"connections", limits.max_connections, net::kMostOfConnection},
      // Each has a connection, or waits for one. A unary Exec has one, too, and its outputs are held for a client.
      {"processes", limits.max_connections + options.max_orphans, kProcess},
      {"sandboxes", options.max_sandboxes, kOfText * kMaxSandbox + LogStore::kMostMemory + options.runner_memory_per_sandbox},
      {"sandboxes that have ended", options.max_remembered, LogStore::kMostMemory},
      {"what was asked for them", 1, kOfText * options.max_remembered_bytes},
      {"ids of processes that were given up", owners, options.max_used_ids * kUsedId},
  };
}

std::uint64_t memory_bound(const std::vector<MemoryTerm>& terms) noexcept {
  return std::accumulate(terms.begin(), terms.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const MemoryTerm& term) { return sum + term.bytes(); });
}

std::string memory_text(const std::vector<MemoryTerm>& terms) {
  const std::uint64_t bound = memory_bound(terms);
  std::string out = "at most " + std::to_string(bound) + " bytes of memory (" + in_units(bound) + "): ";
  const char* comma = "";
  for (const MemoryTerm& term : terms) {
    if (term.bytes() == 0) continue;
    out += std::exchange(comma, ", ");
    if (term.count != 1) out += std::to_string(term.count) + " ";
    out += std::string(term.what) + " " + in_units(term.each);
    if (term.count != 1) out += " each";
  }
  return out;
}

}  // namespace cwsandbox::gateway
