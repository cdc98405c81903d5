// The process of an exec stream, which outlives the connections that its client has to it.
#pragma once

#include "gateway/context.hpp"
#include "gateway/fingerprint.hpp"
#include "gateway/output_spill.hpp"
#include "gateway/process_run.hpp"
#include "gateway/sandboxes.hpp"
#include "gateway/stream_host.hpp"
#include "net/memory_pool.hpp"
#include "protocol/exec_stream.hpp"

#include <boost/asio/steady_timer.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::gateway {

class ExecConnection;
class ExecTable;

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

}  // namespace cwsandbox::gateway
