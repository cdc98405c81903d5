// Exec over WebSocket: connections, the processes that outlive them, and the table that brings the two together.
#pragma once

#include "gateway/context.hpp"
#include "gateway/fingerprint.hpp"
#include "gateway/output_spill.hpp"
#include "gateway/process_run.hpp"
#include "gateway/sandboxes.hpp"
#include "gateway/tokens.hpp"
#include "net/websocket.hpp"
#include "protocol/exec_stream.hpp"

#include <boost/asio/steady_timer.hpp>

#include <array>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace cwsandbox::gateway {

class ExecConnection;
class ExecTable;

/// What a connection talks to between a start and its release: a process, or a refusal.
class StreamHost {
 public:
  explicit StreamHost(const protocol::StartRequest& request) : stream_(request) {}
  virtual ~StreamHost() = default;
  StreamHost(const StreamHost&) = delete;
  StreamHost& operator=(const StreamHost&) = delete;

  virtual void on_message(ExecConnection& connection, std::uint8_t channel, std::string_view payload) = 0;
  virtual void on_written() {}
  /// The connection is lost or was closed; nothing of ours is being written any more.
  virtual void on_connection_gone(ExecConnection& connection) = 0;
  /// The peer broke the rules of the WebSocket or of the stream.
  virtual void on_violation() {}
  [[nodiscard]] protocol::ExecServerStream& stream() noexcept { return stream_; }

 protected:
  protocol::ExecServerStream stream_;
};

/// An answer to a start or resume that leads to no process.
class Refusal final : public StreamHost {
 public:
  Refusal(const protocol::StartRequest& request, const protocol::StatusError& error);
  void on_message(ExecConnection& connection, std::uint8_t channel, std::string_view payload) override;
  void on_connection_gone(ExecConnection&) override {}
};

/// A process with its stream. Connections come and go; the newest one wins. While there is none, the process goes on: what it
/// writes is kept on disk behind what its stream holds (docs/decisions/0008-output-without-a-client.md).
class ExecProcess final : public ProcessRun, public StreamHost {
 public:
  ExecProcess(std::shared_ptr<Context> context, ExecTable& table, std::shared_ptr<SandboxRecord> sandbox,
              const protocol::StartRequest& request);
  ~ExecProcess() override;

  struct Attach {
    protocol::ResumeRequest request;
    bool resume = false;  // otherwise a repeated start: nothing was received
  };
  /// The first connection.
  void attach_first(const std::shared_ptr<ExecConnection>& connection);
  /// A later one; takes effect once nothing is being written to the one before.
  void attach(const std::shared_ptr<ExecConnection>& connection, const Attach& how);
  /// Its table is going away.
  void orphaned_for_good() noexcept;

  void on_message(ExecConnection& connection, std::uint8_t channel, std::string_view payload) override;
  void on_written() override { advance(); }
  void on_connection_gone(ExecConnection& connection) override;
  void on_violation() override;

 protected:
  std::size_t room(Output output) override;
  void on_started(std::uint64_t pid) override;
  void on_output(Output output, std::string chunk) override;
  void on_output_end(Output output, bool abandoned) override;
  void on_ended(const protocol::ExitStatus& status) override;
  void on_stdin_consumed(std::size_t bytes, std::uint64_t arrived) override;
  void on_stdin_closed(std::uint64_t arrived) override;
  void on_refused(const protocol::ConnectError& error) override;
  void on_finished(const protocol::ExitStatus& status) override;

 private:
  friend class ExecTable;
  /// Counts what larger windows than the usual take in the part of its owner. An error: there is not so much left.
  [[nodiscard]] std::optional<protocol::StatusError> reserve(const protocol::ResumeRequest& request);
  void attach_now(const std::shared_ptr<ExecConnection>& connection, const Attach& how);
  void become_orphan();
  void refuse(ExecConnection& connection, const protocol::StatusError& error) const;
  void wake();
  void hold_ends();
  /// The stream has more room, or the process more to do: what lies on disk goes first.
  void advance();
  [[nodiscard]] bool refill(Output output);
  void give_up(int error);
  [[nodiscard]] std::uint64_t stream_room(Output output);
  [[nodiscard]] OutputSpill& spill(Output output) noexcept { return spills_[static_cast<std::size_t>(output)]; }
  [[nodiscard]] std::shared_ptr<ExecProcess> self() { return std::static_pointer_cast<ExecProcess>(shared_from_this()); }

  std::shared_ptr<Context> context_;
  ExecTable* table_;      // null once forgotten
  Digest fingerprint_{};  // of the request, by which a repeated start is known; the table's
  std::shared_ptr<ExecConnection> connection_;
  std::shared_ptr<ExecConnection> next_;  // waits for connection_ to let go
  Attach next_how_;
  net::MemoryShare windows_;
  std::uint64_t attempt_ = 0;  // of the newest connection seen
  asio::steady_timer orphan_timer_, hold_timer_;
  bool holding_ends_ = false;
  std::array<OutputSpill, 2> spills_;
  std::array<bool, 2> end_waits_{};  // the end of an output comes behind what lies on disk
  std::optional<protocol::ExitStatus> exit_waits_;
  std::optional<std::list<ExecProcess*>::iterator> orphan_at_;
};

/// One WebSocket: reads without ever waiting for a stream, writes one message at a time, control before data.
class ExecConnection : public std::enable_shared_from_this<ExecConnection> {
 public:
  ExecConnection(std::shared_ptr<Context> context, ExecTable& table, std::shared_ptr<const Credential> credential,
                 std::unique_ptr<net::WebSocket> socket);

  void start() { read(); }
  void set_host(std::shared_ptr<StreamHost> host);
  /// The process was released, or taken over: ready for the next first message.
  void drop_host() { host_.reset(); }
  void resume_reading();
  void pump();
  /// Says why, then closes. What is being written may finish, for a moment.
  void close(protocol::CloseCode code, std::string_view reason);
  void abort() noexcept;
  [[nodiscard]] bool open() const noexcept { return open_; }
  [[nodiscard]] const Credential& credential() const noexcept { return *credential_; }
  [[nodiscard]] bool idle() const noexcept { return !host_ && !paused_; }
  /// No read until `resume_reading`: the first message cannot be acted on yet.
  void pause() { paused_ = true; }

 private:
  void read();
  void on_read(error_code ec);
  void on_first_message();
  static asio::awaitable<void> read_large_first_message(std::shared_ptr<ExecConnection> self);
  void act_on(const protocol::FirstMessage& first);
  void after_message();
  void on_written(error_code ec);
  void lost();
  void issue_close();
  void release_host();
  void settle();

  std::shared_ptr<Context> context_;
  ExecTable* table_;
  std::shared_ptr<const Credential> credential_;
  std::unique_ptr<net::WebSocket> socket_;
  net::IncomingMessage message_;
  std::shared_ptr<StreamHost> host_;
  std::shared_ptr<StreamHost> writing_;  // whose message is being written: its bytes must stay
  asio::steady_timer close_timer_;
  std::optional<std::pair<protocol::CloseCode, std::string>> close_wanted_;
  std::chrono::steady_clock::time_point begin_;
  std::uint64_t bytes_in_ = 0, bytes_out_ = 0;
  bool open_ = true, reading_ = false, paused_ = false, closing_ = false, closed_ = false;
};

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
  void abort_all() noexcept;
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
