// The exec stream (docs/exec-stream.md) as two state machines without I/O: events in, events and messages out.
//
// Both machines work the same way. The owner feeds every message that arrives to `on_message` and acts on the event that it
// returns; it calls the `request`-like functions when its own side wants something; and whenever anything has happened it
// drains `next_message` into the connection, one message in flight at a time, telling `on_sent` when a write is complete.
// No function blocks, throws for a peer's fault, looks at a clock, or takes a lock: one machine belongs to one strand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace cwsandbox::protocol {

/// The subprotocol's name in `Sec-WebSocket-Protocol`, and the path that is upgraded.
inline constexpr std::string_view kExecSubprotocol = "v1.exec.cwsandbox";
inline constexpr std::string_view kExecPath = "/v1/exec";

/// First byte of every message. 0 to 4 and 255 are numbered as the Kubernetes remote-command protocol numbers them.
enum class Channel : std::uint8_t {
  std_in = 0,
  std_out = 1,
  std_err = 2,
  status = 3,   ///< server to client: started, exit, error
  resize = 4,   ///< client to server
  start = 5,    ///< client to server
  window = 6,   ///< both ways: absolute offsets, received and limit
  signal = 7,   ///< client to server: signal, cancel
  resume = 8,   ///< client to server: resume; server to client: resumed
  close = 255,  ///< both ways: end of one stream; payload is one byte, the stream's channel
};

inline constexpr std::size_t kMaxDataPayload = 64 * 1024;    ///< bytes of payload of a data message
inline constexpr std::size_t kMaxControlPayload = 64 * 1024;  ///< bytes of a control message other than start
inline constexpr std::size_t kMaxStartPayload = 4 * 1024 * 1024;  ///< start carries argv and env; the kernel's limit is about 2 MiB
inline constexpr std::size_t kMaxMessage = 1 + kMaxStartPayload;
inline constexpr std::uint64_t kDefaultWindow = 1024 * 1024;  ///< bytes per stream before the peer must grant more

/// WebSocket close codes that the exec stream uses.
enum class CloseCode : std::uint16_t {
  normal = 1000,
  going_away = 1001,      ///< the gateway shuts down
  protocol_error = 1002,  ///< a message broke the rules; the reason says which
  unsupported = 1003,     ///< a text message
  too_big = 1009,
  superseded = 4001,      ///< a newer connection took this process over
};

/// Why a peer is at fault. `reason` names the channel, field or offset; it fits a close frame (at most 123 bytes).
struct ProtocolError {
  CloseCode code = CloseCode::protocol_error;
  std::string reason;
};

/// Asks for a process. `id` (a UUID) makes it idempotent: the same id again attaches.
struct StartRequest {
  std::string id;
  std::string sandbox_id;
  std::vector<std::string> command;
  std::map<std::string, std::string> env;
  std::string cwd;               ///< empty: the sandbox's working directory
  bool use_stdin = false;        ///< false: the process reads end-of-file at once
  bool tty = false;
  std::uint16_t tty_width = 0, tty_height = 0;
  std::uint64_t timeout_ms = 0;  ///< 0: none. Enforced by the gateway from the moment the process has started.
  std::uint64_t grace_ms = 10'000;  ///< between SIGTERM and SIGKILL, for cancel and timeout
  std::uint64_t stdout_limit = kDefaultWindow, stderr_limit = kDefaultWindow;  ///< initial limits
};

/// How a process ended. Times are milliseconds since the Unix epoch, 0 when unknown.
struct ExitStatus {
  enum class Outcome : std::uint8_t {
    exited,     ///< `code` holds
    signaled,   ///< `signal` holds
    timed_out,  ///< the time limit passed and the group was killed; `code` or `signal` say how it went
    cancelled,  ///< asked for; ditto
    failed,     ///< never ran: `error_name` (an errno's name, e.g. ENOENT), `error_what` ("program", "cwd", "agent"), `message`
    lost,       ///< the sandbox ended or its agent died, nobody knows
  };
  Outcome outcome = Outcome::exited;
  std::optional<int> code;
  std::optional<int> signal;
  std::string error_name;
  std::string error_what;
  std::string message;
  std::uint64_t start_time_ms = 0;
  std::uint64_t end_time_ms = 0;
};

/// An error before a process exists (unknown sandbox, …), in the words of the Connect protocol.
struct StatusError {
  std::string code;      ///< e.g. "not_found"
  std::string message;
  std::string reason;    ///< e.g. "CWSANDBOX_SANDBOX_NOT_FOUND"; may be empty
  std::map<std::string, std::string> metadata;
  std::optional<std::uint64_t> retry_delay_ms;
};

/// One message to write: `head` then `body`, to be sent as one binary message. Both stay valid until `on_sent`.
struct OutMessage {
  std::string_view head;
  std::string_view body;
};

/// The sending half of one byte stream: keeps what the peer has not said it received, never passes the peer's limit.
class OutboundStream {
 public:
  explicit OutboundStream(std::uint64_t limit) noexcept : limit_(limit) {}

  /// Appends bytes (no copy). Precondition: not finished. Empty chunks are dropped.
  void push(std::string chunk);
  /// No more bytes will come; the end is sent after the last of them.
  void finish() noexcept { finished_ = true; }
  /// Drops what was not sent and sends the end at once (the reader of our bytes has gone).
  void abandon() noexcept;

  [[nodiscard]] bool has_data_to_send() const noexcept { return sent_ < end_ && sent_ < limit_; }
  [[nodiscard]] bool has_end_to_send() const noexcept { return finished_ && !end_sent_ && sent_ == end_; }
  /// The next run of bytes to send, at most `max`; counts it as sent and pins it until `on_sent`.
  [[nodiscard]] std::string_view take(std::size_t max);
  void mark_end_sent() noexcept { end_sent_ = true; }
  void on_sent() noexcept;
  /// The peer's word. Offsets only grow; a repeated or older message is harmless. False: it acknowledges bytes never sent.
  [[nodiscard]] bool on_window(std::uint64_t received, std::uint64_t limit);
  /// A new connection: sends again from `received`. False: those bytes are gone, or were never sent.
  [[nodiscard]] bool rewind(std::uint64_t received);

  [[nodiscard]] std::uint64_t end_offset() const noexcept { return end_; }      ///< bytes pushed
  [[nodiscard]] std::uint64_t sent_offset() const noexcept { return sent_; }
  [[nodiscard]] std::uint64_t acknowledged() const noexcept { return acknowledged_; }
  [[nodiscard]] std::uint64_t limit() const noexcept { return limit_; }
  [[nodiscard]] std::size_t buffered() const noexcept { return static_cast<std::size_t>(end_ - released_); }
  /// How many more bytes may be pushed so that nothing waits beyond the peer's limit.
  [[nodiscard]] std::uint64_t room() const noexcept { return limit_ > end_ ? limit_ - end_ : 0; }
  [[nodiscard]] bool finished() const noexcept { return finished_; }
  [[nodiscard]] bool end_sent() const noexcept { return end_sent_; }
  [[nodiscard]] bool all_acknowledged() const noexcept { return end_sent_ && acknowledged_ == end_; }
  /// Storage that `on_window` freed, to be used again for reading; empty when there is none.
  [[nodiscard]] std::string recycle();

 private:
  void release();
  std::deque<std::string> chunks_;  // bytes [released_, end_), front chunk starts at released_
  std::string spare_;
  std::uint64_t released_ = 0, acknowledged_ = 0, sent_ = 0, end_ = 0, limit_;
  std::uint64_t pinned_ = 0;        // offset where the run in flight starts
  bool in_flight_ = false, finished_ = false, end_sent_ = false;
};

/// The receiving half of one byte stream: counts, checks the limit, and says when the peer should hear a new one.
class InboundStream {
 public:
  explicit InboundStream(std::uint64_t window = kDefaultWindow) noexcept : window_(window), limit_(window) {}

  /// A reason when the message breaks the rules.
  [[nodiscard]] std::optional<std::string> on_data(std::size_t n, std::string_view stream_name);
  [[nodiscard]] bool on_end() noexcept;  ///< false: it had ended before
  void on_consumed(std::size_t n) noexcept { consumed_ += n; }

  /// True when at least half a window was consumed since the last word, or the stream has ended and its end is not acknowledged.
  [[nodiscard]] bool window_due() const noexcept;
  /// Notes that (received, limit) are being sent now.
  struct Word { std::uint64_t received, limit; };
  [[nodiscard]] Word say() noexcept;

  [[nodiscard]] std::uint64_t received() const noexcept { return received_; }
  [[nodiscard]] std::uint64_t consumed() const noexcept { return consumed_; }
  [[nodiscard]] bool ended() const noexcept { return ended_; }
  [[nodiscard]] std::uint64_t limit() const noexcept { return limit_; }

 private:
  std::uint64_t window_, limit_;
  std::uint64_t received_ = 0, consumed_ = 0, said_received_ = 0;
  bool ended_ = false, end_said_ = false;
};

// ---- events ----

struct Nothing {};
struct Started { std::uint64_t pid = 0; bool attached = false; };
/// Bytes of stdout or stderr (client) or stdin (server): the payload of the message just given, to be consumed or taken over.
struct Data { Channel stream; std::string_view bytes; };
struct EndOfStream { Channel stream; };
/// The peer has received stdin up to `offset` (client), output up to `offset` (server).
struct Acknowledged { Channel stream; std::uint64_t offset; };
struct Exited { ExitStatus status; };
struct Refused { StatusError error; };
struct Resumed { std::uint64_t stdin_received = 0; };
struct SignalRequest { std::string name; int number = 0; };
struct CancelRequest { std::optional<std::uint64_t> grace_ms; };
struct ResizeRequest { std::uint16_t width = 0, height = 0; };
/// The client has seen the exit and every byte: the server may forget the process, the connection is idle.
struct Released {};

using ClientEvent = std::variant<Nothing, Started, Data, EndOfStream, Acknowledged, Exited, Refused, Resumed, ProtocolError>;
using ServerEvent = std::variant<Nothing, Data, EndOfStream, Acknowledged, SignalRequest, CancelRequest, ResizeRequest, Released, ProtocolError>;

/// The client's end of one process.
class ExecClientStream {
 public:
  /// Queues the start message. Precondition: `request.stdout_limit` and `stderr_limit` are the windows wanted.
  explicit ExecClientStream(const StartRequest& request);

  [[nodiscard]] ClientEvent on_message(std::uint8_t channel, std::string_view payload);

  // stdin
  [[nodiscard]] OutboundStream& std_in() noexcept { return std_in_; }
  // output: tell how much the application took; grants more window when due
  void on_consumed(Channel stream, std::size_t n);
  void request_signal(std::string_view name);  ///< e.g. "SIGINT" or a number in decimal
  void request_cancel(std::optional<std::uint64_t> grace_ms);
  void request_resize(std::uint16_t width, std::uint16_t height);
  /// After `Exited`, once the application has all output in hand: says so; the connection is idle when it is sent.
  void release();

  /// A new connection after a loss. Before `Started` was seen the start is queued again, else a resume.
  void on_reconnected();

  /// The next message to send: control first, then stdin as far as the peer's limit allows. Empty: nothing to send now.
  [[nodiscard]] std::optional<OutMessage> next_message();
  void on_sent() noexcept;

  [[nodiscard]] bool started() const noexcept { return started_; }
  [[nodiscard]] bool exited() const noexcept { return exited_; }
  /// Released, sent, nothing in flight: the connection may take another process.
  [[nodiscard]] bool idle() const noexcept;
  [[nodiscard]] const InboundStream& inbound(Channel stream) const noexcept;

 private:
  InboundStream& inbound(Channel stream) noexcept;
  ClientEvent on_status(std::string_view payload);
  ClientEvent on_window(std::string_view payload);
  ClientEvent on_resume(std::string_view payload);
  ClientEvent on_close(std::string_view payload);
  ClientEvent on_data(Channel stream, std::string_view payload);
  StartRequest request_;
  OutboundStream std_in_;
  InboundStream std_out_, std_err_;
  std::deque<std::string> control_;
  std::string in_flight_control_;
  char data_head_ = 0;
  bool control_in_flight_ = false, data_in_flight_ = false;
  bool started_ = false, exited_ = false, refused_ = false, released_ = false;
};

/// The server's end of one process. It outlives connections: `on_reconnected` attaches a new one.
class ExecServerStream {
 public:
  explicit ExecServerStream(const StartRequest& request, std::uint64_t stdin_window = kDefaultWindow);

  [[nodiscard]] ServerEvent on_message(std::uint8_t channel, std::string_view payload);

  [[nodiscard]] OutboundStream& outbound(Channel stream) noexcept;  ///< std_out or std_err
  [[nodiscard]] const InboundStream& std_in() const noexcept { return std_in_; }
  void on_stdin_consumed(std::size_t n);
  /// The process no longer reads stdin: what still comes is counted as consumed, so that the client is not held up.
  void on_stdin_closed();

  void on_started(std::uint64_t pid);
  void on_refused(const StatusError& error);
  /// To be called once both outputs are finished (or abandoned): the exit is sent after their last byte.
  void on_exited(const ExitStatus& status);

  /// A repeated start (`attach`) or a resume came over a new connection: what was not received is sent again.
  /// An error when the bytes asked for are gone.
  [[nodiscard]] std::optional<StatusError> on_reconnected(std::uint64_t stdout_received, std::uint64_t stderr_received,
                                                          bool is_resume);

  [[nodiscard]] std::optional<OutMessage> next_message();
  void on_sent() noexcept;

  [[nodiscard]] bool released() const noexcept { return released_; }
  [[nodiscard]] const std::string& id() const noexcept { return id_; }

 private:
  std::string id_;
  InboundStream std_in_;
  OutboundStream std_out_, std_err_;
  bool discard_stdin_ = false;
  std::deque<std::string> control_;
  std::string in_flight_control_;
  char data_head_ = 0;
  Channel data_stream_ = Channel::std_out;  // alternates, so that neither output starves the other
  bool control_in_flight_ = false, data_in_flight_ = false;
  std::optional<std::uint64_t> pid_;
  std::optional<ExitStatus> exit_;
  bool exit_sent_ = false, released_ = false;
};

/// What the first message on an idle connection asks for (channel `start` or `resume`).
struct ResumeRequest {
  std::string id;
  std::string sandbox_id;
  std::uint64_t stdout_received = 0, stderr_received = 0;
  std::uint64_t stdout_limit = kDefaultWindow, stderr_limit = kDefaultWindow;
};
using FirstMessage = std::variant<StartRequest, ResumeRequest, ProtocolError>;
[[nodiscard]] FirstMessage parse_first_message(std::uint8_t channel, std::string_view payload);

/// The largest payload that `channel` may carry, for a reader that wants to refuse before it has read it all.
[[nodiscard]] std::size_t max_payload(std::uint8_t channel) noexcept;

}  // namespace cwsandbox::protocol
