// The runner's end of the socket to a sandbox's agent.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "runner/local/agent_protocol.hpp"
#include "runner/local/unique_fd.hpp"

namespace cwsandbox::runner::local {

/// Reads notes and the descriptors that come with them, and sends requests. The agent is not trusted: whatever it sends gives
/// either a note or one call of `on_lost`. A note comes with fewer descriptors than it announces when this process could not take
/// more. Runs on the executor alone; not thread safe.
class AgentConnection : public std::enable_shared_from_this<AgentConnection> {
 public:
  using NoteHandler = std::function<void(agent::Type, const agent::Note&, std::span<UniqueFd>)>;
  using LostHandler = std::function<void(std::string_view why)>;

  /// Requests that the agent has not taken yet.
  static constexpr std::size_t kMaxQueued = 32u << 20;

  /// `socket` is made nonblocking and told to pass credentials.
  AgentConnection(const boost::asio::any_io_executor& executor, UniqueFd socket);

  /// The handlers are called from the executor, never from inside another call of this class. `on_lost` is called at most once,
  /// and not after `close`.
  void open(NoteHandler on_note, LostHandler on_lost);
  /// False when the queue is full; a connection that is closed swallows what it is given.
  [[nodiscard]] bool send(std::string_view frame);
  void close() noexcept;

  /// The agent's number outside the sandbox, once the first note has come; 0 before.
  [[nodiscard]] pid_t peer() const noexcept { return peer_; }

 private:
  void wait_readable();
  void wait_writable();
  void on_readable();
  void receive_descriptors(struct msghdr& message);
  bool take_notes();
  void lose(std::string_view why);

  boost::asio::posix::stream_descriptor socket_;
  NoteHandler on_note_;
  LostHandler on_lost_;
  bool closed_ = false;
  bool writing_ = false;
  pid_t peer_ = 0;
  std::string queued_;
  std::array<char, 4096> in_;
  std::size_t in_used_ = 0;
  // Descriptors come with the last bytes of one read, so never more than one note's worth is waiting for its note.
  std::array<UniqueFd, agent::kMaxDescriptors> descriptors_;
  std::size_t descriptor_count_ = 0;
  bool too_many_ = false;
  bool missing_ = false;  // not all that were sent could be taken
  bool passing_credentials_ = true;
};

}  // namespace cwsandbox::runner::local
