#pragma once

#include <chrono>
#include <string>

namespace cwsandbox::runner::pod {

struct ServeOptions {
  std::string key;  ///< who talks over a link must say it
  /// The most that one who talks to it may be away, and how long the end waits for those who have not seen all of it.
  std::chrono::milliseconds session_grace{std::chrono::minutes(10)};
  /// Until somebody must have said what is to run here: a pod whose gateway has gone before that is of no use to anybody.
  std::chrono::milliseconds begin_deadline{std::chrono::minutes(10)};
  /// From SIGTERM to the end by force: less than the pod's own grace, after which its processes are killed unheard.
  std::chrono::milliseconds stop_grace{std::chrono::seconds(25)};
};

/// PID 1 of a pod's container, until its sandbox has ended. An exit code: the main command's, 128 and the signal's number when it
/// was killed by one, 255 when nobody knows.
[[nodiscard]] int serve(ServeOptions options);

}  // namespace cwsandbox::runner::pod
