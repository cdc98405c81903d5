#include "gateway/main_output.hpp"

#include <boost/asio/error.hpp>

namespace cwsandbox::gateway {

namespace {

// After the end of the main command everything in the sandbox is dead, and its pipes end by themselves.
constexpr std::chrono::seconds kMainDrain{2};
// More than the largest pipe: a busy output is read empty in one go, so that its lines are not torn by the other output.
constexpr int kMainChunksPerTurn = 16;
// An output that is written to so often is read when something has gathered, not for every line.
constexpr std::chrono::milliseconds kSoon{1};
constexpr int kManyQuick = 8;

}  // namespace

MainOutput::MainOutput(std::shared_ptr<Context> context, std::shared_ptr<Budgets> budgets, std::shared_ptr<LogStore> store)
    : context_(std::move(context)), budgets_(std::move(budgets)), store_(std::move(store)), deadline_(context_->executor) {}

void MainOutput::start(runner::ByteSource& out, runner::ByteSource& err) {
  states_[0].source = &out;
  states_[1].source = &err;
  wait(0);
  wait(1);
}

void MainOutput::pump(std::size_t which) {
  State& s = states_[which];
  const auto now = std::chrono::steady_clock::now();
  // Of a command that has ended only what is in its pipes is left, and that has its deadline.
  if (const auto early = budgets_->log_wait(now); early && !done_)
    return rest(which, std::max<std::chrono::nanoseconds>(*early, kSoon));
  std::size_t taken = 0;
  std::string buffer = context_->buffers.get();
  for (int turn = 0; turn < kMainChunksPerTurn; ++turn) {
    error_code ec;
    const std::size_t n = s.source->try_read(asio::buffer(buffer.data(), buffer.size()), ec);
    if (n > 0) {
      store_->append(std::string_view(buffer.data(), n), std::chrono::system_clock::now());
      taken += n;
      continue;
    }
    context_->buffers.put(std::move(buffer));
    budgets_->took_log(taken, now);
    if (ec != asio::error::would_block) return ended(which);
    s.quick = taken > 0 && now - s.last < 2 * kSoon ? s.quick + 1 : 0;
    s.last = now;
    if (s.quick >= kManyQuick) {
      rest(which, kSoon);
    } else {
      wait(which);
    }
    return;
  }
  context_->buffers.put(std::move(buffer));
  budgets_->took_log(taken, now);
  wait(which);
}

void MainOutput::wait(std::size_t which) {
  State& s = states_[which];
  if (s.source == nullptr || s.waiting) return;
  s.waiting = true;
  s.source->async_wait([weak = weak_from_this(), which](error_code ec) {
    const auto self = weak.lock();
    if (!self || self->states_[which].source == nullptr) return;
    self->states_[which].waiting = false;
    if (ec) {
      self->ended(which);
    } else {
      self->pump(which);
    }
  });
}

void MainOutput::rest(std::size_t which, std::chrono::nanoseconds time) {
  State& s = states_[which];
  s.waiting = true;
  if (!s.gather) s.gather.emplace(context_->executor);
  s.gather->expires_after(time);
  s.gather->async_wait([weak = weak_from_this(), which](error_code) {
    const auto self = weak.lock();
    if (!self || self->states_[which].source == nullptr) return;
    self->states_[which].waiting = false;
    self->pump(which);
  });
}

void MainOutput::ended(std::size_t which) {
  const auto self = shared_from_this();
  std::exchange(states_[which].source, nullptr)->close();
  if (states_[0].source == nullptr && states_[1].source == nullptr) finish();
}

void MainOutput::drain(std::function<void()> done) {
  const auto self = shared_from_this();
  done_ = std::move(done);
  for (const std::size_t which : {std::size_t{0}, std::size_t{1}}) {
    if (states_[which].source == nullptr) continue;
    if (states_[which].gather) states_[which].gather->cancel();  // nothing rests any more
    pump(which);
  }
  if (states_[0].source == nullptr && states_[1].source == nullptr) return finish();
  deadline_.expires_after(kMainDrain);
  deadline_.async_wait([weak = weak_from_this()](error_code ec) {
    if (ec) return;
    const auto late = weak.lock();
    if (!late) return;
    late->stop();
    late->finish();
  });
}

void MainOutput::finish() {
  deadline_.cancel();
  if (auto done = std::exchange(done_, nullptr)) {
    store_->finish();
    done();
  }
}

void MainOutput::stop() noexcept {
  for (State& s : states_) {
    if (s.source != nullptr) s.source->close();
    s.source = nullptr;
    if (s.gather) s.gather->cancel();
  }
  deadline_.cancel();
}

}  // namespace cwsandbox::gateway
