// A gateway under test, and clients written from the protocol's text alone: blocking sockets, HTTP and WebSocket frames by hand.
#pragma once

#include "gateway/gateway.hpp"
#include "net/endpoint.hpp"
#include "runner/runner.hpp"
#include "support/patience.hpp"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace gateway_test {

namespace asio = boost::asio;
namespace gateway = cwsandbox::gateway;
namespace net = cwsandbox::net;
namespace runner = cwsandbox::runner;
using Json = nlohmann::json;

inline constexpr const char* kToken = "test-token-0123456789";
/// Bounds every wait of these tests; nothing ever takes this long.
inline const std::chrono::seconds kLong = test_support::patience(std::chrono::seconds(20));

using test_support::eventually;

/// How many processes of this machine have `marker` in their command line.
std::size_t processes_with(const std::string& marker);
std::string unique_marker();

/// A directory of its own, removed with everything in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  [[nodiscard]] std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// A blocking connection over a Unix or TCP socket; every wait ends after kLong.
class Socket {
 public:
  explicit Socket(const net::ListenAddress& address);
  ~Socket();
  Socket(Socket&& other) noexcept : fd_(other.fd_), buffer_(std::move(other.buffer_)) { other.fd_ = -1; }
  Socket& operator=(Socket&&) = delete;
  void write(std::string_view bytes);
  /// False when the peer has gone before everything was written.
  bool try_write(std::string_view bytes);
  /// Empty at the end of the stream.
  std::string read_some();
  std::string read_exactly(std::size_t n);
  std::string read_until(std::string_view mark);
  void shutdown() noexcept;

 private:
  int fd_ = -1;
  std::string buffer_;
};

struct Answer {
  unsigned status = 0;
  std::map<std::string, std::string> headers;  // lower-case names
  std::string body;
  [[nodiscard]] Json json() const { return Json::parse(body); }
};

/// One request on a connection of its own.
Answer http(const net::ListenAddress& address, const std::string& method, const std::string& target,
            const std::map<std::string, std::string>& headers, const std::string& body);

std::string base64_decode(std::string_view text);
std::string base64_encode(std::string_view bytes);
/// Every byte that is not plain, so that any path fits into a query.
std::string percent_encode(std::string_view bytes);

/// A call of a method that answers with a Connect server stream, read by hand: chunks, then envelopes.
class StreamCall {
 public:
  StreamCall(const net::ListenAddress& address, const std::string& method, const Json& request,
             const std::map<std::string, std::string>& headers = {});
  /// The next message. Nothing when the stream has ended (`end` says how), or was cut (`end` is null).
  std::optional<Json> next();
  /// All that is left, to the end.
  std::vector<Json> rest();
  void cut() noexcept { socket_.shutdown(); }
  unsigned status = 0;
  std::map<std::string, std::string> headers;
  Json end;

 private:
  bool fill();
  Socket socket_;
  std::string body_;
  std::size_t front_ = 0;
};

/// Fields of a google.rpc detail, as far as these tests look: every string in the protobuf message.
std::vector<std::string> detail_strings(const Json& error, const std::string& type);

struct Message {
  std::uint8_t channel = 0;
  std::string payload;
  [[nodiscard]] Json json() const { return Json::parse(payload); }
};

/// A scripted peer of the exec stream.
class Peer {
 public:
  /// Upgrades; throws std::runtime_error with the status when refused.
  explicit Peer(const net::ListenAddress& address, const std::string& subprotocol = "v1.exec.cwsandbox",
                const std::string& token = kToken);
  static Answer refused(const net::ListenAddress& address, const std::string& subprotocol, const std::string& token,
                        const std::string& target = "/v1/exec");

  void frame(std::uint8_t opcode, std::string_view payload, bool final = true);
  bool try_frame(std::uint8_t opcode, std::string_view payload);
  void send(std::uint8_t channel, std::string_view payload);
  /// A template, so that text does not turn into JSON by itself.
  template <class J>
    requires std::is_same_v<J, Json>
  void send(std::uint8_t channel, const J& json) {
    send(channel, std::string_view(json.dump()));
  }
  /// The next message; empty when the connection was closed, with `close_code` (1006: without a word).
  std::optional<Message> receive();
  /// The next message of this channel, which must come before any other.
  Message expect(std::uint8_t channel);
  Json expect_status(const std::string& type);

  struct Outcome {
    std::string out, err;
    Json exit;
    bool started = false;
  };
  /// Reads to the exit, acknowledging what comes, and releases.
  Outcome to_exit();
  void release();
  /// Acknowledges what was received so far and grants a window beyond it.
  void grant(std::uint64_t window = 1024 * 1024);
  /// Takes data messages into account; true when the message was one.
  bool take(const Message& message);

  void cut() noexcept { socket_.shutdown(); }
  std::uint16_t close_code = 0;
  std::string close_reason;
  std::string out, err;  // since the last start

 private:
  static std::string handshake(Socket& socket, const std::string& target, const std::string& subprotocol, const std::string& token);
  Socket socket_;
};

/// A start message with what every test needs.
Json start(const std::string& sandbox, const std::vector<std::string>& command);
std::string new_id();

/// A gateway on a thread of its own, over a Unix socket.
class Server {
 public:
  using MakeRunner = std::function<std::unique_ptr<runner::Runner>(asio::any_io_executor)>;
  explicit Server(const std::function<void(gateway::GatewayOptions&)>& change = {}, MakeRunner make_runner = {});
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  [[nodiscard]] const net::ListenAddress& address() const noexcept { return address_; }
  net::ListenAddress listen(const net::ListenAddress& address);
  Answer call(const std::string& method, const Json& body, std::map<std::string, std::string> headers = {}) const;
  Answer call_raw(const std::string& method, const std::string& body, std::map<std::string, std::string> headers = {}) const;
  /// A method of cwsandbox.v1.FileService.
  Answer file_call(const std::string& method, const Json& body) const;
  /// GET or PUT of /v1/files; `more` goes behind the query.
  Answer file(const std::string& method, const std::string& sandbox, const std::string& path, const std::string& body = "",
              std::map<std::string, std::string> headers = {}, const std::string& more = "") const;
  StreamCall logs(const Json& request) const { return {address_, "coreweave.sandbox.v1.SandboxService/StreamLogs", request}; }
  /// A sandbox that runs.
  std::string sandbox(const Json& spec = Json::object());
  std::string wait_state(const std::string& id, const std::string& state);
  gateway::Gateway::Counts counts();
  void stop(std::chrono::milliseconds grace);
  std::string log();
  /// Runs on the gateway's thread.
  template <class F>
  auto on_loop(F f) {
    std::promise<decltype(f())> promise;
    auto future = promise.get_future();
    asio::post(io_, [&] {
      try {
        if constexpr (std::is_void_v<decltype(f())>) {
          f();
          promise.set_value();
        } else {
          promise.set_value(f());
        }
      } catch (...) {
        promise.set_exception(std::current_exception());
      }
    });
    return future.get();
  }
  void set_tokens(const std::vector<gateway::Token>& tokens) {
    on_loop([&] { gateway_->set_tokens(tokens); });
  }

 private:
  TempDir dir_;
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::mutex log_mutex_;
  std::string log_;
  std::unique_ptr<gateway::Gateway> gateway_;
  net::ListenAddress address_;
  std::thread thread_;
};

}  // namespace gateway_test
