// Messages so large that reading or writing one takes milliseconds, which another thread takes rather than the event loop.
#pragma once

#include "gateway/tokens.hpp"
#include "runner/work_queue.hpp"

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace cwsandbox::gateway {

/// Those of one owner, one after another, so that nobody has all of the threads. On the gateway's executor.
class LargeMessages {
 public:
  /// Smaller ones are read and written on the spot: that takes less than a millisecond.
  static constexpr std::size_t kLarge = 128 * 1024;

  LargeMessages(asio::any_io_executor executor, std::shared_ptr<Owner> owner)
      : executor_(std::move(executor)), owner_(std::move(owner)) {}

  /// What `work` gives or throws, which is about so many bytes. It shares nothing with the event loop but what stays as it is
  /// meanwhile.
  template <class F>
  [[nodiscard]] static asio::awaitable<std::invoke_result_t<F&>> run(LargeMessages self, std::size_t bytes, F work) {
    const std::shared_ptr<runner::WorkQueue> queue = bytes < kLarge ? nullptr : self.queue();
    if (!queue) co_return work();
    Item<F> item(work);
    auto done = runner::WorkQueue::run(queue, item);
    co_await std::move(done);
    if (item.error) std::rethrow_exception(item.error);
    co_return std::move(*item.result);
  }

 private:
  template <class F>
  struct Item final : runner::WorkItem {
    explicit Item(F& what) : todo(what) {}
    void work() noexcept override {
      try {
        result.emplace(todo());
      } catch (...) {
        error = std::current_exception();
      }
    }
    F& todo;
    std::optional<std::invoke_result_t<F&>> result;
    std::exception_ptr error;
  };

  /// Null where there are no descriptors for one: late is better than never.
  [[nodiscard]] std::shared_ptr<runner::WorkQueue> queue() const {
    try {
      if (!owner_->messages) owner_->messages = std::make_shared<runner::WorkQueue>(executor_, runner::kMessageWork);
    } catch (const runner::RunnerError&) {
    }
    return owner_->messages;
  }

  asio::any_io_executor executor_;
  std::shared_ptr<Owner> owner_;
};

}  // namespace cwsandbox::gateway
