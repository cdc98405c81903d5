// The idle connections of one HTTP client.
#pragma once

#include "net/any_byte_stream.hpp"

#include <boost/beast/core/flat_buffer.hpp>

#include <chrono>
#include <list>
#include <memory>
#include <mutex>

namespace cwsandbox::net {

/// A connection that speaks HTTP. It has a strand of its own on the client's executor: calls come from any executor, one after the
/// other, and none of them needs to outlive the connection.
struct ClientConnection {
  std::shared_ptr<Transport> transport;
  boost::beast::flat_buffer buffer;  // what has been read of the next answer, or of the one under way
  std::chrono::steady_clock::time_point idle_since;
};

/// Thread safe. Connections past their time go whenever the pool is used. There is no timer: it would keep `io_context::run()` from
/// returning after the last answer.
class ConnectionPool {
 public:
  ConnectionPool(std::size_t max_idle, std::chrono::steady_clock::duration idle_lifetime)
      : max_idle_(max_idle), idle_lifetime_(idle_lifetime) {}

  /// The connection that was idle for the shortest time and still looks alive, or null.
  [[nodiscard]] std::unique_ptr<ClientConnection> borrow();
  /// Keeps it for the next call, unless there are enough: then the one that was idle for the longest time goes.
  void give_back(std::unique_ptr<ClientConnection> connection);
  /// Closes all that are idle now; for good: also all that are given back later.
  void clear(bool for_good) noexcept;

 private:
  using Connections = std::list<std::unique_ptr<ClientConnection>>;
  void prune(Connections& dead);

  const std::size_t max_idle_;
  const std::chrono::steady_clock::duration idle_lifetime_;
  std::mutex mutex_;
  Connections idle_;  // the youngest last
  bool closed_ = false;
};

}  // namespace cwsandbox::net
