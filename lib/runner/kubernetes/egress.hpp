// What sandboxes may reach at most, whatever they ask for. docs/kubernetes.md has the rules.
#pragma once

#include "runner/runner.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cwsandbox::runner::kubernetes {

/// A part of what may be reached: pods of the cluster, or a block of addresses.
struct Reachable {
  bool pods = false;
  EgressRule rule;  ///< without a block for pods; never without one otherwise
};

inline constexpr std::string_view kAnyEgress = "any";  ///< of parse_ceiling: pods and every address, those of metadata services too
inline constexpr std::string_view kPodsEgress = "pods";  ///< of parse_ceiling: the pods of the cluster

/// What no block has in it unless it lies in one of these itself: link-local addresses, and what clouds serve their metadata and
/// credentials at.
[[nodiscard]] const std::vector<std::string>& metadata_blocks();

/// `allowed` are blocks, kPodsEgress or kAnyEgress, each alone or with ports ("10.0.0.0/8=tcp:443,udp:5000-5010"); none at all
/// mean pods and every address. `denied` are blocks that are taken out of all of them. Throws RunnerError ("invalid_argument")
/// that names what is wrong.
[[nodiscard]] std::vector<Reachable> parse_ceiling(const std::vector<std::string>& allowed, const std::vector<std::string>& denied);

/// What of the ceiling a rule asks for: for one without a block, all of it that has its ports; for one with a block, that block
/// without what the ceiling takes out of it. Empty if some of what it names lies outside.
[[nodiscard]] std::optional<std::vector<Reachable>> reach_within(const EgressRule& asked, const std::vector<Reachable>& ceiling);

}  // namespace cwsandbox::runner::kubernetes
