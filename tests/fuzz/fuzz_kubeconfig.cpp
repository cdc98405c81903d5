// A kubeconfig: what it says, or RunnerError("invalid_argument"); never what it keeps secret.
#include "runner/kubernetes/kubeconfig.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "script.hpp"

using namespace cwsandbox::runner;

namespace {

constexpr std::string_view kSecret = "hunter2";

// Names may be shown, and a fuzzer puts the word into those, too: whether it stands nowhere but where a secret does.
bool is_only_secret(std::string_view text) {
  for (auto at = text.find(kSecret); at != std::string_view::npos; at = text.find(kSecret, at + 1)) {
    const auto line = text.substr(0, at).rfind('\n');
    auto before = text.substr(line == std::string_view::npos ? 0 : line + 1);
    before.remove_prefix(std::min(before.find_first_not_of(" -"), before.size()));
    if (!before.starts_with("token: hunter2\n") && !before.starts_with("user: {token: hunter2}\n")) return false;
  }
  return true;
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
    FUZZ_CHECK(e.code() == "invalid_argument");
    FUZZ_CHECK(!is_only_secret(text) || std::string_view(e.what()).find(kSecret) == std::string_view::npos);
  }
  return 0;
}
