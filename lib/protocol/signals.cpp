#include "protocol/signals.hpp"

#include "base/numbers.hpp"

#include <array>

namespace cwsandbox::protocol {
namespace {

// Linux on x86, Arm and RISC-V. Index: number.
constexpr std::array<std::string_view, 32> kNames = {
    "",        "SIGHUP",  "SIGINT",  "SIGQUIT", "SIGILL",    "SIGTRAP",   "SIGABRT",  "SIGBUS",  "SIGFPE",  "SIGKILL", "SIGUSR1",
    "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM",   "SIGSTKFLT", "SIGCHLD",  "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN",
    "SIGTTOU", "SIGURG",  "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF",   "SIGWINCH", "SIGIO",   "SIGPWR",  "SIGSYS"};
constexpr int kRealTimeFirst = 34, kRealTimeLast = 64;  // as programs see them: glibc keeps 32 and 33

}  // namespace

std::string signal_name(int number) {
  if (number > 0 && number < static_cast<int>(kNames.size())) return std::string(kNames[static_cast<std::size_t>(number)]);
  if (number == kRealTimeFirst) return "SIGRTMIN";
  if (number > kRealTimeFirst && number <= kRealTimeLast) return "SIGRTMIN+" + std::to_string(number - kRealTimeFirst);
  return {};
}

std::optional<int> signal_number(std::string_view name) {
  if (const auto number = base::parse_number<int>(name)) return signal_name(*number).empty() ? std::nullopt : number;
  if (name.starts_with("SIG")) name.remove_prefix(3);
  for (std::size_t i = 1; i < kNames.size(); ++i) {
    if (kNames[i].substr(3) == name) return static_cast<int>(i);
  }
  if (name == "POLL") return 29;
  if (name == "IOT") return 6;
  if (name == "CLD") return 17;
  if (name == "RTMIN") return kRealTimeFirst;
  if (name == "RTMAX") return kRealTimeLast;
  if (name.starts_with("RTMIN+") && name.size() > 6 && name[6] != '-') {
    const auto n = base::parse_number<int>(name.substr(6));
    if (n && *n >= 0 && *n <= kRealTimeLast - kRealTimeFirst) return kRealTimeFirst + *n;
  }
  return std::nullopt;
}

}  // namespace cwsandbox::protocol
