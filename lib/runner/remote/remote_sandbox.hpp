// The gateway's end: a runner::Sandbox whose processes, files and main command are behind links that may break.
//
// While there is no link, nothing is lost: what was asked for is asked again, each output and input goes on from its exact byte,
// for as long as the grace time. After that nobody knows: every end is Kind::lost, every call throws "unavailable".
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "runner/remote/link.hpp"
#include "runner/runner.hpp"

namespace cwsandbox::runner::remote {

class Tunnel;

struct RemoteOptions {
  std::string session;  ///< names this object to the other end, at most 64 of A-Z a-z 0-9 - _; random, and never used again
  std::string key;      ///< proves that we may talk to it; never in a log or an error
  /// How long either end keeps what belongs to a link that broke.
  std::chrono::milliseconds grace{std::chrono::seconds(60)};
  std::chrono::milliseconds connect_deadline{std::chrono::seconds(60)};  ///< until the first link is up
  std::chrono::milliseconds hello_deadline{std::chrono::seconds(10)};    ///< for the other end's first word over a link
  /// A link over which nothing has come for this long is asked, and given up when nothing comes for as long again.
  std::chrono::milliseconds keep_alive{std::chrono::seconds(20)};
  /// How long a call or a start may be without an answer, broken links included, before it fails. Longer than the place itself
  /// waits for what takes long.
  std::chrono::milliseconds answer_deadline{std::chrono::seconds(360)};
  std::chrono::milliseconds end_deadline{std::chrono::seconds(10)};  ///< how long a destroyed object tries to end its sandbox
  std::uint64_t output_window = 1024 * 1024;                         ///< bytes of each output that may be here unread
};

class RemoteSandbox final : public Sandbox {
 public:
  [[nodiscard]] static std::unique_ptr<RemoteSandbox> make(asio::any_io_executor executor, Dial dial, RemoteOptions options);
  ~RemoteSandbox() override;
  RemoteSandbox(const RemoteSandbox&) = delete;
  RemoteSandbox& operator=(const RemoteSandbox&) = delete;

  /// Dials, and has the other end's runner make the sandbox: files, environment, working directory and main command; the other end
  /// takes no notice of image, resources and what is beyond. Throws what that runner throws; nothing runs there then. Once.
  [[nodiscard]] asio::awaitable<void> create(SandboxSpec spec);
  /// Dials, and waits until the main command runs, which somebody else starts. "deadline_exceeded" after `deadline`. Instead of
  /// `create`.
  [[nodiscard]] asio::awaitable<void> attach(std::chrono::milliseconds deadline);

  /// The place has gone: no more dialling. Whoever waits gets an end: the main command `exit`, if that is known and the other end
  /// has not told another, the rest lost. Streams end with what is here.
  void place_gone(std::string why, std::optional<ExitInfo> exit);
  /// From now on destroying this only lets go of the sandbox, which runs on; the processes that were started through it are ended.
  void let_go() noexcept;
  /// Whether a link is up, and why the last one was not or broke; for whoever looks after it.
  [[nodiscard]] bool connected() const noexcept;
  [[nodiscard]] std::string last_trouble() const;

  ByteSource& main_stdout() noexcept override;
  ByteSource& main_stderr() noexcept override;
  Files& files() noexcept override;
  asio::awaitable<std::unique_ptr<Process>> start(ProcessSpec spec) override;
  void on_exit(std::function<void(const ExitInfo&)> handler) override;
  asio::awaitable<void> stop(std::chrono::milliseconds grace) override;

 private:
  explicit RemoteSandbox(std::shared_ptr<Tunnel> tunnel);
  std::shared_ptr<Tunnel> tunnel_;
  std::unique_ptr<Files> files_;
  std::unique_ptr<ByteSource> out_, err_;
  bool let_go_ = false;
};

}  // namespace cwsandbox::runner::remote
