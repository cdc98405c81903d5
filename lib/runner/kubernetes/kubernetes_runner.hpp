// Sandboxes as pods of a cluster.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "runner/kubernetes/kubeconfig.hpp"
#include "runner/kubernetes/pod_spec.hpp"
#include "runner/runner.hpp"

namespace cwsandbox::runner::kubernetes {

struct KubernetesOptions {
  ClusterAccess access;  ///< its default namespace is where the pods are
  PodOptions pods;       ///< the namespace there is filled in
  /// From the wish for a pod until it runs: scheduling, pulling images, starting.
  std::chrono::seconds create_timeout{300};
  /// How long a pod may be failing at what the cluster tries again: no node fits, an image cannot be fetched.
  std::chrono::seconds patience{60};
  /// How long the pod of a sandbox that has ended is kept, so that every gateway can tell how it ended.
  std::chrono::seconds keep_ended{300};
  /// How long processes outlive the connection to their pod.
  std::chrono::milliseconds link_grace{std::chrono::seconds(60)};
  std::size_t max_dials = 32;                   ///< connections to pods that are being made at once
  std::function<void(const std::string&)> log;  ///< a line for the operator, on the executor; may be empty
};

/// Durable: the pods outlive this object once it has let go of them, and another finds them. Throws RunnerError for credentials
/// that cannot be used. The cluster is first asked at the first `find` or `create`.
[[nodiscard]] std::unique_ptr<Runner> make_kubernetes_runner(asio::any_io_executor executor, KubernetesOptions options);

}  // namespace cwsandbox::runner::kubernetes
