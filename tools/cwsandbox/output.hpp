// What the commands print: tables and JSON to stdout, errors and notes to stderr. The JSON is a promise: docs/cli.md.
#pragma once

#include <cwsandbox/logs.hpp>
#include <cwsandbox/sandbox.hpp>

#include <chrono>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

namespace cli {

constexpr int kTimedOut = 124;
constexpr int kOwnError = 125;
constexpr int kCannotExecute = 126;
constexpr int kNotFound = 127;

enum class Format { text, json, ids };

/// The way that errors are said; set once, before threads.
void set_error_format(Format format);
/// Says an error: one line, or {"error": {…}} with --output json.
void print_error(const std::exception& error);
void print_error(const std::string& text, const std::string& code = "");
/// Says something that is no error: one line on stderr, also with --output json.
void print_note(const std::string& text);

/// Writes to standard output: an exit code, 0, or that of somebody whose output nobody reads any more.
/// \throws std::runtime_error that says what else is wrong with it
[[nodiscard]] int print(std::string_view text);

/// One line whatever is in it: control characters (of a tag, a file's name, a server's text) must not drive the terminal.
[[nodiscard]] std::string one_line(std::string_view text);
/// RFC 3339, UTC, microseconds.
[[nodiscard]] std::string time_text(std::chrono::system_clock::time_point time);

[[nodiscard]] std::string list_text(const std::vector<cwsandbox::Sandbox>& sandboxes, Format format);
[[nodiscard]] std::string sandbox_text(const cwsandbox::Sandbox& sandbox, Format format);
/// Appends one line of a log, with its '\n'.
void append_log_line(std::string& out, const cwsandbox::LogLine& line, Format format);

/// What became of each of several sandboxes.
class Outcomes {
 public:
  void add(const std::string& id, bool ok) { all_.emplace_back(id, ok); }
  [[nodiscard]] std::string json() const;

 private:
  std::vector<std::pair<std::string, bool>> all_;
};
/// Of `run --detach`.
[[nodiscard]] std::string created_text(const std::string& id, Format format);
[[nodiscard]] std::string copied_json(const std::string& source, const std::string& destination, std::uint64_t files,
                                      std::uint64_t bytes, std::uint64_t skipped);

/// "1.4 MiB".
[[nodiscard]] std::string size_text(double bytes);

}  // namespace cli
