#include <cwsandbox/wait.hpp>

#include "core/loop.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include <algorithm>

namespace cwsandbox {

WaitItem::WaitItem(const Process& item) : state_(item.state()), process_(std::make_shared<const Process>(item)) { check(); }
WaitItem::WaitItem(const Sandbox& item) : sandbox_(std::make_shared<const Sandbox>(item)) { check(); }

void WaitItem::check() const {
  if (!state_ && !(sandbox_ && sandbox_->valid()))
    throw std::invalid_argument("cwsandbox: an empty task or sandbox cannot be waited for");
}

std::shared_ptr<detail::TaskStateBase> WaitItem::begin() const { return sandbox_ ? sandbox_->wait().state() : state_; }

namespace detail {

namespace {

class WaitMany : public std::enable_shared_from_this<WaitMany> {
 public:
  WaitMany(const std::vector<WaitItem>& items, std::size_t wanted) : items_(items), wanted_(wanted) {}

  task<std::vector<std::size_t>> start(const WaitManyOptions& options) {
    std::vector<std::shared_ptr<TaskStateBase>> begun;
    for (const WaitItem& item : items_) begun.push_back(item.begin());
    state_ = std::make_shared<TaskState<std::vector<std::size_t>>>(begun.front()->loop());
    state_->set_cancel_hook([weak = weak_from_this()] {
      const auto self = weak.lock();
      return self && self->cancel();
    });
    {
      const std::lock_guard lock(mutex_);
      begun_ = begun;
    }
    // What is done already is, in the order of the list, ahead of all that is not.
    std::vector<std::size_t> open;
    for (std::size_t i = 0; i < begun.size(); ++i) {
      if (begun[i]->done())
        completed(i);
      else
        open.push_back(i);
    }
    if (options.timeout()) arm(*options.timeout());
    for (const std::size_t i : open) {
      if (state_->done()) break;
      auto executor = begun[i]->default_executor();
      begun[i]->add_waiter(WaitHandler([self = shared_from_this(), i](boost::system::error_code) { self->completed(i); }),
                           std::move(executor));
    }
    return task<std::vector<std::size_t>>(state_);
  }

 private:
  void arm(std::chrono::milliseconds timeout) {
    if (state_->done()) return;
    if (timeout <= std::chrono::milliseconds::zero()) return finish();
    const auto most = std::chrono::hours(24 * 365);  // further than any deadline that is meant, and the clock can hold it
    auto executor = state_->default_executor();
    auto timer = std::make_shared<asio::steady_timer>(executor, std::min<std::chrono::milliseconds>(timeout, most));
    timer->async_wait([self = shared_from_this(), timer](boost::system::error_code error) {
      if (!error) self->finish();
    });
    {
      const std::lock_guard lock(mutex_);
      if (!over_) timer_.swap(timer);
    }
    if (timer) disarm(std::move(timer));
  }

  void completed(std::size_t index) {
    {
      const std::lock_guard lock(mutex_);
      if (done_.size() >= wanted_) return;
      done_.push_back(index);
      if (done_.size() < wanted_) return;
    }
    finish();
  }

  void finish() {
    if (!state_->claim()) return;
    std::vector<std::size_t> done;
    {
      const std::lock_guard lock(mutex_);
      done = done_;
    }
    std::sort(done.begin(), done.end());
    let_go();
    state_->store(std::move(done));
  }

  bool cancel() {
    if (!state_->claim()) return false;
    let_go();
    state_->publish(cancelled_error());
    return true;
  }

  /// Waits for sandboxes are ours alone and end with us; nothing is kept any more.
  void let_go() {
    std::vector<std::shared_ptr<TaskStateBase>> begun;
    std::vector<WaitItem> items;
    std::shared_ptr<asio::steady_timer> timer;
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
      begun.swap(begun_);
      items.swap(items_);
      timer.swap(timer_);
    }
    for (std::size_t i = 0; i < begun.size(); ++i)
      if (items[i].sandbox()) begun[i]->cancel();
    if (timer) disarm(std::move(timer));
  }

  // Where its handler runs: a timer is not for several threads.
  static void disarm(std::shared_ptr<asio::steady_timer> timer) {
    const auto executor = timer->get_executor();
    asio::post(executor, [timer = std::move(timer)] { timer->cancel(); });
  }

  std::mutex mutex_;
  std::vector<WaitItem> items_;
  const std::size_t wanted_;
  bool over_ = false;
  std::vector<std::size_t> done_;
  std::vector<std::shared_ptr<TaskStateBase>> begun_;
  std::shared_ptr<asio::steady_timer> timer_;
  std::shared_ptr<TaskState<std::vector<std::size_t>>> state_;
};

}  // namespace

task<std::vector<std::size_t>> wait_many(const std::vector<WaitItem>& items, const WaitManyOptions& options) {
  if (options.num_returns() && *options.num_returns() < 1)
    throw std::invalid_argument("cwsandbox: wait(): num_returns must be at least 1");
  if (items.empty()) return make_ready_task(std::vector<std::size_t>());
  const auto wanted = std::min(options.num_returns().value_or(items.size()), items.size());
  return std::make_shared<WaitMany>(items, wanted)->start(options);
}

}  // namespace detail

task<WaitResult<WaitItem>> wait(std::initializer_list<WaitItem> items, WaitManyOptions options) {
  return wait(std::vector<WaitItem>(items), options);
}

}  // namespace cwsandbox
