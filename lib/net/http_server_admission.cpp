#include "net/http_server_admission.hpp"

#include <algorithm>
#include <utility>

namespace cwsandbox::net {

Admission::Admission(const ServerLimits& limits) : limits_(limits) {
  stranger_memory_.set_limit(limits.max_stranger_memory);
  client_memory_->set_limit(limits.max_client_memory);
}

void Admission::Seat::assign(std::shared_ptr<ClientAccount> to) noexcept {
  if (account_) --account_->connections;
  account_ = std::move(to);
  if (account_) ++account_->connections;
}

void Admission::Seat::leave() noexcept {
  assign(nullptr);
  if (counted_) --admission_->seats_;
  counted_ = false;
}

// ---- Coming and going -------------------------------------------------------------------------------------------------------

void Admission::move_to(Connection& connection, Connections& list) noexcept {
  if (connection.list_ == nullptr) return;  // the server is gone
  list.splice(list.end(), *connection.list_, connection.place_);
  connection.list_ = &list;
}

// Ends a connection for the sake of others. Its seat is free at once; what belongs to it goes when its coroutine has seen it.
void Admission::shed(const std::shared_ptr<Connection>& connection) noexcept {
  move_to(*connection, working_);
  give_back(*connection);
  if (connection->seat_) connection->seat_->leave();
  connection->drop();
}

bool Admission::make_room() noexcept {
  Connections& from = strangers_.empty() ? idle_ : strangers_;
  if (from.empty()) return false;
  const auto connection = from.front();
  shed(connection);
  return true;
}

bool Admission::make_room_of(const std::shared_ptr<ClientAccount>& account) noexcept {
  const auto at = std::find_if(idle_.begin(), idle_.end(), [&account](const auto& each) { return each->account() == account; });
  if (at == idle_.end()) return false;
  const auto connection = *at;
  shed(connection);
  return true;
}

void Admission::enter(std::shared_ptr<Connection> connection) {
  Connection& entered = *connection;
  entered.seat_ = std::make_shared<Seat>(shared_from_this());
  entered.place_ = strangers_.insert(strangers_.end(), std::move(connection));
  entered.list_ = &strangers_;
}

void Admission::leave(Connection& connection) noexcept {
  give_back(connection);
  connection.seat_.reset();
  if (connection.list_ == nullptr) return;
  std::exchange(connection.list_, nullptr)->erase(connection.place_);
}

bool Admission::belongs_to(Connection& connection, std::shared_ptr<ClientAccount> account) {
  Seat& seat = *connection.seat_;
  if (!seat.counted()) return true;  // shed; it sees that soon enough
  give_back(connection);
  if (seat.account() != account) {
    if (account && account->connections >= limits_.connections_of_one() && !make_room_of(account)) return false;
    if (account) {
      account->memory.set_limit(limits_.memory_of_one());
      account->memory.make_part_of(client_memory_);
    }
    seat.assign(std::move(account));
  }
  move_to(connection, seat.account() ? working_ : strangers_);
  return true;
}

void Admission::between_requests(Connection& connection) noexcept {
  if (connection.account()) move_to(connection, idle_);
}

void Admission::within_request(Connection& connection) noexcept {
  if (connection.account()) move_to(connection, working_);
}

// ---- Memory -----------------------------------------------------------------------------------------------------------------

bool Admission::charge(Connection& connection, std::size_t bytes) noexcept {
  if (!connection.seated()) return false;
  if (const auto account = connection.account()) {
    if (!account->memory.take(bytes)) return false;
    connection.payer_ = account;
  } else {
    while (!stranger_memory_.take(bytes)) {
      if (strangers_.empty()) return false;
      const auto oldest = strangers_.front();
      shed(oldest);
      if (!connection.seated()) return false;
    }
  }
  connection.held_ += bytes;
  return true;
}

void Admission::give_back(Connection& connection, std::size_t most) noexcept {
  const std::size_t bytes = std::min(connection.held_, most);
  connection.held_ -= bytes;
  if (connection.payer_) {
    connection.payer_->memory.give(bytes);
    if (connection.held_ == 0) connection.payer_.reset();
  } else {
    stranger_memory_.give(bytes);
  }
}

std::shared_ptr<MemoryPool> Admission::memory_of(const Connection& connection) const {
  const auto account = connection.account();
  return account ? std::shared_ptr<MemoryPool>(account, &account->memory) : client_memory_;
}

// ---- All of them ------------------------------------------------------------------------------------------------------------

std::vector<std::shared_ptr<Admission::Connection>> Admission::all() const {
  std::vector<std::shared_ptr<Connection>> out;
  for (const Connections* list : {&strangers_, &idle_, &working_}) out.insert(out.end(), list->begin(), list->end());
  return out;
}

void Admission::forget() noexcept {
  for (Connections* list : {&strangers_, &idle_, &working_}) {
    for (const auto& connection : *list) connection->list_ = nullptr;
    list->clear();
  }
}

}  // namespace cwsandbox::net
