// One link under way: frames in, frames out, and whether the other end is still there.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "protocol/exec_stream.hpp"
#include "runner/remote/frames.hpp"
#include "runner/remote/link.hpp"
#include "runner/remote/messages.hpp"

namespace cwsandbox::runner::remote {

// Taken in one go, so that one busy stream does not keep the executor from everybody else.
inline constexpr int kPiecesPerTurn = 8;
// A buffer that has become larger than that is not kept once it is empty.
inline constexpr std::size_t kKeptBuffer = 64 * 1024;

class Wire;

struct OutFrame {
  std::uint32_t stream = kTunnelStream;
  protocol::OutMessage message;  // the channel is the head's first byte
};

/// Whose link it is.
class Peer {
 public:
  virtual ~Peer() = default;
  // What comes. Each may throw Violation.
  virtual void on_control(Wire& wire, Control control) = 0;
  virtual void on_frame(Wire& wire, const Frame& frame) = 0;
  /// The next frame to write; it stays until `on_frame_sent`, which comes also when it could not be written.
  [[nodiscard]] virtual std::optional<OutFrame> next_frame(Wire& wire) = 0;
  virtual void on_frame_sent(Wire& wire) noexcept = 0;
  /// The last word: nothing of the wire is under way any more.
  virtual void on_gone(Wire& wire, const std::string& why, bool violated) = 0;
};

/// Kept by what is under way on the link, and by its peer for as long as it likes.
class Wire : public std::enable_shared_from_this<Wire> {
 public:
  /// Without `established` within `hello_deadline` it is closed.
  Wire(asio::any_io_executor executor, std::unique_ptr<Link> link, std::chrono::milliseconds hello_deadline,
       std::chrono::milliseconds keep_alive);
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  void start(const std::shared_ptr<Peer>& peer);
  /// From now on another's. Precondition: nothing of the one before is being written.
  void hand_to(const std::shared_ptr<Peer>& peer) noexcept { peer_ = peer; }
  void established() noexcept { established_ = true; }
  /// There may be something to write.
  void wake();
  void close(std::string why);
  /// Behind what is being written a last word, then the end. One that was not `established` is refused.
  void close_with(const Control& last, std::string why);
  [[nodiscard]] bool open() const noexcept { return !closed_ && !last_ && !broken_; }

 private:
  using Clock = std::chrono::steady_clock;
  static asio::awaitable<void> read_all(std::shared_ptr<Wire> self);
  static asio::awaitable<void> write_all(std::shared_ptr<Wire> self);
  void take(std::string_view bytes);
  void close(std::string why, bool violated);
  void watch(Clock::time_point when);
  void look();
  void on_broken(const std::string& why);
  void end_link() noexcept;
  void settle();

  asio::any_io_executor executor_;
  std::unique_ptr<Link> link_;
  std::weak_ptr<Peer> peer_;
  FrameReader frames_;
  asio::steady_timer timer_;
  std::chrono::milliseconds hello_deadline_, keep_alive_;
  Clock::time_point begin_, heard_, write_begun_;
  std::string own_;  // a control message of ours that is being written
  std::optional<std::string> last_;
  std::string why_;
  bool reading_ = false, writing_ = false, established_ = false, closed_ = false, violated_ = false, gone_ = false;
  bool broken_ = false;  // nothing can be written any more
  bool asked_ = false, ping_due_ = false, pong_due_ = false;
};

/// Something that has messages to write: a process, or the calls.
class Sender {
 public:
  explicit Sender(std::uint32_t stream) noexcept : stream_(stream) {}
  virtual ~Sender() = default;
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;
  [[nodiscard]] virtual std::optional<protocol::OutMessage> next_message() = 0;
  virtual void on_sent() = 0;
  [[nodiscard]] std::uint32_t stream() const noexcept { return stream_; }

 private:
  friend class Outbox;
  enum class Queue : std::uint8_t { none, urgent, bulk };
  std::uint32_t stream_;
  Queue queue_ = Queue::none;
  std::list<std::shared_ptr<Sender>>::iterator at_{};
};

/// Whose turn it is to write. Who has not written just now, or has control to say, comes before whoever sends on; among equals it
/// goes round.
class Outbox {
 public:
  void add(const std::shared_ptr<Sender>& sender);
  [[nodiscard]] std::optional<OutFrame> next();
  void on_sent();
  /// The link has gone; what is in flight stays so until `on_sent`.
  void clear() noexcept;

 private:
  using Queue = Sender::Queue;
  std::list<std::shared_ptr<Sender>> urgent_, bulk_;
  std::shared_ptr<Sender> in_flight_;
  bool bulk_next_ = false;  // what is urgent all the time must not keep the others from their turn
};

}  // namespace cwsandbox::runner::remote
