#include "net/http_client_pool.hpp"

#include <iterator>
#include <utility>

namespace cwsandbox::net {

// What is dead is declared before the lock, so that it is destroyed outside of it.

std::unique_ptr<ClientConnection> ConnectionPool::borrow() {
  Connections dead;
  std::unique_ptr<ClientConnection> out;
  const std::lock_guard lock(mutex_);
  prune(dead);
  while (!idle_.empty() && !out) {
    if (idle_.back()->transport->quiet()) {
      out = std::move(idle_.back());
      idle_.pop_back();
    } else {
      dead.splice(dead.end(), idle_, std::prev(idle_.end()));
    }
  }
  return out;
}

void ConnectionPool::give_back(std::unique_ptr<ClientConnection> connection) {
  Connections dead;
  connection->idle_since = std::chrono::steady_clock::now();
  connection->buffer.shrink_to_fit();
  const std::lock_guard lock(mutex_);
  prune(dead);
  if (closed_ || max_idle_ == 0) {
    dead.push_back(std::move(connection));
    return;
  }
  idle_.push_back(std::move(connection));
  if (idle_.size() > max_idle_) dead.splice(dead.end(), idle_, idle_.begin());
}

void ConnectionPool::prune(Connections& dead) {
  const auto oldest = std::chrono::steady_clock::now() - idle_lifetime_;
  while (!idle_.empty() && idle_.front()->idle_since <= oldest) dead.splice(dead.end(), idle_, idle_.begin());
}

void ConnectionPool::clear(bool for_good) noexcept {
  Connections dead;
  const std::lock_guard lock(mutex_);
  closed_ = closed_ || for_good;
  dead.swap(idle_);
}

}  // namespace cwsandbox::net
