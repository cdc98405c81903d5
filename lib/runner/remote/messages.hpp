// What the two ends say on stream 0: control, and calls with their answers.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runner/remote/frames.hpp"
#include "runner/runner.hpp"

namespace cwsandbox::runner::remote {

inline constexpr std::uint64_t kVersion = 1;
/// Calls that one end may have asked and not heard the answer of. The other end takes some more, for what is asked at the end.
inline constexpr std::size_t kMaxCalls = 64, kMaxCallsTaken = 2 * kMaxCalls;
/// Bytes of a file in one call: as many as a message of a process, so that nobody waits longer for it.
inline constexpr std::size_t kFileChunk = 64 * 1024;
/// How long a call for events waits at most.
inline constexpr std::chrono::milliseconds kLongestWait{10'000};
inline constexpr std::size_t kMaxEntries = 100;  ///< of a directory, or events, in one answer: with the longest names it fits

/// How far a stream of the main command has come.
struct Offsets {
  std::uint64_t out = 0, err = 0;
};

struct Control {
  enum class Type : std::uint8_t {
    hello,    ///< gateway: the first word over a link
    welcome,  ///< agent: its answer
    refused,  ///< agent: its last word
    running,  ///< agent: the main command runs
    ended,    ///< agent: it has ended
    ack,      ///< gateway: it has these answers
    bye,      ///< gateway: its last word, the session is over
    ping,     ///< both, answered by
    pong,
  };
  enum class State : std::uint8_t { empty, creating, running, ended };

  Type type = Type::ping;
  std::uint64_t version = kVersion;
  std::string session, key;             // hello
  bool appends = false;                 // welcome: it knows Request::append, which was not always so
  bool watches = false;                 // welcome: it knows how to watch files, which was not always so
  bool resumed = false;                 // welcome: the session was there; hello: it must be
  std::chrono::milliseconds grace{};    // hello
  std::vector<std::uint64_t> calls;     // hello: those that wait for an answer; welcome: those of them that were taken; ack
  State state = State::empty;           // welcome
  Offsets main;                         // welcome, running: where the main command's outputs begin
  std::optional<ExitInfo> exit;         // welcome, ended
  ErrorCode code = ErrorCode::unknown;  // refused
  std::string message;                  // refused
};

/// A whole message, its channel first. Throws nothing.
[[nodiscard]] std::string encode_control(const Control& control);
[[nodiscard]] Control decode_control(std::string_view payload);  ///< throws Violation

enum class Op : std::uint8_t {
  stage,  // more of an initial file: `path` begins one
  create,
  stop,
  signal,        // to the group of a process whose exit has been told
  close_output,  // nobody reads it any more
  forget,        // a process that could not be started
  open,
  create_file,
  stat,
  list,
  make_directory,
  remove,
  rename,
  read,
  write,
  commit,
  next,
  watch,
  events,  // of a watch: those that have happened, else it waits for `grace`
  close,   // of whatever `handle` is
};

struct Request {
  std::uint64_t id = 0;
  Op op = Op::stat;
  std::string path, second;                                       // second: rename's other one, create's working directory
  bool flag = false;                                              // follow symlinks, make parents, recursive
  bool append = false;                                            // create_file
  std::optional<std::uint32_t> mode;                              // permission bits
  std::optional<std::chrono::system_clock::time_point> modified;  // create_file
  std::uint64_t handle = 0, offset = 0, size = 0;
  std::chrono::milliseconds grace{};
  std::uint32_t stream = 0;  // signal, close_output
  int number = 0;            // a signal's, an output's channel
  std::vector<std::string> command;
  std::map<std::string, std::string> env;
};

/// What an operation failed with, in a form that travels.
struct Failure {
  enum class Kind : std::uint8_t { runner, start, file };
  Kind kind = Kind::runner;
  int error = 0;
  std::string what;                     // of a start what failed, of a file its path
  ErrorCode code = ErrorCode::unknown;  // of Kind::runner
  std::string reason, message;
  std::map<std::string, std::string> metadata;

  [[nodiscard]] static Failure of(const std::exception_ptr& error);
  /// Fit to be shown, whatever the other end has said.
  [[nodiscard]] std::exception_ptr to_exception() const;
};

struct Answer {
  std::uint64_t id = 0;
  std::optional<Failure> failure;
  std::uint64_t handle = 0;
  std::vector<FileInfo> entries;  // of open and stat one
  std::vector<FileEvent> events;
};

/// All but the bytes that may follow it: channel, length of the JSON text, the JSON text.
[[nodiscard]] std::string encode_request(const Request& request);
[[nodiscard]] std::string encode_answer(const Answer& answer);

template <class Message>
struct Decoded {
  Message message;
  std::string_view bytes;
};
[[nodiscard]] Decoded<Request> decode_request(std::string_view payload);  ///< throws Violation
[[nodiscard]] Decoded<Answer> decode_answer(std::string_view payload);    ///< throws Violation

/// What the other end refused with: printable and bounded.
[[nodiscard]] RunnerError told_error(ErrorCode code, const std::string& reason, const std::string& message,
                                     const std::map<std::string, std::string>& metadata = {});

/// Throws Violation for an exit code or a signal that no process has.
void check_exit(const ExitInfo& exit);

}  // namespace cwsandbox::runner::remote
