// Keeps up with a collection of the API: one list, then a watch that goes on from where the list, or the last one, ended.
#pragma once

#include "runner/kubernetes/api_client.hpp"

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <string>

namespace cwsandbox::runner::kubernetes {

enum class WatchEvent : std::uint8_t { added, modified, deleted };

struct WatcherOptions {
  std::string collection;  ///< `resource_path("v1", "ns", "pods")`
  std::string label_selector, field_selector;
  unsigned page_size = 500;                             ///< objects of one answer to a list
  std::chrono::seconds timeout{300};                    ///< of one watch, which the server then ends
  std::chrono::seconds slack{30};                       ///< silence for longer than both: the connection is lost
  std::size_t max_line = std::size_t{8} * 1024 * 1024;  ///< bytes of one event
  std::chrono::milliseconds retry_base{200}, retry_max{10000};
};

/// All on the ApiClient's executor, and never from inside the constructor. Destroying the Watcher, which a handler may do, ends the
/// calls.
struct WatchHandlers {
  /// An object that is new, that has changed, or that has gone. What was missed while there was no watch is told too; an object
  /// that has gone meanwhile then has only its metadata's name, namespace and uid.
  std::function<void(WatchEvent, Json&&)> on_object;
  /// All that was there has been told: after the first list, and after each one that had to be made anew.
  std::function<void()> on_synced;
  /// It goes on, later; for a log or a state of health. Told for what fails, not for a watch that ends as it should.
  std::function<void(std::exception_ptr)> on_error;
};

/// Tries for ever, with back-off. Lost connections are watched on from the last version; a version that the server no longer has
/// (410) is listed anew. Keeps name, uid and version of each object.
class Watcher {
 public:
  Watcher(std::shared_ptr<ApiClient> client, WatcherOptions options, WatchHandlers handlers);
  ~Watcher();
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace cwsandbox::runner::kubernetes
