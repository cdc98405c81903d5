// Exec over WebSocket: the table that brings connections and the processes that outlive them together.
#pragma once

#include "gateway/context.hpp"
#include "gateway/exec_connection.hpp"
#include "gateway/exec_process.hpp"
#include "gateway/sandboxes.hpp"
#include "gateway/tokens.hpp"
#include "net/websocket.hpp"
#include "protocol/exec_stream.hpp"

#include <cstddef>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace cwsandbox::gateway {

/// Ids of processes that were given up unreleased: a late repetition of their start must not run them again (P7).
class UsedIds {
 public:
  /// Keeps the newest `most`.
  void insert(const std::string& id, std::size_t most);
  [[nodiscard]] bool contains(const std::string& id) const { return ids_.contains(id); }

 private:
  std::unordered_set<std::string> ids_;
  std::deque<std::string> order_;  // oldest first
};

/// The connections, and the processes by id. A first message leads its connection to the process that it names, to one that it
/// starts, or to a Refusal.
class ExecTable {
 public:
  ExecTable(std::shared_ptr<Context> context, std::shared_ptr<Sandboxes> sandboxes)
      : context_(std::move(context)), sandboxes_(std::move(sandboxes)) {}
  ~ExecTable();
  ExecTable(const ExecTable&) = delete;
  ExecTable& operator=(const ExecTable&) = delete;

  void accept(std::shared_ptr<const Credential> credential, std::unique_ptr<net::WebSocket> socket);
  void on_start(const std::shared_ptr<ExecConnection>& connection, const protocol::StartRequest& request);
  void on_resume(const std::shared_ptr<ExecConnection>& connection, const protocol::ResumeRequest& request);

  /// The client has everything, or will never come back: its id is free, or remembered as used.
  void forget(ExecProcess& process, bool released);
  void add_orphan(ExecProcess& process);
  void remove_orphan(ExecProcess& process);
  void remove(ExecConnection& connection);

  [[nodiscard]] std::size_t connections() const noexcept { return connections_.size(); }
  [[nodiscard]] std::size_t busy_connections() const noexcept;
  [[nodiscard]] std::size_t orphans() const noexcept { return orphans_.size(); }
  void close_idle();
  void close_all();
  /// Closes the connections whose token has been taken away.
  void close_revoked();
  void drop_all() noexcept;

 private:
  void refuse(const std::shared_ptr<ExecConnection>& connection, const protocol::StartRequest& request,
              const protocol::StatusError& error);
  std::shared_ptr<Context> context_;
  std::shared_ptr<Sandboxes> sandboxes_;
  std::unordered_map<std::string, std::shared_ptr<ExecProcess>> processes_;  // by owner and id
  std::unordered_map<ExecConnection*, std::shared_ptr<ExecConnection>> connections_;
  std::list<ExecProcess*> orphans_;  // oldest first
  // By owner, so that nobody drives out what another must not run again.
  std::map<std::weak_ptr<Owner>, UsedIds, std::owner_less<>> used_;
};

}  // namespace cwsandbox::gateway
