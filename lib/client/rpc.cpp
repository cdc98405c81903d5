#include "client/rpc.hpp"

#include "base/hex.hpp"
#include "base/random.hpp"
#include "client/errors.hpp"
#include "protocol/connect.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <random>
#include <span>

namespace cwsandbox::client {

using Clock = std::chrono::steady_clock;

std::optional<RetryPolicy::Duration> next_retry(const RetryPolicy& policy, const RetryAttempt& attempt,
                                                const std::exception_ptr& error) {
  std::optional<std::chrono::milliseconds> hint;
  try {
    std::rethrow_exception(error);
  } catch (const SandboxUnavailableError& e) {
    hint = e.retry_delay();
  } catch (const SandboxRequestTimeoutError& e) {
    hint = e.retry_delay();
  } catch (const SandboxResourceExhaustedError& e) {
    hint = e.retry_delay();
  } catch (...) {
    return std::nullopt;
  }
  RetryPolicy::Duration delay;
  if (hint) {
    delay = std::clamp<RetryPolicy::Duration>(*hint, RetryPolicy::Duration::zero(), policy.max_hint);
  } else {
    // Decorrelated jitter: somewhere between the base and three times the last delay.
    const auto upper = std::max(policy.base, attempt.previous_delay * 3);
    delay = policy.base + std::chrono::duration_cast<RetryPolicy::Duration>((upper - policy.base) * attempt.random);
    delay = std::min(delay, policy.max_delay);
  }
  if (attempt.since_first_failure + delay > policy.budget) return std::nullopt;
  return delay;
}

Retries::Retries(const Backend& backend, std::string operation, std::string sandbox_id, std::string process_id)
    : policy_(backend.retry_policy()), observer_(backend.observer()) {
  if (!observer_) return;
  event_.kind = TraceEvent::Kind::retry;
  event_.operation = std::move(operation);
  event_.sandbox_id = std::move(sandbox_id);
  event_.process_id = std::move(process_id);
}

std::optional<RetryPolicy::Duration> Retries::next(const std::exception_ptr& error) {
  static thread_local std::minstd_rand generator{std::random_device{}()};
  const auto now = Clock::now();
  if (!first_failure_) first_failure_ = now;
  RetryAttempt attempt;
  attempt.since_first_failure = now - *first_failure_;
  attempt.previous_delay = previous_;
  attempt.random = std::uniform_real_distribution<double>(0.0, 1.0)(generator);
  const auto delay = next_retry(policy_, attempt, error);
  if (delay) previous_ = *delay;
  if (delay && observer_) {
    ++event_.attempt;
    event_.delay = *delay;
    event_.error = text_of(error);
    observer_->tell(event_);
  }
  return delay;
}

namespace {

asio::awaitable<std::string> call_once(std::shared_ptr<Backend> backend, std::string target, std::string body,
                                       std::chrono::milliseconds timeout, Repeat repeat, std::chrono::milliseconds margin) {
  net::HttpRequest request;
  request.repeatable = repeat == Repeat::always;
  request.target = std::move(target);
  request.body = std::move(body);
  request.headers.emplace_back("Content-Type", "application/json");
  request.headers.emplace_back("Connect-Protocol-Version", "1");
  request.headers.emplace_back("Connect-Timeout-Ms", std::to_string(timeout.count()));
  backend->authorize(request.headers);
  auto answer = co_await backend->http().request(std::move(request), Clock::now() + timeout + margin);
  if (answer.status != 200) std::rethrow_exception(make_error(protocol::decode_error(answer.status, answer.body)));
  co_return std::move(answer.body);
}

}  // namespace

asio::awaitable<std::string> call(std::shared_ptr<Backend> backend, std::string method, std::string body,
                                  std::chrono::milliseconds timeout, Repeat repeat, std::chrono::milliseconds margin) {
  const auto ready = backend->ready();
  co_await wait_for(ready);
  const std::string target = method.front() == '/' ? method : "/coreweave.sandbox.v1.SandboxService/" + method;
  Retries retries(*backend, method);
  for (;;) {
    std::exception_ptr error;
    bool done_perhaps = false;
    try {
      co_return co_await call_once(backend, target, body, timeout, repeat, margin);
    } catch (const net::TransportError& lost) {
      done_perhaps = lost.sent();
      error = from_transport(std::current_exception());
    } catch (const SandboxRequestTimeoutError&) {  // the server gave up while it was doing it
      done_perhaps = true;
      error = std::current_exception();
    } catch (...) {
      error = std::current_exception();
    }
    if (done_perhaps && repeat == Repeat::if_unsent) std::rethrow_exception(error);
    const auto delay = retries.next(error);
    if (!delay) std::rethrow_exception(error);
    co_await pause(*delay);
  }
}

asio::awaitable<std::string> call(std::shared_ptr<Backend> backend, std::string method, std::string body) {
  const auto timeout = backend->settings().request_timeout;
  return call(std::move(backend), std::move(method), std::move(body), timeout);
}

asio::awaitable<void> wait_for(task<void> ready) {
  if (!ready.done()) co_await ready.async_wait(asio::use_awaitable);
  ready.get();
}

asio::awaitable<void> pause(std::chrono::steady_clock::duration delay) {
  asio::steady_timer timer(co_await asio::this_coro::executor, delay);
  co_await timer.async_wait(asio::use_awaitable);
}

std::string make_uuid() {
  // Taken from the kernel in larger helpings: an exec needs one, and a system call each would show.
  struct Pool {
    unsigned char bytes[512];
    std::size_t used = sizeof bytes;
    pid_t owner = 0;
  };
  static thread_local Pool pool;
  const pid_t self = ::getpid();  // the child of a fork must not give out its parent's names
  if (pool.used + 16 > sizeof pool.bytes || pool.owner != self) {
    base::fill_random(pool.bytes);
    pool.used = 0;
    pool.owner = self;
  }
  unsigned char* id = pool.bytes + pool.used;
  pool.used += 16;
  id[6] = static_cast<unsigned char>((id[6] & 0x0fU) | 0x40U);
  id[8] = static_cast<unsigned char>((id[8] & 0x3fU) | 0x80U);
  std::string text = base::to_hex(std::span(id, 16));
  for (const std::size_t at : {8U, 13U, 18U, 23U}) text.insert(at, 1, '-');
  return text;
}

}  // namespace cwsandbox::client
