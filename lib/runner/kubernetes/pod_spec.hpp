// A sandbox as the objects of a cluster: a pod, and what may reach it and be reached from it. Only what they are made of; nothing
// here talks to a cluster. docs/kubernetes.md has the table.
#pragma once

#include "runner/kubernetes/egress.hpp"
#include "runner/runner.hpp"

#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace cwsandbox::runner::kubernetes {

using Json = nlohmann::json;

inline constexpr std::string_view kManagedByLabel = "app.kubernetes.io/managed-by";  ///< with the value "cwsandbox"
inline constexpr std::string_view kSandboxLabel = "cwsandbox.dev/sandbox";           ///< with the sandbox's id
inline constexpr std::string_view kRecordAnnotation = "cwsandbox.dev/record";
inline constexpr std::string_view kKeyAnnotation = "cwsandbox.dev/key";
inline constexpr std::string_view kAgentAnnotation = "cwsandbox.dev/agent";  ///< of pods without it: kNoAgent
inline constexpr std::string_view kNoAgent = "none";
inline constexpr std::string_view kTagsAnnotation = "cwsandbox.dev/tags";  ///< a JSON array: a label cannot hold any text
inline constexpr std::string_view kUserAnnotationPrefix = "annotations.cwsandbox.dev/";  ///< before the names of the sandbox's own
inline constexpr std::string_view kMainContainer = "main";
inline constexpr std::string_view kAgentContainer = "cwsandbox-agent";
/// Where the agent's volume is, in both containers; and the program in it, as `install` leaves it there.
inline constexpr std::string_view kAgentDirectory = "/.cwsandbox";
inline constexpr std::string_view kAgentProgram = "/.cwsandbox/cwsandbox-agent";

/// What an operator decides for all sandboxes.
struct PodOptions {
  std::string name_space = "default";
  std::string agent_image;    ///< of the init container that brings the agent
  bool plain = false;         ///< no agent: see plain_sandbox.hpp
  std::string default_image;  ///< of sandboxes that name none
  /// "Always", "IfNotPresent" or "Never"; empty: as the cluster does it.
  std::string image_pull_policy, agent_pull_policy;
  std::vector<std::string> image_pull_secrets;
  std::int64_t run_as_user = 65532, run_as_group = 65532;
  std::map<std::string, std::string> labels;  ///< of every object, beside our own
  std::string runtime_class;                  ///< of sandboxes that name none; empty: the cluster's
  std::set<std::string> runtime_classes;      ///< that may be asked for, beside that one
  std::uint64_t workspace_size = 1ull << 30, home_size = 1ull << 30, tmp_size = 1ull << 30;  ///< bytes
  /// Of a scratch volume at most, and of one that names no size; unset: as much as the node has.
  std::optional<std::uint64_t> max_volume_size;
  /// The limits are the most that a sandbox may have, and what one has that asks for none. The requests are for sandboxes that ask
  /// for nothing of the kind. No GPUs.
  ResourceSpec resources;
  /// The names of extended resources by the type of GPU; "" is for sandboxes to which any will do.
  std::map<std::string, std::string> gpu_resources = {{"", "nvidia.com/gpu"}};
  /// The Secrets of the namespace that sandboxes may name; unset: all, which only fits a namespace that has no others.
  std::optional<std::set<std::string>> secrets = std::set<std::string>();
  /// Whether the cluster's network keeps to NetworkPolicies. Without them nothing can be asked for, and nothing is kept.
  bool network_policies = true;
  /// Whether they may name a range of ports: Kubernetes 1.22 and later. An older one leaves all but the first out, without a word.
  bool port_ranges = true;
  /// For sandboxes that ask for nothing themselves. Without a rule nothing gets out; what is not in the ceiling does not either.
  std::vector<EgressRule> egress;
  std::vector<Reachable> egress_ceiling = parse_ceiling({}, {});  ///< whatever sandboxes ask for
  std::chrono::seconds termination_grace{30};  ///< of a pod that is ended by the cluster: from SIGTERM to SIGKILL
  Json scheduling = Json::object();            ///< further members of the pod's spec, see check_scheduling
};

/// Throws RunnerError for a fragment that holds anything but where pods are to run: nodeSelector, tolerations, affinity,
/// topologySpreadConstraints, priorityClassName, schedulerName, dnsPolicy and dnsConfig.
void check_scheduling(const Json& fragment);
/// Throws RunnerError for what cannot be a label's name or value, and for those labels by which we know our own.
void check_label(const std::string& name, const std::string& value);

/// Which of what `spec` asks for these options do not allow or a pod cannot have; see Runner::refuses.
[[nodiscard]] std::vector<std::string> refused(const SandboxSpec& spec, const PodOptions& options);

/// The pod and the policy of a sandbox bear one name, which only depends on its id. Throws RunnerError for an id that cannot be
/// one.
[[nodiscard]] std::string object_name(const std::string& sandbox_id);

/// Precondition: nothing is refused. Neither the environment nor the main command is in it: they come over the tunnel, and an
/// image's own program is never started; a plain pod has both. `key` is what the agent wants to hear from those who talk to it.
[[nodiscard]] Json make_pod(const SandboxSpec& spec, const std::string& key, const PodOptions& options);

/// What makes an object go with the pod of that uid: an element of its ownerReferences.
[[nodiscard]] Json pod_as_owner(const SandboxSpec& spec, const std::string& pod_uid);

/// The NetworkPolicy of the sandbox, if there is to be one; gone with the pod of that uid, or without one nobody's. It has to be
/// there before the main command runs: with the agent that is when we say so, a plain pod runs it as soon as it is on a node.
[[nodiscard]] std::optional<Json> make_network_policy(const SandboxSpec& spec, const std::optional<std::string>& pod_uid,
                                                      const PodOptions& options);

}  // namespace cwsandbox::runner::kubernetes
