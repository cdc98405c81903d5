#include "output.hpp"

#include "system.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>
#include <stdexcept>

#include <unistd.h>

namespace cli {

namespace {

using Json = nlohmann::ordered_json;  // fields come in the order in which they are documented

Format errors = Format::text;

/// The character that begins the text: its code point and its bytes. What is no UTF-8 is one byte, and no character.
struct Character {
  std::optional<char32_t> code;
  std::size_t size = 1;
};

Character first_character(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < size) return {};
  char32_t code = lead & (0x7fU >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return {};
    code = code << 6 | (byte(i) & 0x3fU);
  }
  constexpr std::array<char32_t, 5> least{0, 0, 0x80, 0x800, 0x10000};
  if (code < least[size] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return {};
  return {code, size};
}

/// What a terminal takes for a command (the control characters, also those of eight bits), or what shows text in another order than
/// it has: a tag of somebody's sandbox must do neither.
bool acts_on_terminal(char32_t code) {
  return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x61c || code == 0x200e || code == 0x200f ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

/// Bytes that are no UTF-8 become U+FFFD: JSON knows nothing else. What acts on a terminal is escaped.
std::string dump(const Json& json, int indent) {
  const std::string text = json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
  std::string out;
  out.reserve(text.size());
  for (std::string_view rest = text; !rest.empty();) {
    const Character character = first_character(rest);
    // Line breaks are the format's own: in a string they are escaped already.
    if (character.code && *character.code != '\n' && acts_on_terminal(*character.code)) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\u%04x", static_cast<unsigned>(*character.code));
      out += escape.data();
    } else {
      out += rest.substr(0, character.size);
    }
    rest.remove_prefix(character.size);
  }
  return out;
}

bool colours(int fd) {
  const char* no = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return ::isatty(fd) == 1 && (no == nullptr || *no == '\0') && (term == nullptr || std::strcmp(term, "dumb") != 0);
}

constexpr std::string_view kReset = "\033[0m";

std::string_view colour_of(cwsandbox::SandboxStatus status) {
  using enum cwsandbox::SandboxStatus;
  switch (status) {
    case running:
    case completed:
      return "\033[32m";
    case pending:
    case creating:
    case paused:
    case terminating:
      return "\033[33m";
    case failed:
      return "\033[31m";
    case terminated:
    case unspecified:
      break;
  }
  return "";
}

Json time_json(std::chrono::system_clock::time_point time) {
  return time == std::chrono::system_clock::time_point() ? Json() : Json(time_text(time));
}

Json sandbox_json(const cwsandbox::Sandbox& sandbox) {
  const auto returncode = sandbox.returncode();
  return {{"sandbox_id", sandbox.sandbox_id().value_or("")},
          {"status", to_string(sandbox.status())},
          {"status_reason", sandbox.status_reason()},
          {"returncode", returncode ? Json(*returncode) : Json()},
          {"image", sandbox.image()},
          {"command", sandbox.command()},
          {"tags", sandbox.tags()},
          {"created_at", time_json(sandbox.created_at())},
          {"started_at", time_json(sandbox.started_at())},
          {"ended_at", time_json(sandbox.ended_at())},
          {"runner_id", sandbox.runner_id()},
          {"runner_group_id", sandbox.runner_group_id()}};
}

std::string joined(const std::vector<std::string>& parts, std::string_view between) {
  std::string out;
  for (std::size_t i = 0; i < parts.size(); ++i) out.append(i == 0 ? "" : between).append(parts[i]);
  return one_line(out);
}

constexpr std::string_view kPrefix = "cwsandbox: ";

/// Without what says where it comes from: the library's name, which begins every line of ours, and the standard library's words.
std::string_view bare(std::string_view text) {
  for (const std::string_view prefix : {std::string_view("filesystem error: "), kPrefix})
    if (text.starts_with(prefix)) text.remove_prefix(prefix.size());
  return text;
}

void say(std::string_view text, const char* colour) {
  std::string line = one_line(bare(text));
  const bool coloured = *colour != '\0' && colours(STDERR_FILENO);
  line = (coloured ? colour + std::string("cwsandbox:") + std::string(kReset) + " " : std::string(kPrefix)) + line + "\n";
  static_cast<void>(write_all(STDERR_FILENO, line));
}

Json error_json(const std::exception& error) {
  Json fields = {
      {"code", ""}, {"reason", ""}, {"message", bare(error.what())}, {"metadata", Json::object()}, {"retry_delay_ms", nullptr}};
  if (const auto* own = dynamic_cast<const cwsandbox::CWSandboxError*>(&error)) {
    fields["code"] = own->code();
    fields["reason"] = own->reason();
    for (const auto& [name, value] : own->metadata()) fields["metadata"][name] = value;
    if (own->retry_delay()) fields["retry_delay_ms"] = own->retry_delay()->count();
  } else if (dynamic_cast<const std::invalid_argument*>(&error) != nullptr) {
    fields["code"] = "invalid_argument";
  } else if (dynamic_cast<const cwsandbox::CancelledError*>(&error) != nullptr) {
    fields["code"] = "canceled";  // as Connect spells it
  }
  return {{"error", fields}};
}

}  // namespace

int print(std::string_view text) {
  if (write_all(STDOUT_FILENO, text)) return 0;
  if (errno == EPIPE) return 128 + SIGPIPE;
  throw std::runtime_error(std::string("cannot write to standard output: ") + std::strerror(errno));
}

void set_error_format(Format format) { errors = format; }

void print_error(const std::exception& error) {
  if (errors == Format::json)
    static_cast<void>(write_all(STDERR_FILENO, dump(error_json(error), -1)));
  else
    say(error.what(), "\033[31m");
}

void print_error(const std::string& text, const std::string& code) {
  if (errors != Format::json) return say(text, "\033[31m");
  auto fields = error_json(std::runtime_error(text));
  fields["error"]["code"] = code;
  static_cast<void>(write_all(STDERR_FILENO, dump(fields, -1)));
}

void print_note(const std::string& text) { say(text, ""); }

std::string one_line(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::string_view rest = text; !rest.empty();) {
    const Character character = first_character(rest);
    if (character.code && !acts_on_terminal(*character.code)) {
      out += rest.substr(0, character.size);
    } else {
      out += rest.front() == '\n' || rest.front() == '\r' || rest.front() == '\t' ? ' ' : '?';
    }
    rest.remove_prefix(character.size);
  }
  return out;
}

std::string time_text(std::chrono::system_clock::time_point time) {
  using namespace std::chrono;
  const auto seconds_part = floor<seconds>(time);
  const std::time_t seconds_since = system_clock::to_time_t(seconds_part);
  std::tm parts{};
  ::gmtime_r(&seconds_since, &parts);
  std::array<char, 64> text{};
  const auto length = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  std::array<char, 16> fraction{};
  std::snprintf(fraction.data(), fraction.size(), ".%06dZ",
                static_cast<int>(duration_cast<microseconds>(time - seconds_part).count()));
  return std::string(text.data(), length) + fraction.data();
}

std::string list_text(const std::vector<cwsandbox::Sandbox>& sandboxes, Format format) {
  if (format == Format::json) {
    Json all = Json::array();
    for (const auto& sandbox : sandboxes) all.push_back(sandbox_json(sandbox));
    return dump(all, 2);
  }
  std::string out;
  if (format == Format::ids) {
    for (const auto& sandbox : sandboxes) out += one_line(sandbox.sandbox_id().value_or("")) + "\n";
    return out;
  }
  if (sandboxes.empty()) return out;
  using Row = std::array<std::string, 5>;
  std::vector<Row> rows{{"ID", "STATUS", "CREATED", "IMAGE", "TAGS"}};
  std::vector<std::string_view> row_colours{""};
  for (const auto& sandbox : sandboxes) {
    const auto created = sandbox.created_at();
    const std::string since = created == std::chrono::system_clock::time_point() ? "-" : time_text(created).substr(0, 19) + "Z";
    rows.push_back({one_line(sandbox.sandbox_id().value_or("")), std::string(to_string(sandbox.status())), since,
                    sandbox.image().empty() ? "-" : one_line(sandbox.image()), joined(sandbox.tags(), ",")});
    row_colours.push_back(colour_of(sandbox.status()));
  }
  Row::size_type column = 0;
  std::array<std::size_t, 5> widths{};
  for (const auto& row : rows)
    for (column = 0; column < row.size(); ++column) widths[column] = std::max(widths[column], row[column].size());
  const bool coloured = colours(STDOUT_FILENO);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::string line;
    for (column = 0; column < rows[i].size(); ++column) {
      const auto& cell = rows[i][column];
      const bool paint = coloured && column == 1 && !row_colours[i].empty();
      if (paint) line += row_colours[i];
      line += cell;
      if (paint) line += kReset;
      if (column + 1 < rows[i].size()) line.append(widths[column] - cell.size() + 2, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string sandbox_text(const cwsandbox::Sandbox& sandbox, Format format) {
  if (format == Format::json) return dump(sandbox_json(sandbox), 2);
  std::string out;
  const auto put = [&out](const std::string& name, const std::string& value) {
    if (!value.empty()) out += name + std::string(12 - name.size(), ' ') + one_line(value) + "\n";
  };
  const auto put_time = [&put](const std::string& name, std::chrono::system_clock::time_point time) {
    if (time != std::chrono::system_clock::time_point()) put(name, time_text(time));
  };
  put("ID", sandbox.sandbox_id().value_or(""));
  const auto colour = colours(STDOUT_FILENO) ? colour_of(sandbox.status()) : "";
  out += "Status      " + std::string(colour) + std::string(to_string(sandbox.status())) +
         std::string(colour.empty() ? "" : kReset) + "\n";
  put("Reason", sandbox.status_reason());
  if (const auto code = sandbox.returncode()) put("Exit code", std::to_string(*code));
  put("Image", sandbox.image());
  put("Command", joined(sandbox.command(), " "));
  put("Tags", joined(sandbox.tags(), ","));
  put_time("Created", sandbox.created_at());
  put_time("Started", sandbox.started_at());
  put_time("Ended", sandbox.ended_at());
  put("Runner", sandbox.runner_id());
  put("Group", sandbox.runner_group_id());
  return out;
}

void append_log_line(std::string& out, const cwsandbox::LogLine& line, Format format) {
  if (format == Format::json) {
    const Json time = line.timestamp ? Json(time_text(*line.timestamp)) : Json();
    if (line.is_gap())
      out += dump({{"type", "gap"}, {"lost_bytes", line.lost_bytes}}, -1);
    else
      out += dump({{"type", "line"}, {"timestamp", time}, {"text", line.text}}, -1);
    return;
  }
  if (line.timestamp) out.append(time_text(*line.timestamp)).append(" ");
  out.append(line.text).append("\n");
}

std::string Outcomes::json() const {
  Json all = Json::array();
  for (const auto& [id, ok] : all_) all.push_back({{"sandbox_id", id}, {"ok", ok}});
  return dump(all, 2);
}

std::string created_text(const std::string& id, Format format) {
  return format == Format::json ? dump({{"sandbox_id", id}}, 2) : id + "\n";
}

std::string copied_json(const std::string& source, const std::string& destination, std::uint64_t files, std::uint64_t bytes,
                        std::uint64_t skipped) {
  return dump({{"source", source}, {"destination", destination}, {"files", files}, {"bytes", bytes}, {"skipped", skipped}}, 2);
}

std::string size_text(double bytes) {
  constexpr std::array<const char*, 5> units{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < units.size(); ++unit) bytes /= 1024;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
  return text.data();
}

}  // namespace cli
