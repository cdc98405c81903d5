// A kubeconfig: what it says, or RunnerError("invalid_argument"); never what it keeps secret.
#include "runner/kubernetes/kubeconfig.hpp"

#include <sys/mman.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "script.hpp"

using namespace cwsandbox::runner;

namespace {

constexpr std::string_view kSecret = "hunter2";

// Names may be shown, and a fuzzer puts the word into those, too: whether it stands nowhere but as a token. That is asked of what
// YAML makes of the text, in which a line may be a token to the eye and a name to the parser. `left` bounds what aliases repeat.
bool is_only_secret(const YAML::Node& node, bool is_token, std::size_t& left) {
  if (left == 0) return false;
  --left;
  if (node.IsScalar()) return is_token ? node.Scalar() == kSecret : node.Scalar().find(kSecret) == std::string::npos;
  if (node.IsSequence())
    return std::all_of(node.begin(), node.end(), [&](const auto& item) { return is_only_secret(item, false, left); });
  if (!node.IsMap()) return true;
  return std::all_of(node.begin(), node.end(), [&](const auto& entry) {
    const bool names_token = entry.first.IsScalar() && entry.first.Scalar() == "token";
    return is_only_secret(entry.first, false, left) && is_only_secret(entry.second, names_token && entry.second.IsScalar(), left);
  });
}

bool is_only_secret(const std::string& text) {
  try {
    std::size_t left = 2000;
    return is_only_secret(YAML::Load(text), false, left);
  } catch (const YAML::Exception&) {
    return true;  // nothing of it has a name that could be shown
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const int fd = ::memfd_create("kubeconfig", MFD_CLOEXEC);
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  FUZZ_CHECK(::ftruncate(fd, 0) == 0 && ::pwrite(fd, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  kubernetes::KubeconfigOptions options;
  options.file = "/proc/self/fd/" + std::to_string(fd);
  try {
    const auto access = kubernetes::load_kubeconfig(options);
    FUZZ_CHECK(access.endpoint.scheme == cwsandbox::net::Endpoint::Scheme::https ||
               access.endpoint.scheme == cwsandbox::net::Endpoint::Scheme::http);
    FUZZ_CHECK(access.client_certificate.empty() == access.client_key.empty());
    FUZZ_CHECK(access.path_prefix.empty() || access.path_prefix.starts_with('/'));
  } catch (const RunnerError& e) {
    FUZZ_CHECK(e.code() == ErrorCode::invalid_argument);
    FUZZ_CHECK(!is_only_secret(std::string(text)) || std::string_view(e.what()).find(kSecret) == std::string_view::npos);
  }
  return 0;
}
