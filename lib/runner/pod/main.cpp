// The program in a pod: how it gets there, what is PID 1 there, and how the gateway gets to that.
#include <string.h>
#include <sys/prctl.h>

#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "base/descriptor_limit.hpp"
#include "base/numbers.hpp"
#include "base/standard_streams.hpp"
#include "runner/pod/install.hpp"
#include "runner/pod/relay.hpp"
#include "runner/pod/serve.hpp"

namespace {

using namespace cwsandbox::runner::pod;

constexpr const char* kUsage =
    "usage: cwsandbox-agent install DIRECTORY\n"
    "       cwsandbox-agent serve --key HEX [--session-grace MS] [--begin-deadline MS] [--stop-grace MS]\n"
    "       cwsandbox-agent connect\n";
constexpr int kUsageError = 2;
constexpr std::size_t kShortestKey = 32;  // digits: 128 bits

int usage(const char* what) {
  std::fprintf(stderr, "cwsandbox-agent: %s\n%s", what, kUsage);
  return kUsageError;
}

[[nodiscard]] std::optional<std::chrono::milliseconds> milliseconds(std::string_view text) {
  const auto value = cwsandbox::base::parse_number<std::uint32_t>(text);
  return value ? std::optional(std::chrono::milliseconds(*value)) : std::nullopt;
}

// Everybody in the sandbox can read the command line of PID 1, and by the time that anybody is there it no longer says the key.
void wipe(char* argument) { ::explicit_bzero(argument, ::strlen(argument)); }

int run_serve(int argc, char** argv) {
  ServeOptions options;
  const char* wrong = nullptr;
  for (int i = 2; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 == argc) {
      wrong = "an option lacks its value";
    } else if (name == "--key") {
      options.key = argv[i + 1];
      wipe(argv[i + 1]);
    } else if (name == "--session-grace" || name == "--begin-deadline" || name == "--stop-grace") {
      const auto value = milliseconds(argv[i + 1]);
      if (!value) wrong = "a grace and a deadline are numbers of milliseconds";
      auto& option = name == "--session-grace" ? options.session_grace
                     : name == "--stop-grace"  ? options.stop_grace
                                               : options.begin_deadline;
      option = value.value_or(std::chrono::milliseconds(0));
    } else {
      wrong = "serve does not know this option";
    }
  }
  if (wrong == nullptr &&
      (options.key.size() < kShortestKey || options.key.find_first_not_of("0123456789abcdef") != std::string::npos)) {
    wrong = "serve needs a --key of at least 32 hexadecimal digits";
  }
  return wrong != nullptr ? usage(wrong) : serve(std::move(options));
}

}  // namespace

int main(int argc, char** argv) {
  if (!cwsandbox::base::fill_standard_streams()) return usage("there is no /dev/null");
  const std::string_view mode = argc > 1 ? argv[1] : "";
  if (mode == "install" && argc == 3) return install(argv[2]);
  if (mode == "connect" && argc == 2) return run_relay();
  if (mode != "serve") return usage("what is to be done?");
  // First of all: programs in the sandbox run as the same user, and must neither trace this process nor open its descriptors.
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return usage("cannot be closed to others");
  cwsandbox::base::raise_descriptor_limit();
  return run_serve(argc, argv);
}
