// Takes what a sandbox's main command writes into its log, all the time and to the end.
#pragma once

#include "gateway/budgets.hpp"
#include "gateway/context.hpp"
#include "gateway/log_store.hpp"
#include "runner/runner.hpp"

#include <boost/asio/steady_timer.hpp>

#include <array>
#include <chrono>
#include <functional>
#include <memory>

namespace cwsandbox::gateway {

class MainOutput : public std::enable_shared_from_this<MainOutput> {
 public:
  /// \param budgets of the sandbox's owner, whose main commands have one rate together
  MainOutput(std::shared_ptr<Context> context, std::shared_ptr<Budgets> budgets, std::shared_ptr<LogStore> store);

  /// The sources live until `stop` or the end of both.
  void start(runner::ByteSource& out, runner::ByteSource& err);
  /// The main command has ended. Calls `done` once, maybe at once, when both outputs were read to their ends, or a little later
  /// when somebody holds them open.
  void drain(std::function<void()> done);
  /// Reads no more.
  void stop() noexcept;

 private:
  struct State {
    runner::ByteSource* source = nullptr;  // null at its end
    bool waiting = false;
    int quick = 0;  // readings in a row that came soon after the one before
    std::chrono::steady_clock::time_point last{};
    std::optional<asio::steady_timer> gather;
  };
  void pump(std::size_t which);
  void wait(std::size_t which);
  void rest(std::size_t which, std::chrono::nanoseconds time);
  void ended(std::size_t which);
  void finish();

  std::shared_ptr<Context> context_;
  std::shared_ptr<Budgets> budgets_;
  std::shared_ptr<LogStore> store_;
  std::array<State, 2> states_;
  asio::steady_timer deadline_;
  std::function<void()> done_;
};

}  // namespace cwsandbox::gateway
