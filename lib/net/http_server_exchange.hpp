// A request of a session that is read, and answered, piece by piece.
#pragma once

#include "net/http_body.hpp"
#include "net/http_server.hpp"
#include "net/http_server_session.hpp"
#include "net/http_wire.hpp"

#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <memory>
#include <optional>

namespace cwsandbox::net {

/// It lives in the frame of the session's coroutine.
class SessionExchange final : public ServerExchange {
 public:
  SessionExchange(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session, const RequestReader& reader,
                  std::shared_ptr<const HttpRequest> request);

  [[nodiscard]] const HttpRequest& request() const noexcept override { return *request_; }
  [[nodiscard]] std::optional<std::uint64_t> content_length() const noexcept override { return length_; }
  [[nodiscard]] asio::awaitable<std::size_t> read(asio::mutable_buffer into) override;
  [[nodiscard]] asio::awaitable<void> start(HttpResponse head, std::optional<std::uint64_t> length) override;
  [[nodiscard]] asio::awaitable<void> write(asio::const_buffer from) override;
  [[nodiscard]] asio::awaitable<std::uint64_t> write_file(int fd, std::uint64_t offset, std::uint64_t length) override;
  [[nodiscard]] asio::awaitable<void> finish() override;
  [[nodiscard]] bool client_gone() noexcept override;
  [[nodiscard]] std::size_t buffer_size(std::size_t wanted) override;

  [[nodiscard]] bool started() const noexcept { return started_; }
  [[nodiscard]] bool finished() const noexcept { return finished_; }
  [[nodiscard]] bool lost() const noexcept { return lost_; }
  /// Whether the connection may be used for another request.
  [[nodiscard]] bool keep() const noexcept { return keep_; }
  /// What to answer when the handler has not, if the fault was the client's.
  [[nodiscard]] std::optional<HttpResponse> take_fault() { return std::move(fault_); }
  /// Reads and drops the little that is left of a request that was answered before its end.
  [[nodiscard]] asio::awaitable<bool> skip_rest();

 private:
  void check() const;
  [[noreturn]] void lose(error_code ec);
  void ready_to_write(std::uint64_t size) const;

  std::shared_ptr<ServerState> server_;
  std::shared_ptr<ServerSession> session_;
  std::shared_ptr<const HttpRequest> request_;
  std::optional<std::uint64_t> length_;
  BodyReader body_;
  unsigned version_;
  bool keep_, owes_continue_;
  bool started_ = false, finished_ = false, chunked_ = false, bodiless_ = false;
  bool lost_ = false;                  // the connection has ended
  bool broken_ = false;                // the request cannot be read on; it can be answered
  std::optional<std::uint64_t> left_;  // of the answer
  std::optional<HttpResponse> fault_;
};

}  // namespace cwsandbox::net
