// A program run in a pod's container through pods/exec: the WebSocket of the protocols v5.channel.k8s.io and v4.channel.k8s.io.
#pragma once

#include "runner/kubernetes/api_client.hpp"
#include "runner/remote/link.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cwsandbox::runner::kubernetes {

struct ExecRequest {
  std::string name_space, pod;
  std::string container;  ///< empty: the pod's only one
  std::vector<std::string> command;
  bool std_in = false, std_out = true, std_err = true;
  bool tty = false;  ///< open std_in with it: the output of a fast command is lost otherwise
};

/// How it ended, as the server's status says.
struct ExecStatus {
  enum class Kind : std::uint8_t {
    success,  ///< exit code 0
    exited,   ///< `code`; 128 and more for a signal
    failed    ///< it did not run, or nobody knows
  };
  Kind kind = Kind::failed;
  int code = -1;
  std::string reason;   ///< Kubernetes' word: "NonZeroExitCode", "InternalError", …
  std::string message;  ///< printable
};

/// From the text of a status message; what is no Status object is taken for the message of a failure.
[[nodiscard]] ExecStatus parse_exec_status(std::string_view json);

/// Not thread safe: everything on the ApiClient's executor. One read and one write at a time. It may be destroyed while neither is
/// under way; that drops the connection and does not end the program, which gets the end of its input.
class PodExec {
 public:
  enum Channel : std::uint8_t { std_in = 0, std_out = 1, std_err = 2, status = 3, terminal_size = 4, close_channel = 255 };
  struct Message {
    std::uint8_t channel = 0;
    std::string_view payload;  ///< valid until the next read
  };
  /// The largest message that is sent, with its first byte; the server drops the connection for one of 33 MiB.
  static constexpr std::size_t kMaxMessage = std::size_t{1024} * 1024;

  /// Throws ApiError: not_found (no such pod), invalid_argument (wrong container), permission_denied, unauthenticated, unavailable.
  [[nodiscard]] static asio::awaitable<std::unique_ptr<PodExec>> open(std::shared_ptr<ApiClient> client, ExecRequest request);

  explicit PodExec(std::unique_ptr<net::WebSocket> socket);
  ~PodExec();
  PodExec(const PodExec&) = delete;
  PodExec& operator=(const PodExec&) = delete;

  /// "v5.channel.k8s.io" or "v4.channel.k8s.io": whether `close_stdin` works.
  [[nodiscard]] const std::string& protocol() const noexcept { return protocol_; }
  [[nodiscard]] bool half_closes() const noexcept;
  /// The next message that holds something; empty when the server has closed in good order. Throws boost::system::system_error.
  [[nodiscard]] asio::awaitable<std::optional<Message>> read();
  /// To the program's input: one message where it fits, which is never fragmented. Both stay valid until completion.
  [[nodiscard]] asio::awaitable<void> write(std::string_view head, std::string_view body);
  /// The end of the program's input. Throws RunnerError ("unimplemented") with v4, which has no such message.
  [[nodiscard]] asio::awaitable<void> close_stdin();
  [[nodiscard]] asio::awaitable<void> resize(std::uint16_t width, std::uint16_t height);
  /// Drops the connection: what is under way fails.
  void abort() noexcept;

 private:
  asio::awaitable<void> send(std::string_view head, std::string_view body);

  std::unique_ptr<net::WebSocket> socket_;
  std::string protocol_;
  net::IncomingMessage message_;
  std::string head_;  // of the message being written
};

/// A program's stdin and stdout as a link: what it writes to stdout is read, what is written is its stdin. Its end is the link's.
class ExecLink final : public remote::Link {
 public:
  explicit ExecLink(std::unique_ptr<PodExec> exec) : exec_(std::move(exec)) {}
  [[nodiscard]] asio::awaitable<std::string_view> read() override;
  [[nodiscard]] asio::awaitable<void> write(std::string_view head, std::string_view body) override;
  void close() noexcept override { exec_->abort(); }
  /// After the link's end: why, from the program's status and the last of its stderr, printable; empty while unknown.
  [[nodiscard]] std::string why() const override;

 private:
  std::unique_ptr<PodExec> exec_;
  std::string errors_;  // the last of stderr
  std::optional<ExecStatus> status_;
  bool ended_ = false;
};

}  // namespace cwsandbox::runner::kubernetes
