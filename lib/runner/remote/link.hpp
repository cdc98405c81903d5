// What a sandbox's two ends talk over: a byte stream, whatever carries it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "runner/runner.hpp"

namespace cwsandbox::runner::remote {

/// A byte stream to the other end. One read and one write at a time. Destroying it closes it; it is destroyed only when neither is
/// under way, and always on its executor.
class Link {
 public:
  virtual ~Link() = default;
  /// Some bytes, valid until the next read or the link's end; empty at its end. Throws boost::system::system_error.
  [[nodiscard]] virtual asio::awaitable<std::string_view> read() = 0;
  /// All of `head` and `body`. `head` is short (a frame's header); both stay valid until completion. Throws as `read`.
  [[nodiscard]] virtual asio::awaitable<void> write(std::string_view head, std::string_view body) = 0;
  /// Operations under way fail, soon. Harmless twice.
  virtual void close() noexcept = 0;
  /// As `close`, of a link that was not let in: what carries the bytes may be able to say so to the other end.
  virtual void refuse(std::string_view /*why*/) noexcept { close(); }
  /// After a read has found the end: why it is there, as far as what carries the bytes has said; printable.
  [[nodiscard]] virtual std::string why() const { return {}; }
};

/// Opens a link. Throws RunnerError: "unavailable" is tried again, anything else is the end of the sandbox. Its own deadlines bound
/// how long it takes.
using Dial = std::function<asio::awaitable<std::unique_ptr<Link>>()>;

}  // namespace cwsandbox::runner::remote
