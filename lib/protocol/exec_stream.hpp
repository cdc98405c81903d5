// The exec stream (docs/exec-stream.md) as two state machines without I/O: events in, events and messages out.
//
// Both machines work the same way. The owner feeds every message that arrives to `on_message` and acts on the event that it
// returns; it calls the `request`-like functions when its own side wants something; and whenever anything has happened it
// drains `next_message` into the connection, one message in flight at a time, telling `on_sent` when a write is complete.
// No function blocks, throws for a peer's fault, looks at a clock, or takes a lock: one machine belongs to one strand.
#pragma once

#include "base/error_code.hpp"

#include <array>
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

using base::ErrorCode;

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

inline constexpr std::size_t kMaxDataPayload = 64 * 1024;         ///< bytes of payload of a data message
inline constexpr std::size_t kMaxToldCommand = 16 * 1024;         ///< bytes of a command that `resumed` tells
inline constexpr std::size_t kMaxControlPayload = 64 * 1024;      ///< bytes of a control message other than start
inline constexpr std::size_t kMaxStartPayload = 4 * 1024 * 1024;  ///< start carries argv and env; the kernel's limit is about 2 MiB
inline constexpr std::size_t kMaxMessage = 1 + kMaxStartPayload;
inline constexpr std::uint64_t kDefaultWindow = 1024 * 1024;  ///< bytes per stream before the peer must grant more
/// A limit may lie this far beyond what was received, and no farther: it bounds what a peer can make us hold.
inline constexpr std::uint64_t kMaxWindow = 8 * 1024 * 1024;
/// What a client may send of stdin before it has seen `started`; every server takes as much.
inline constexpr std::uint64_t kInitialStdinWindow = 64 * 1024;
/// Integers on the wire are exact, not negative and below 2^53, so that every JSON reader holds them.
inline constexpr std::uint64_t kMaxInteger = (std::uint64_t{1} << 53) - 1;
/// Signals that the client keeps to send them again after a reconnect; the server takes none of them twice.
inline constexpr std::size_t kMaxKeptSignals = 64;

/// The reason of an error that answers a resume: bytes asked for are no longer held. Its metadata says which are: `stdout_from`,
/// `stdout_to`, `stderr_from`, `stderr_to`.
inline constexpr std::string_view kReplayGap = "CWSANDBOX_EXEC_REPLAY_GAP";

/// WebSocket close codes that the exec stream uses.
enum class CloseCode : std::uint16_t {
  normal = 1000,
  going_away = 1001,      ///< the gateway shuts down
  protocol_error = 1002,  ///< a message broke the rules; the reason says which
  unsupported = 1003,     ///< a text message
  policy = 1008,          ///< the token that the connection was made with is no longer accepted
  too_big = 1009,
  superseded = 4001,  ///< a newer connection took this process over
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
  std::string cwd;         ///< empty: the sandbox's working directory
  bool use_stdin = false;  ///< false: the process reads end-of-file at once
  bool tty = false;
  std::uint16_t tty_width = 0, tty_height = 0;
  std::uint64_t timeout_ms = 0;     ///< 0: none. Enforced by the gateway from the moment the process has started.
  std::uint64_t grace_ms = 10'000;  ///< between SIGTERM and SIGKILL, for cancel and timeout
  /// How long outputs that others hold are read after the end of the process; 0: until the last lets go.
  std::uint64_t drain_ms = 0;
  std::uint64_t stdout_limit = kDefaultWindow, stderr_limit = kDefaultWindow;  ///< initial limits
  std::uint64_t attempt = 0;  ///< counts the client's connections for this process; a lower one than seen before is stale
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
  /// What ended it, where that was not its own doing. `other`: a word that is not known here.
  enum class Reason : std::uint8_t {
    none,
    timeout,
    sandbox_stopped,
    lifetime,
    out_of_memory,
    main_ended,
    gateway_shutdown,
    other,
  };
  Reason reason = Reason::none;
  /// Outputs that somebody else still held when the drain time was over.
  bool stdout_open = false, stderr_open = false;
  // Between a runner's two ends alone: what Process::on_exit and on_group_gone of the seam tell.
  std::optional<std::array<std::uint64_t, 2>> written;
  bool group_gone = false;
};

/// An error before a process exists (unknown sandbox, …), in the words of the Connect protocol.
struct StatusError {
  ErrorCode code = ErrorCode::unknown;
  std::string message;
  std::string reason;  ///< e.g. "CWSANDBOX_SANDBOX_NOT_FOUND"; may be empty
  std::map<std::string, std::string> metadata;
  std::optional<std::uint64_t> retry_delay_ms;
};

/// What is wrong with a request, or nothing: an `invalid_argument` whose metadata names the `field`. Both ends ask: the client
/// before it sends, the server before it starts. (An empty command, a relative cwd, a NUL, an environment name with '=', ...)
[[nodiscard]] std::optional<StatusError> validate(const StartRequest& request);

/// Whether `id` can name a process.
[[nodiscard]] bool is_process_id(std::string_view id);

/// One message to write: `head` then `body`, to be sent as one binary message. Both stay valid until `on_sent`.
struct OutMessage {
  std::string_view head;
  std::string_view body;
};

/// The sending half of one byte stream: keeps what the peer has not said it received, never passes the peer's limit.
class OutboundStream {
 public:
  /// \param window how far beyond what the peer has received its limit is taken for true
  explicit OutboundStream(std::uint64_t limit, std::uint64_t window = kMaxWindow) noexcept : window_(window), limit_(limit) {}

  /// Appends bytes. Precondition: not finished. Empty chunks are dropped. No copy, unless the chunk is small or would waste
  /// more than half of its storage: such bytes join the last chunk, so that memory stays in proportion to bytes.
  void push(std::string chunk);
  /// The same for bytes that lie in somebody else's buffer.
  void push_copy(std::string_view bytes);
  /// No more bytes will come; the end is sent after the last of them.
  void finish() noexcept { finished_ = true; }
  /// Drops what was not sent and sends the end at once (the reader of our bytes has gone). What is in flight stays valid.
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
  /// The end, if it was sent, is sent again: it is harmless twice.
  [[nodiscard]] bool rewind(std::uint64_t received);
  [[nodiscard]] bool can_rewind(std::uint64_t received) const noexcept { return received >= acknowledged_ && received <= sent_; }
  /// The peer wants no more of it, sent or not: frees everything but what is in flight. Acknowledges nothing.
  void discard() noexcept;
  void set_limit(std::uint64_t limit) noexcept {
    const std::uint64_t most = acknowledged_ + window_;
    if (limit > most) limit = most;
    if (limit > limit_) limit_ = limit;
  }
  [[nodiscard]] std::uint64_t window() const noexcept { return window_; }
  void widen(std::uint64_t window) noexcept { window_ = window > window_ ? window : window_; }
  /// What comes follows on `offset` bytes that somebody else sent. Precondition: nothing was pushed.
  void start_at(std::uint64_t offset) noexcept { released_ = acknowledged_ = sent_ = end_ = cursor_offset_ = offset; }

  [[nodiscard]] std::uint64_t end_offset() const noexcept { return end_; }  ///< bytes pushed
  [[nodiscard]] std::uint64_t sent_offset() const noexcept { return sent_; }
  [[nodiscard]] std::uint64_t acknowledged() const noexcept { return acknowledged_; }
  [[nodiscard]] std::uint64_t limit() const noexcept { return limit_; }
  [[nodiscard]] std::size_t buffered() const noexcept { return static_cast<std::size_t>(end_ - released_); }
  /// How many more bytes may be pushed so that nothing waits beyond the peer's limit.
  [[nodiscard]] std::uint64_t room() const noexcept { return limit_ > end_ ? limit_ - end_ : 0; }
  [[nodiscard]] bool finished() const noexcept { return finished_; }
  [[nodiscard]] bool end_sent() const noexcept { return end_sent_; }
  [[nodiscard]] bool all_acknowledged() const noexcept { return end_sent_ && acknowledged_ == end_; }
  /// Storage that `on_window` freed, to be used again for reading; empty when there is no more. At most `keep_spares` are held.
  [[nodiscard]] std::string recycle();
  /// How many freed chunks are held for `recycle`; 1 unless told otherwise.
  void keep_spares(std::size_t count) noexcept { most_spares_ = count; }

 private:
  void release();
  void recycle_later(std::string&& storage);
  std::deque<std::string> chunks_;  // bytes from released_ on; after abandon() the last may hold more than end_ says
  std::vector<std::string> spares_;
  std::size_t most_spares_ = 1;
  std::uint64_t released_ = 0, acknowledged_ = 0, sent_ = 0, end_ = 0, window_, limit_;
  std::uint64_t pinned_ = 0, pinned_end_ = 0;  // the run in flight; valid while in_flight_
  std::size_t cursor_ = 0;                     // index of a chunk at or before sent_, and its offset
  std::uint64_t cursor_offset_ = 0;
  bool in_flight_ = false, finished_ = false, end_sent_ = false, discarded_ = false;
};

/// The receiving half of one byte stream: counts, checks the limit, and says when the peer should hear a new one.
class InboundStream {
 public:
  /// `start`: bytes that somebody else has received.
  explicit InboundStream(std::uint64_t window = kDefaultWindow, std::uint64_t start = 0) noexcept
      : window_(window), limit_(start + window), received_(start), consumed_(start), said_received_(start) {}

  /// A reason when the message breaks the rules.
  [[nodiscard]] std::optional<std::string> on_data(std::size_t n, std::string_view stream_name);
  [[nodiscard]] bool on_end() noexcept;  ///< false: it had ended before
  void on_consumed(std::size_t n) noexcept { consumed_ += n < received_ - consumed_ ? n : received_ - consumed_; }
  /// The peer wants to hear as soon as this much was received.
  void want_acknowledged(std::uint64_t offset) noexcept { wanted_ = offset > wanted_ ? offset : wanted_; }

  /// True when at least half a window was consumed since the last word, when the peer asked for a word and its bytes are here,
  /// or when the stream has ended and not all of it is acknowledged.
  [[nodiscard]] bool window_due() const noexcept;
  /// The first of these only: all that a receiver needs whose last word is a release.
  [[nodiscard]] bool grant_due() const noexcept;
  /// Notes that (received, limit) are being sent now.
  struct Word {
    std::uint64_t received, limit;
  };
  [[nodiscard]] Word say() noexcept;

  [[nodiscard]] std::uint64_t received() const noexcept { return received_; }
  [[nodiscard]] std::uint64_t consumed() const noexcept { return consumed_; }
  [[nodiscard]] std::uint64_t wanted() const noexcept { return wanted_; }  ///< of `want_acknowledged`
  [[nodiscard]] bool ended() const noexcept { return ended_; }
  [[nodiscard]] std::uint64_t limit() const noexcept { return limit_; }

 private:
  std::uint64_t window_, limit_;
  std::uint64_t received_ = 0, consumed_ = 0, said_received_ = 0, wanted_ = 0;
  bool ended_ = false;
};

// ---- events ----

/// Nothing for the owner to do but to drain `next_message`.
struct Nothing {};
struct Started {
  std::uint64_t pid = 0;
  bool attached = false;
};
/// Bytes of stdout or stderr (client) or stdin (server): the payload of the message just given, to be consumed or taken over.
struct Data {
  Channel stream;
  std::string_view bytes;
};
struct EndOfStream {
  Channel stream;
};
/// The process has taken stdin up to `offset`, or has closed it (client: look at `stdin_closed()`); the peer has received output up
/// to `offset` (server); or it lets us send farther. One message may move both outputs and names one: look at the `room()` of both.
struct Acknowledged {
  Channel stream;
  std::uint64_t offset;
};
/// The process has ended and all output is here. It also ends each output for which no EndOfStream came before: a short
/// process costs fewer messages so.
struct Exited {
  ExitStatus status;
};
/// No process, and the last event: the start or the resume was refused. `release()` is due as after Exited.
struct Refused {
  StatusError error;
};
/// The new connection took over. (A repeated start is answered by Started with `attached`.)
struct Resumed {
  std::uint64_t stdin_received = 0;
  // If they were asked for, and the server tells.
  std::optional<std::uint64_t> pid = std::nullopt;
  std::vector<std::string> command = {};
};
struct SignalRequest {
  std::string name;
  int number = 0;
};
struct CancelRequest {
  std::optional<std::uint64_t> grace_ms;
};
struct ResizeRequest {
  std::uint16_t width = 0, height = 0;
};
/// The client has seen the exit and every byte: the server may forget the process, the connection takes the next first message.
/// It may come before the write of the exit has completed: keep the machine until `idle()`.
struct Released {};

// After a ProtocolError the machine is silent: no events, no messages. Close the connection with its code and reason; then
// on_reconnected may bring it back.
using ClientEvent = std::variant<Nothing, Started, Data, EndOfStream, Acknowledged, Exited, Refused, Resumed, ProtocolError>;
using ServerEvent =
    std::variant<Nothing, Data, EndOfStream, Acknowledged, SignalRequest, CancelRequest, ResizeRequest, Released, ProtocolError>;

/// Asks for a process that is there.
struct ResumeRequest {
  std::string id;
  std::string sandbox_id;
  std::uint64_t stdout_received = 0, stderr_received = 0;
  std::uint64_t stdout_limit = kDefaultWindow, stderr_limit = kDefaultWindow;
  std::uint64_t attempt = 0;
  bool describe = false;  ///< the client does not know the process: its pid and command are wanted
};

struct StreamWord;

/// The client's end of one process.
class ExecClientStream {
 public:
  /// Queues the start message. Precondition: `request.stdout_limit` and `stderr_limit` are the windows wanted.
  explicit ExecClientStream(const StartRequest& request);
  /// Takes over a process that somebody else started: queues the resume message. Output goes on from the offsets given, stdin from
  /// where the server says; until then nothing may be pushed.
  explicit ExecClientStream(const ResumeRequest& request);

  [[nodiscard]] ClientEvent on_message(std::uint8_t channel, std::string_view payload);

  // stdin
  [[nodiscard]] OutboundStream& std_in() noexcept { return std_in_; }
  /// Bytes of stdin that the process's pipe has taken, as far as known. What the server merely holds is not among them.
  [[nodiscard]] std::uint64_t stdin_taken() const noexcept { return stdin_taken_; }
  /// Nobody reads stdin any more: `stdin_taken()` is final, and `std_in()` is finished, whatever was in it.
  [[nodiscard]] bool stdin_closed() const noexcept { return stdin_closed_; }
  // output: tell how much the application took; grants more window when due
  void on_consumed(Channel stream, std::size_t n);
  /// E.g. "SIGINT", "INT" or a number in decimal. Throws std::invalid_argument for an unknown one.
  void request_signal(std::string_view name);
  void request_cancel(std::optional<std::uint64_t> grace_ms);
  void request_resize(std::uint16_t width, std::uint16_t height);
  /// Asks the server to tell as soon as the process has taken what has been pushed into `std_in()` so far, not only at half a
  /// window. Watch `stdin_taken()` when Acknowledged comes.
  void request_flush();
  /// After `Exited` or `Refused`, once the application has all output in hand: says so; the connection is idle when it is sent.
  void release();

  /// A new connection after a loss. Before `Started` was seen the start is queued again, else a resume. A message that was in
  /// flight on the old connection stays pinned until `on_sent`: nothing is sent before.
  void on_reconnected();

  /// The next message to send: control first, then stdin as far as the peer's limit allows. Empty: nothing to send now.
  [[nodiscard]] std::optional<OutMessage> next_message();
  void on_sent() noexcept;

  [[nodiscard]] bool started() const noexcept { return started_; }
  [[nodiscard]] bool exited() const noexcept { return exited_; }
  /// How the process ended, as soon as anybody knows: also while output waits for a reader (P3). Empty until then.
  [[nodiscard]] const std::optional<ExitStatus>& ended() const noexcept { return ended_; }
  /// Released, sent, nothing in flight: the connection may take another process.
  [[nodiscard]] bool idle() const noexcept;
  [[nodiscard]] const InboundStream& inbound(Channel stream) const noexcept;

 private:
  struct KeptSignal {
    std::uint64_t sequence;
    int number;
  };
  enum class Answer : std::uint8_t { none, started, resumed };  // what the current connection must say first

  [[nodiscard]] InboundStream* output(Channel stream) noexcept;
  ClientEvent dispatch(std::uint8_t channel, std::string_view payload);
  ClientEvent on_status(std::string_view payload);
  ClientEvent on_window(std::string_view payload);
  ClientEvent on_resumed(std::string_view payload);
  ClientEvent on_close(std::string_view payload);
  ClientEvent on_data(Channel stream, std::string_view payload);
  void take_up(std::uint64_t stdin_received, std::uint64_t stdin_limit, std::uint64_t signals);
  void take_word(const char* message, const StreamWord& word);
  void encode_control();

  StartRequest request_;  // command, env and cwd are dropped once Started was seen
  OutboundStream std_in_;
  std::uint64_t stdin_taken_ = 0;
  InboundStream std_out_, std_err_;
  std::deque<KeptSignal> signals_;  // in order; those before signals_sent_ went over this connection
  std::size_t signals_sent_ = 0;
  std::uint64_t next_signal_ = 1;
  std::optional<CancelRequest> cancel_;
  std::optional<ResizeRequest> resize_;
  std::uint64_t flush_wanted_ = 0, flush_sent_ = 0;
  std::optional<ExitStatus> ended_;
  std::string in_flight_control_;
  char data_head_ = 0;
  Answer awaited_ = Answer::started;
  bool opening_due_ = true;   // start or resume
  bool hold_std_in_ = false;  // a new connection: where to send from is not known yet
  bool cancel_due_ = false, resize_due_ = false, release_due_ = false;
  bool control_in_flight_ = false, data_in_flight_ = false;
  bool started_ = false, exited_ = false, refused_ = false, released_ = false;
  bool adopting_ = false;  // somebody else's process, and the server has not said yet how far stdin and signals had come
  bool describe_ = false;  // as long as it is adopting: what it is is asked for
  bool stdin_closed_ = false;
  bool exit_here_ = false;  // exit or error has come over this connection: nothing more will
  bool broken_ = false;
};

/// The server's end of one process. It outlives connections: `on_reconnected` attaches a new one. To refuse a first message
/// for which there is no process, make a machine for its id and call `on_refused`: it drains what the client sent ahead.
class ExecServerStream {
 public:
  explicit ExecServerStream(const StartRequest& request, std::uint64_t stdin_window = kDefaultWindow);

  [[nodiscard]] ServerEvent on_message(std::uint8_t channel, std::string_view payload);

  [[nodiscard]] OutboundStream& outbound(Channel stream) noexcept;  ///< std_out or std_err
  [[nodiscard]] const InboundStream& std_in() const noexcept { return std_in_; }
  /// Bytes have gone on towards the process: there is room for as many.
  void on_stdin_consumed(std::size_t n);
  /// The process's pipe has taken so many bytes of stdin in all.
  void on_stdin_taken(std::uint64_t bytes);
  /// Nobody reads stdin any more, what was taken is all that ever will be: the client is told. What still comes is counted as
  /// consumed, for one that does not know this word.
  void on_stdin_closed();
  /// The client waits to hear that the process has taken bytes which it has not taken yet.
  [[nodiscard]] bool stdin_awaited() const noexcept;

  void on_started(std::uint64_t pid);
  void on_refused(const StatusError& error);
  /// The process has ended, though its output is not finished. Told to the client at once while output is held back by its
  /// window (P3), since the exit must wait; when nothing is held back the exit follows soon anyway. Optional. May be said again,
  /// with more: whoever asked for it (`tell_ended`) is told again.
  void on_ended(const ExitStatus& status);
  /// To be called once both outputs are finished (or abandoned): the exit is sent after their last byte.
  void on_exited(const ExitStatus& status);
  /// While held, the end of a stream (also that stdin is closed) is not sent on its own but with the exit: a process that closes
  /// its streams by ending costs some messages less. Let go (and drain `next_message`) when no exit has followed within some
  /// milliseconds.
  void hold_ends(bool hold) noexcept { hold_ends_ = hold; }
  /// Tells `on_ended` at once, also while no output is held back by its window: for a client that does not take the end of the
  /// outputs for the end of the process.
  void tell_ended(bool tell) noexcept { tell_ended_ = tell; }
  /// Signals are taken until the release: what is left of the group outlives its leader.
  void take_late_signals() noexcept { late_signals_ = true; }

  /// A repeated start (`attach`) or a resume came over a new connection: what was not received is sent again.
  /// An error when the bytes asked for are gone; the machine then stays as it was and the new connection is to be refused. A
  /// message that was in flight on the old connection stays pinned until `on_sent`: nothing is sent before.
  [[nodiscard]] std::optional<StatusError> on_reconnected(std::uint64_t stdout_received, std::uint64_t stderr_received,
                                                          bool is_resume);
  /// The same for a whole request, with the limits that it grants.
  [[nodiscard]] std::optional<StatusError> on_reconnected(const ResumeRequest& request);
  /// How far each output may be sent now. The first word of a connection says it, and how much is held from then on of what the
  /// client has not received: as far as that limit lies ahead, or kDefaultWindow. Later words move it no farther ahead.
  void grant(std::uint64_t stdout_limit, std::uint64_t stderr_limit) noexcept;
  /// What stands against a resume now, or nothing. Changes nothing.
  [[nodiscard]] std::optional<StatusError> refuses(const ResumeRequest& request) const;

  [[nodiscard]] std::optional<OutMessage> next_message();
  void on_sent() noexcept;

  [[nodiscard]] bool released() const noexcept { return released_; }
  /// Released and nothing in flight: the machine may go.
  [[nodiscard]] bool idle() const noexcept { return released_ && !control_in_flight_ && !data_in_flight_; }
  [[nodiscard]] const std::string& id() const noexcept { return id_; }

 private:
  [[nodiscard]] std::optional<StatusError> refuses(std::uint64_t stdout_received, std::uint64_t stderr_received,
                                                   bool is_resume) const;
  ServerEvent dispatch(std::uint8_t channel, std::string_view payload);
  ServerEvent on_window(std::string_view payload);
  ServerEvent on_signal(std::string_view payload);
  [[nodiscard]] bool encode_control();
  [[nodiscard]] bool all_sent() const noexcept;
  [[nodiscard]] bool stdin_cut() const noexcept;
  [[nodiscard]] bool stdin_word_due() const noexcept;
  [[nodiscard]] StreamWord say_stdin() noexcept;

  std::string id_;
  InboundStream std_in_;
  std::uint64_t stdin_taken_ = 0, said_taken_ = 0;
  OutboundStream std_out_, std_err_;
  std::uint64_t last_signal_ = 0;
  std::optional<std::uint64_t> pid_;
  std::vector<std::string> command_;  // to be told; empty when it is too long for that
  std::optional<ExitStatus> ended_, exit_;
  std::optional<StatusError> refused_;
  std::string in_flight_control_;
  char data_head_ = 0;
  Channel next_output_ = Channel::std_out;  // alternates, so that neither output starves the other
  bool use_stdin_, stdin_closed_ = false, said_closed_ = false, hold_ends_ = false, tell_ended_ = false, late_signals_ = false,
                   attached_ = false;
  bool started_due_ = false, resumed_due_ = false, describe_due_ = false, ended_sent_ = false, last_sent_ = false;
  bool control_in_flight_ = false, data_in_flight_ = false;
  bool released_ = false, broken_ = false;
};

/// What the first message on an idle connection asks for (channel `start` or `resume`).
using FirstMessage = std::variant<StartRequest, ResumeRequest, ProtocolError>;
[[nodiscard]] FirstMessage parse_first_message(std::uint8_t channel, std::string_view payload);

/// The largest payload that `channel` may carry, for a reader that wants to refuse before it has read it all.
[[nodiscard]] std::size_t max_payload(std::uint8_t channel) noexcept;

}  // namespace cwsandbox::protocol
