// WebSocket connections for the exec stream: one process at a time on each, kept warm for the next.
#pragma once

#include "net/websocket.hpp"
#include "protocol/exec_stream.hpp"

#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <list>
#include <memory>
#include <mutex>
#include <string>

namespace cwsandbox::client {

namespace asio = boost::asio;
class ExecPool;

/// How a connection ended.
struct ConnectionLoss {
  enum class Kind : std::uint8_t {
    broken,      ///< a new one may go on
    taken_over,  ///< somebody else has the process now
    fault,       ///< one of the two broke the rules: a new connection would only break them again
  };
  Kind kind = Kind::broken;
  std::string why;  ///< fits a message
};

/// Who a connection works for. Called on the connection's strand.
class ExecOwner {
 public:
  virtual ~ExecOwner() = default;
  virtual void on_event(const protocol::ClientEvent& event, net::IncomingMessage& message) = 0;
  virtual void on_connection_lost(const ConnectionLoss& loss) = 0;
  /// A message that was in flight on a lost connection is no longer pinned.
  virtual void on_unpinned() = 0;
};

/// Everything but construction on its strand.
class ExecConnection : public std::enable_shared_from_this<ExecConnection> {
 public:
  ExecConnection(std::unique_ptr<net::WebSocket> socket, std::weak_ptr<ExecPool> pool)
      : strand_(socket->executor()), socket_(std::move(socket)), pool_(std::move(pool)) {}
  ExecConnection(const ExecConnection&) = delete;
  ExecConnection& operator=(const ExecConnection&) = delete;

  [[nodiscard]] const asio::any_io_executor& strand() const noexcept { return strand_; }
  [[nodiscard]] bool alive() const noexcept { return !dead_; }

  /// Takes up a process. Precondition: alive, no process now (one that is being let go may still have words to send).
  void attach(std::shared_ptr<protocol::ExecClientStream> machine, std::shared_ptr<ExecOwner> owner);
  /// The machine has something to send, perhaps.
  void pump();
  /// The process has ended and its machine is released: the connection is for the next one. Its last words go out before the next
  /// process's first.
  void let_go();
  /// Closes it: tells the peer why, waits for its word (at most a second), then drops it. The owner hears nothing more.
  void close(protocol::CloseCode code, const std::string& reason);

 private:
  friend class ExecPool;
  struct ReadHandler;
  struct WriteHandler;
  void read();
  void on_read(net::error_code ec);
  void on_written(net::error_code ec);
  void lost(const ConnectionLoss& loss);
  void forget() noexcept;
  [[nodiscard]] ConnectionLoss describe(net::error_code ec) const;

  const asio::any_io_executor strand_;
  std::unique_ptr<net::WebSocket> socket_;
  std::weak_ptr<ExecPool> pool_;
  std::shared_ptr<protocol::ExecClientStream> machine_, leaving_, writing_for_;
  std::shared_ptr<ExecOwner> owner_;
  std::weak_ptr<ExecOwner> unpins_;
  net::IncomingMessage message_;
  bool reading_ = false, dead_ = false;
  std::chrono::steady_clock::time_point idle_since_;  // the pool's, under its lock
};

/// Idle connections of one endpoint. Thread safe.
class ExecPool : public std::enable_shared_from_this<ExecPool> {
 public:
  static constexpr std::size_t kMaxIdle = 128;  // as many processes as a busy client starts at once
  static constexpr std::chrono::milliseconds kIdleLifetime{30'000};
  static constexpr std::chrono::milliseconds kAdoptedLifetime{250};

  ExecPool(asio::any_io_executor strand, std::chrono::milliseconds idle_lifetime)
      : strand_(std::move(strand)), idle_lifetime_(idle_lifetime), timer_(strand_) {}

  /// The youngest idle connection, or null. It may turn out to be dead.
  [[nodiscard]] std::shared_ptr<ExecConnection> take();
  void put(std::shared_ptr<ExecConnection> connection);
  void remove(const std::shared_ptr<ExecConnection>& connection);
  /// Closes what is idle, and from now on what comes back.
  void close();

 private:
  void arm();
  void sweep();
  static void close_later(const std::shared_ptr<ExecConnection>& connection);

  const asio::any_io_executor strand_;
  const std::chrono::milliseconds idle_lifetime_;
  std::mutex mutex_;
  std::list<std::shared_ptr<ExecConnection>> idle_;  // the youngest last
  bool closed_ = false, armed_ = false;
  asio::steady_timer timer_;  // on strand_ only
};

}  // namespace cwsandbox::client
