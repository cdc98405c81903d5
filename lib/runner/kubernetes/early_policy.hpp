// The NetworkPolicy of a pod that runs its command as soon as a node has it: it is there before the pod is.
#pragma once

#include "runner/kubernetes/api_client.hpp"

#include <memory>
#include <string>

namespace cwsandbox::runner::kubernetes {

/// A policy that no pod owns yet. Given up before one does, it is deleted, as far as the cluster can be reached; whoever dies with
/// one leaves an object that selects nobody.
class EarlyPolicy {
 public:
  /// Posts it to the collection. Where one of its name is there without the pod of that target, it is what somebody has left, and
  /// replaced; where the pod is there too, the creation is repeated, and both are left as they are. Throws as ApiClient.
  [[nodiscard]] static asio::awaitable<std::unique_ptr<EarlyPolicy>> post(std::shared_ptr<ApiClient> api, std::string collection,
                                                                          std::string pod, Json policy);
  ~EarlyPolicy();
  EarlyPolicy(const EarlyPolicy&) = delete;
  EarlyPolicy& operator=(const EarlyPolicy&) = delete;

  /// From now on it goes with its owner. Throws as ApiClient; then it is still ours. It must stay until completion.
  [[nodiscard]] asio::awaitable<void> give_to(Json owner);

 private:
  explicit EarlyPolicy(std::shared_ptr<ApiClient> api) : api_(std::move(api)) {}

  std::shared_ptr<ApiClient> api_;
  std::string target_, uid_;  // of what was posted; empty: it is not ours
};

}  // namespace cwsandbox::runner::kubernetes
