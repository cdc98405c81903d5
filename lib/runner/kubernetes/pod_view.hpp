// What a pod of ours, as the API server shows it, says of its sandbox.
#pragma once

#include "runner/runner.hpp"

#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace cwsandbox::runner::kubernetes {

using Json = nlohmann::json;

/// A pod, all of whose members may be missing: what is not as expected counts as absent.
struct PodView {
  /// How far what a pod waits for is from what may still come.
  enum class Wait : std::uint8_t {
    none,     ///< it runs, or has ended
    normal,   ///< images are fetched, containers made, or nobody has looked yet
    failing,  ///< it is tried again, without much hope: no node fits, an image cannot be fetched, a Secret is missing
    final,    ///< it will never start
  };

  std::string name, uid, resource_version;
  std::string sandbox;  ///< the id of its sandbox; empty: none of ours
  std::string record, key;
  std::string phase;  ///< "Pending", "Running", "Succeeded", "Failed", "Unknown"
  std::string node;
  std::optional<std::chrono::system_clock::time_point> created;
  bool deleting = false;  ///< it has a deletionTimestamp
  bool plain = false;     ///< it has no agent
  bool agent_installed = false;
  bool main_running = false;
  Wait wait = Wait::normal;
  Found::State state = Found::State::creating;  ///< never `gone`: a pod that is not there has no view
  std::optional<ExitInfo> exit;                 ///< when ended
  std::string reason;                           ///< for people, at most some hundred bytes: what it waits for, or why it ended
};

[[nodiscard]] PodView read_pod(const Json& pod);

}  // namespace cwsandbox::runner::kubernetes
