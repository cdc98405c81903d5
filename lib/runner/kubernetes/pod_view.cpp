#include "runner/kubernetes/pod_view.hpp"

#include "base/time.hpp"
#include "runner/kubernetes/pod_spec.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <string_view>
#include <utility>

namespace cwsandbox::runner::kubernetes {

namespace {

using Wait = PodView::Wait;

constexpr std::size_t kMaxReason = 512;

// Reasons of the kubelet for a container that waits, beside those that only say that it is on its way.
constexpr std::array<std::string_view, 8> kFailing = {
    "ErrImagePull",         "ImagePullBackOff", "RegistryUnavailable", "CreateContainerConfigError",
    "CreateContainerError", "CrashLoopBackOff", "RunContainerError",   "ImageInspectError"};
constexpr std::array<std::string_view, 2> kFinal = {"InvalidImageName", "ErrImageNeverPull"};

template <std::size_t Count>
bool is_one_of(std::string_view text, const std::array<std::string_view, Count>& all) {
  return std::find(all.begin(), all.end(), text) != all.end();
}

/// The member; null where there is none or `json` is no object.
const Json& member(const Json& json, std::string_view name) {
  static const Json kNone;
  if (!json.is_object()) return kNone;
  const auto it = json.find(std::string(name));
  return it == json.end() ? kNone : *it;
}

template <typename... Names>
const Json& member(const Json& json, std::string_view name, Names... names) {
  return member(member(json, name), names...);
}

template <typename... Names>
std::string text(const Json& json, Names... names) {
  const Json& value = member(json, std::string_view(names)...);
  return value.is_string() ? value.get<std::string>() : std::string();
}

/// The element of a list of named things; null where there is none.
const Json& named(const Json& list, std::string_view key, std::string_view name) {
  static const Json kNone;
  if (!list.is_array()) return kNone;
  const auto it = std::find_if(list.begin(), list.end(), [&](const Json& item) { return text(item, key) == name; });
  return it == list.end() ? kNone : *it;
}

/// "Reason: message", from somebody else: bounded, on one line.
std::string why(const Json& from) {
  std::string out = text(from, "reason");
  if (const std::string message = text(from, "message"); !message.empty()) out += (out.empty() ? "" : ": ") + message;
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  if (out.size() > kMaxReason) {
    std::size_t cut = kMaxReason;
    while (cut > 0 && (static_cast<unsigned char>(out[cut]) & 0xc0U) == 0x80U) --cut;  // not inside a character
    out.resize(cut);
    out += "...";
  }
  return out;
}

/// As PID 1 of the pod wrote it. Programs in the sandbox can write it too, and lie about no end but their own.
std::optional<ExitInfo> read_termination_message(const std::string& message) {
  const Json json = Json::parse(message, nullptr, false);
  const std::string kind = text(json, "kind");
  const Json& value = member(json, "value");
  const Json& time = member(json, "timeMs");
  ExitInfo exit;
  if (kind == "exited" || kind == "signaled") {
    const std::int64_t most = kind == "exited" ? 255 : 64, least = kind == "exited" ? 0 : 1;
    if (!value.is_number_integer() || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most) return std::nullopt;
    exit.kind = kind == "exited" ? ExitInfo::Kind::exited : ExitInfo::Kind::signaled;
    exit.value = value.get<int>();
  } else if (kind != "lost") {
    return std::nullopt;
  }
  exit.out_of_memory = member(json, "oom") == true;
  // Within what a clock can count, whatever stands there.
  constexpr std::int64_t kMostMilliseconds = 9'000'000'000'000;
  if (time.is_number_integer() && time.get<std::int64_t>() >= 0 && time.get<std::int64_t>() < kMostMilliseconds)
    exit.time = std::chrono::system_clock::time_point(std::chrono::milliseconds(time.get<std::int64_t>()));
  return exit;
}

/// The same of a pod without the agent, whose container is the main command. That a signal ended it the cluster does not say, but
/// by its exit code.
void read_plain_end(const Json& terminated, PodView& view) {
  ExitInfo exit;
  const std::string reason = text(terminated, "reason");
  const Json& code = member(terminated, "exitCode");
  if (reason == "OOMKilled") {
    exit.kind = ExitInfo::Kind::signaled;
    exit.value = SIGKILL;
    exit.out_of_memory = true;
  } else if ((reason == "Completed" || reason == "Error") && code.is_number_integer()) {
    exit.kind = ExitInfo::Kind::exited;
    exit.value = static_cast<int>(std::clamp<std::int64_t>(code.get<std::int64_t>(), 0, 255));
  } else {
    view.reason = why(terminated);  // it never ran ("ContainerCannotRun", "StartError"), or nobody knows
  }
  if (const auto at = base::parse_timestamp(text(terminated, "finishedAt"))) exit.time = *at;
  view.exit = exit;
}

/// The end of the main container.
void read_end(const Json& terminated, PodView& view) {
  if (view.plain) return read_plain_end(terminated, view);
  auto exit = read_termination_message(text(terminated, "message"));
  const bool out_of_memory = text(terminated, "reason") == "OOMKilled";
  if (!exit) {
    // PID 1 could not tell: it was killed, or never ran. Its code says nothing of the main command.
    exit.emplace();
    view.reason = why(terminated);
    if (view.reason.empty() || view.reason == "Error") {
      const Json& code = member(terminated, "exitCode");
      view.reason = "the agent ended with code " + (code.is_number_integer() ? std::to_string(code.get<std::int64_t>()) : "?");
    }
  }
  if (exit->kind != ExitInfo::Kind::exited && out_of_memory) exit->out_of_memory = true;
  if (exit->time == std::chrono::system_clock::time_point()) {
    if (const auto at = base::parse_timestamp(text(terminated, "finishedAt"))) exit->time = *at;
  }
  view.exit = exit;
}

/// What it waits for, the container first whose turn it is.
void read_wait(const Json& status, PodView& view) {
  const auto judge = [&view](const Json& waiting) {
    const std::string reason = text(waiting, "reason");
    if (is_one_of(reason, kFinal)) {
      view.wait = Wait::final;
    } else if (is_one_of(reason, kFailing)) {
      view.wait = Wait::failing;
    } else {
      return false;
    }
    view.reason = why(waiting);
    return true;
  };
  const Json& init = named(member(status, "initContainerStatuses"), "name", kAgentContainer);
  const Json& main = named(member(status, "containerStatuses"), "name", kMainContainer);
  if (judge(member(init, "state", "waiting")) || judge(member(main, "state", "waiting"))) return;
  const Json& scheduled = named(member(status, "conditions"), "type", "PodScheduled");
  if (text(scheduled, "status") == "False") {
    view.wait = Wait::failing;
    view.reason = why(scheduled);
    return;
  }
  view.reason = why(member(view.plain || view.agent_installed ? main : init, "state", "waiting"));
}

}  // namespace

PodView read_pod(const Json& pod) {
  PodView view;
  const Json& metadata = member(pod, "metadata");
  const Json& status = member(pod, "status");
  view.name = text(metadata, "name");
  view.uid = text(metadata, "uid");
  view.resource_version = text(metadata, "resourceVersion");
  view.sandbox = text(metadata, "labels", kSandboxLabel);
  view.record = text(metadata, "annotations", kRecordAnnotation);
  view.key = text(metadata, "annotations", kKeyAnnotation);
  view.plain = text(metadata, "annotations", kAgentAnnotation) == kNoAgent;
  view.phase = text(status, "phase");
  view.node = text(pod, "spec", "nodeName");
  view.created = base::parse_timestamp(text(metadata, "creationTimestamp"));
  view.deleting = !text(metadata, "deletionTimestamp").empty();

  const Json& agent = member(named(member(status, "initContainerStatuses"), "name", kAgentContainer), "state");
  const Json& main = member(named(member(status, "containerStatuses"), "name", kMainContainer), "state");
  view.agent_installed = member(agent, "terminated", "exitCode") == 0;
  view.main_running = member(main, "running").is_object();
  const Json& terminated = member(main, "terminated");

  const bool over = view.phase == "Succeeded" || view.phase == "Failed";
  // Of a pod whose time has passed the phase says so before its containers have ended.
  if (terminated.is_object() || (over && !view.main_running)) {
    view.state = Found::State::ended;
    view.wait = Wait::none;
    if (terminated.is_object()) {
      read_end(terminated, view);
    } else {
      view.exit.emplace();
      // The first container fails only where the second cannot begin.
      if (member(agent, "terminated").is_object() && !view.agent_installed)
        view.reason = "the agent could not be installed: " + why(member(agent, "terminated"));
    }
    // Why the kubelet ended the pod ("Evicted", "DeadlineExceeded") says more than how a container then ended.
    if (std::string of_pod = why(status); !of_pod.empty()) view.reason = std::move(of_pod);
  } else if (view.deleting || over) {
    view.state = Found::State::stopping;
    view.wait = Wait::none;
    view.reason = why(status);
  } else if (view.main_running) {
    view.state = Found::State::running;
    view.wait = Wait::none;
  } else {
    read_wait(status, view);
  }
  return view;
}

}  // namespace cwsandbox::runner::kubernetes
