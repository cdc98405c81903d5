// What a request shows to the API server: a token or a client certificate, kept fresh while it is used.
#pragma once

#include "runner/kubernetes/kubeconfig.hpp"
#include "runner/kubernetes/program.hpp"

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <memory>
#include <string>

namespace cwsandbox::runner::kubernetes {

namespace asio = boost::asio;

struct Credential {
  std::string token;             ///< empty: none
  std::string certificate, key;  ///< PEM; empty: none
  unsigned generation = 0;       ///< another one for each change
};

/// Not thread safe: everything on its executor.
class Credentials {
 public:
  /// An exec plugin may take `plugin_timeout`.
  Credentials(asio::any_io_executor executor, const ClusterAccess& access, std::chrono::steady_clock::duration plugin_timeout);
  ~Credentials();
  Credentials(const Credentials&) = delete;
  Credentials& operator=(const Credentials&) = delete;

  /// What is valid now. A token file is looked at with every call and read when it has changed, and once a minute; an exec plugin
  /// runs when there is nothing yet or it has expired, once for all who wait. Throws RunnerError ("unauthenticated") that names the
  /// file or the program, with the last line of what it said on its stderr, never its output; ("unavailable") past the deadline.
  [[nodiscard]] asio::awaitable<std::shared_ptr<const Credential>> get(std::chrono::steady_clock::time_point deadline);

  /// The server did not accept that one: the next `get` reads the file, or runs the plugin, again. Returns whether that can give
  /// another one.
  bool refused(const Credential& credential);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace cwsandbox::runner::kubernetes
