// Where a cluster is and how to be let in: read from a kubeconfig, or from what a pod finds of its service account.
#pragma once

#include "net/endpoint.hpp"
#include "runner/runner.hpp"

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cwsandbox::runner::kubernetes {

/// A program that knows credentials (client.authentication.k8s.io).
struct ExecPlugin {
  std::string api_version;
  std::string command;  ///< a path, or a name that is looked for in $PATH
  std::vector<std::string> args;
  std::vector<std::pair<std::string, std::string>> env;  ///< beside this process's own
  std::string install_hint;                              ///< for whoever lacks it; may be empty
  bool provide_cluster_info = false;
};

struct ClusterAccess {
  net::Endpoint endpoint;
  std::string path_prefix;      ///< of the server's URL, without a slash at its end: "" or e.g. "/k8s/clusters/c-1"
  std::string tls_server_name;  ///< empty: the endpoint's host
  bool insecure_skip_tls_verify = false;
  std::string ca;                              ///< PEM; empty: the system's store
  std::string client_certificate, client_key;  ///< PEM
  std::string token;
  std::string token_file;  ///< read again while it is used
  std::optional<ExecPlugin> exec;
  std::string default_namespace = "default";
  std::string origin;  ///< for messages: which context of which file
};

/// What stands on the command line; empty: as the file has it.
struct KubeconfigOptions {
  std::string file;     ///< empty: $KUBECONFIG, which may name several, then ~/.kube/config
  std::string context;  ///< empty: the current one
  std::string name_space;
};

inline constexpr const char* kServiceAccountDirectory = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Reads kubeconfig files. Of several, the first that has an entry, or says which context is current, wins; those of $KUBECONFIG
/// that are missing are left out. Certificates are read here, token files only where they are used. Throws RunnerError
/// ("invalid_argument") that names the file, the line where known, and the field, and holds no value that may be secret.
[[nodiscard]] ClusterAccess load_kubeconfig(const KubeconfigOptions& options);

/// From inside a pod: KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT and the service account's files. Throws as above.
[[nodiscard]] ClusterAccess service_account_access(const std::string& directory = kServiceAccountDirectory);

/// As kubectl does: a kubeconfig where one is named or found, else the service account. Throws as above; "nothing found" says where
/// was looked.
[[nodiscard]] ClusterAccess find_cluster(const KubeconfigOptions& options, const std::string& directory = kServiceAccountDirectory);

/// A regular file's content. Throws RunnerError ("invalid_argument") that names `what` and the file when it cannot be read or is
/// larger than `limit` bytes.
[[nodiscard]] std::string read_small_file(const std::string& path, std::size_t limit, const std::string& what);

}  // namespace cwsandbox::runner::kubernetes
