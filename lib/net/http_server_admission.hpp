// Which connections the server has and which of them have to go when there are too many, and what peers may make it hold. No
// socket, no clock: what a connection does is up to the session.
#pragma once

#include "net/http_server.hpp"
#include "net/memory_pool.hpp"

#include <cstddef>
#include <limits>
#include <list>
#include <memory>
#include <vector>

namespace cwsandbox::net {

/// Counts connections and bytes, over all and of each client. Not thread safe. Connections keep it beyond the server's end.
class Admission : public std::enable_shared_from_this<Admission> {
 public:
  class Connection;

  explicit Admission(const ServerLimits& limits);
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  // ---- Coming and going ---

  /// Whether there is room for one connection more, which may have cost another its place.
  [[nodiscard]] bool room_for_one() noexcept { return seats_ < limits_.max_connections || make_room(); }
  /// Drops the connection that matters least. False when all are at work for clients.
  bool make_room() noexcept;
  /// A new connection, a stranger's until it is known whose it is.
  void enter(std::shared_ptr<Connection> connection);
  /// The connection has ended. A WebSocket that has taken its seat along keeps it.
  void leave(Connection& connection) noexcept;

  /// Whose request has come over this connection (null: a stranger's), which counts as that client's from here on. False, and it
  /// counts as whose it was, when that client has too many.
  [[nodiscard]] bool belongs_to(Connection& connection, std::shared_ptr<ClientAccount> account);
  /// Of a client's connection: between two requests it may have to give way, within one it may not. A stranger's always may.
  void between_requests(Connection& connection) noexcept;
  void within_request(Connection& connection) noexcept;
  /// It does not give way any more, whoever's it is.
  void keep(Connection& connection) noexcept { move_to(connection, working_); }

  // ---- Memory ---

  /// Counts bytes that a request makes us hold, until `give_back`. False when there is no room for them, or none for this
  /// connection.
  [[nodiscard]] bool charge(Connection& connection, std::size_t bytes) noexcept;
  /// At most what is counted.
  void give_back(Connection& connection, std::size_t most = std::numeric_limits<std::size_t>::max()) noexcept;
  /// What messages of a WebSocket on this connection count in.
  [[nodiscard]] std::shared_ptr<MemoryPool> memory_of(const Connection& connection) const;

  // ---- All of them ---

  [[nodiscard]] std::vector<std::shared_ptr<Connection>> all() const;
  [[nodiscard]] bool empty() const noexcept { return strangers_.empty() && idle_.empty() && working_.empty(); }
  /// Seats that are taken: WebSockets have one, a connection that was dropped has none.
  [[nodiscard]] std::size_t seats() const noexcept { return seats_; }
  /// The server is gone: no connection is kept here any more. Each of them keeps this.
  void forget() noexcept;

 private:
  using Connections = std::list<std::shared_ptr<Connection>>;

  // Counts as a connection for as long as it lives, or until it is given up.
  class Seat {
   public:
    explicit Seat(std::shared_ptr<Admission> admission) : admission_(std::move(admission)) { ++admission_->seats_; }
    ~Seat() { leave(); }
    Seat(const Seat&) = delete;
    Seat& operator=(const Seat&) = delete;
    void assign(std::shared_ptr<ClientAccount> to) noexcept;
    void leave() noexcept;
    [[nodiscard]] const std::shared_ptr<ClientAccount>& account() const noexcept { return account_; }
    [[nodiscard]] bool counted() const noexcept { return counted_; }

   private:
    std::shared_ptr<Admission> admission_;
    std::shared_ptr<ClientAccount> account_;  // null: a stranger's
    bool counted_ = true;
  };

  static void move_to(Connection& connection, Connections& list) noexcept;
  void shed(const std::shared_ptr<Connection>& connection) noexcept;
  [[nodiscard]] bool make_room_of(const std::shared_ptr<ClientAccount>& account) noexcept;

  const ServerLimits limits_;
  // By who is the first to go when there are too many. The oldest stands in front: of the strangers the one whose last request, or
  // whose arrival, is longest ago, of the idle ones the one that has been silent longest.
  Connections strangers_, idle_, working_;
  std::size_t seats_ = 0;
  MemoryPool stranger_memory_;
  const std::shared_ptr<MemoryPool> client_memory_ = std::make_shared<MemoryPool>();
};

/// A connection, as far as others may be in its way and it in theirs.
class Admission::Connection {
 public:
  Connection() = default;
  virtual ~Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Closes it. Where it gives way to others its seat is free by then, and nothing is counted for it any more.
  virtual void drop() noexcept = 0;

  /// False once it has been dropped: whatever it still does is of no interest.
  [[nodiscard]] bool seated() const noexcept { return seat_ && seat_->counted(); }
  /// Whose it is; null: a stranger's.
  [[nodiscard]] std::shared_ptr<ClientAccount> account() const noexcept { return seat_ ? seat_->account() : nullptr; }
  /// Counts as a connection for as long as somebody has it.
  [[nodiscard]] std::shared_ptr<void> seat() const noexcept { return seat_; }

 private:
  friend Admission;
  std::shared_ptr<Seat> seat_;
  Connections* list_ = nullptr;  // the one that it stands in; null once the server is gone
  Connections::iterator place_;
  std::shared_ptr<ClientAccount> payer_;  // of `held_`; null: the strangers
  std::size_t held_ = 0;                  // bytes of the request under way
};

}  // namespace cwsandbox::net
