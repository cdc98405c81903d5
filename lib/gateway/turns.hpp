// Whose turn it is, where more want to begin something than are let do it at once.
#pragma once

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <cstddef>
#include <list>
#include <memory>
#include <utility>

namespace cwsandbox::gateway {

namespace asio = boost::asio;

/// So many at one time. Of those that wait, each owner has one in turn, and an owner's own come in the order in which they came:
/// who asks for a thousand keeps another waiting for one. On the gateway's executor.
class Turns : public std::enable_shared_from_this<Turns> {
 public:
  /// One of those that are at it. Its place is the next one's when this goes.
  class Turn {
   public:
    Turn(std::shared_ptr<Turns> turns, const void* owner) noexcept : turns_(std::move(turns)), owner_(owner) {}
    Turn(Turn&&) noexcept = default;
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (turns_) turns_->free_one(owner_);
    }

   private:
    std::shared_ptr<Turns> turns_;
    const void* owner_;
  };

  /// `most`: 0 for any number.
  Turns(asio::any_io_executor executor, std::size_t most) : executor_(std::move(executor)), most_(most) {}
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;

  /// `owner` tells owners apart, no more, and may have so many of them at one time; 0: all. Not to be cancelled: whoever wants it
  /// no longer lets it go at once. Who waits when this object goes is destroyed with it.
  [[nodiscard]] asio::awaitable<Turn> take(const void* owner, std::size_t most_of_owner = 0);
  /// Destroys the coroutines that wait, and lets nobody wait any more.
  void drop() noexcept;
  [[nodiscard]] std::size_t waiting() const noexcept;

 private:
  using Handler = asio::any_completion_handler<void()>;
  struct Queue {
    explicit Queue(const void* o) noexcept : owner(o) {}
    const void* owner;
    std::size_t most = 0, at_it = 0;
    std::list<Handler> handlers;  // any_completion_handler may not be move-assigned
    [[nodiscard]] bool may_begin() const noexcept { return most == 0 || at_it < most; }
  };
  std::list<Queue>::iterator queue_of(const void* owner);
  void free_one(const void* owner);
  void begin_waiting();

  asio::any_io_executor executor_;
  std::size_t most_, at_it_ = 0;
  std::list<Queue> queues_;  // of those who wait or are at it; whose turn is next comes first
};

}  // namespace cwsandbox::gateway
