#include "protocol/exec_messages.hpp"

#include "base/base64.hpp"
#include "base/error_code.hpp"
#include "base/text.hpp"
#include "messages/json_text.hpp"
#include "protocol/json_shape.hpp"
#include "protocol/json_util.hpp"
#include "protocol/signals.hpp"

#include <array>
#include <charconv>
#include <limits>
#include <utility>

namespace cwsandbox::protocol {
namespace {

namespace json_text = messages::json_text;
using json_util::Json;
using messages::json_text::append_bytes;
using messages::json_text::ObjectWriter;
using messages::json_text::Value;

constexpr std::size_t kMaxReason = 123;  // a close frame holds 125 bytes, two of which are the code
constexpr std::size_t kMaxId = 64;

char byte(Channel channel) { return static_cast<char>(static_cast<std::uint8_t>(channel)); }

// ---- writing ----

void begin(std::string& out, Channel channel) {
  out.clear();
  out += byte(channel);
}

void write(std::string& out, Channel channel, const Json& json) {
  begin(out, channel);
  out += json_util::dump(json);
}

/// Behind a list whose parts are each followed by a comma.
void close_list(std::string& out, char bracket) {
  if (out.back() == ',') out.pop_back();
  out += bracket;
}

// ---- reading ----

/// The members of one object, with the path that a fault shall name.
class Reader {
 public:
  Reader(const Value& object, std::string path) : object_(object), path_(std::move(path)) {}

  [[nodiscard]] std::string name(const char* member) const { return path_ + ": " + member; }
  [[nodiscard]] const Value* find(const char* member) const { return object_.find(member); }

  [[nodiscard]] std::optional<std::uint64_t> integer(const char* member, std::uint64_t max = kMaxInteger) const {
    const Value* value = find(member);
    if (value == nullptr) return std::nullopt;
    const auto number = value->as_unsigned();
    if (!number || *number > max) fault(name(member) + " must be an integer from 0 to " + std::to_string(max));
    return number;
  }

  [[nodiscard]] std::uint64_t needed(const char* member, std::uint64_t max = kMaxInteger) const {
    const auto value = integer(member, max);
    if (!value) fault(name(member) + " is missing");
    return *value;
  }

  [[nodiscard]] bool boolean(const char* member) const {
    const Value* value = find(member);
    if (value == nullptr) return false;
    if (!value->is(Value::Kind::boolean)) fault(name(member) + " must be true or false");
    return value->as_bool();
  }

  [[nodiscard]] std::string text(const char* member) const {
    const Value* value = find(member);
    if (value == nullptr) return {};
    if (!value->is(Value::Kind::string)) fault(name(member) + " must be a string");
    return value->as_string();
  }

  [[nodiscard]] std::vector<Value> array(const char* member) const {
    const Value* value = find(member);
    if (value == nullptr) return {};
    if (!value->is(Value::Kind::array)) fault(name(member) + " must be an array");
    return value->elements();
  }

  [[nodiscard]] std::optional<Reader> object(const char* member) const {
    const Value* value = find(member);
    if (value == nullptr) return std::nullopt;
    if (!value->is(Value::Kind::object)) fault(name(member) + " must be an object");
    return Reader(*value, name(member));
  }

  [[nodiscard]] const std::vector<json_text::Object::Member>& members() const noexcept { return object_.members(); }

  void set_path(std::string path) { path_ = std::move(path); }

 private:
  json_text::Object object_;
  std::string path_;
};

Value parse_object(Channel channel, std::string_view payload) {
  // Only a start can be that large.
  if (payload.size() > kMaxControlPayload && shape_of(payload, json_util::kMaxDepth) == JsonShape::too_many_values)
    fault(channel_name(static_cast<std::uint8_t>(channel)) + ": holds too many values for its size");
  const auto value = json_text::parse(payload, json_util::kMaxDepth);
  if (!value) {
    const std::string name = channel_name(static_cast<std::uint8_t>(channel));
    fault(name + (nests_deeper(payload, json_util::kMaxDepth) ? ": nested too deeply" : ": not JSON"));
  }
  if (!value->is(Value::Kind::object)) fault(channel_name(static_cast<std::uint8_t>(channel)) + ": not a JSON object");
  return *value;
}

std::string type_of(Channel channel, const Reader& reader) {
  const Value* type = reader.find("type");
  if (type != nullptr && type->is(Value::Kind::string)) return type->as_string();
  fault(channel_name(static_cast<std::uint8_t>(channel)) + (type == nullptr ? ": type is missing" : ": type must be a string"));
}

[[noreturn]] void unknown_type(Channel channel, std::string_view type) {
  fault(channel_name(static_cast<std::uint8_t>(channel)) + ": unknown type \"" + base::printable(type, 48) + "\"");
}

/// A control message whose channel has one type only.
Reader parse_typed(Channel channel, std::string_view payload, const char* type) {
  Reader reader(parse_object(channel, payload), type);
  const std::string got = type_of(channel, reader);
  if (got != type) unknown_type(channel, got);
  return reader;
}

/// The inverse of append_bytes. Arguments, environment and paths cannot hold a NUL: the kernel ends them there.
/// `name` gives the name that a fault shall have.
template <typename Name>
std::string bytes_from_json(const Value& json, const Name& name) {
  std::string bytes;
  if (json.is(Value::Kind::string)) {
    bytes = json.as_string();
  } else if (json.is(Value::Kind::object)) {
    const json_text::Object object(json);
    const Value* encoded = object.find("base64");
    if (encoded == nullptr || !encoded->is(Value::Kind::string)) fault(name() + " must be a string or {\"base64\": ...}");
    auto decoded = base::base64_decode(encoded->as_string());
    if (!decoded) fault(name() + ": base64 is malformed");
    bytes = std::move(*decoded);
  } else {
    fault(name() + " must be a string or {\"base64\": ...}");
  }
  if (bytes.find('\0') != std::string::npos) fault(name() + " holds a NUL");
  return bytes;
}

bool is_id(std::string_view id) {
  if (id.empty() || id.size() > kMaxId) return false;
  for (const char c : id) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_')) return false;
  }
  return true;
}

std::string read_id(const Reader& reader) {
  std::string id = reader.text("id");
  if (!is_id(id)) fault(reader.name("id") + " must be a UUID");
  return id;
}

std::optional<StreamWord> read_word(const Reader& reader, const char* member) {
  const auto stream = reader.object(member);
  if (!stream) return std::nullopt;
  StreamWord word{stream->needed("received"), stream->needed("limit")};
  // An offset below what was received may be a late repetition; far beyond it nobody may promise.
  if (word.limit > word.received && word.limit - word.received > kMaxWindow) {
    fault(reader.name(member) + ": limit is more than " + std::to_string(kMaxWindow) + " beyond received");
  }
  return word;
}

void check_taken(const Reader& reader, const char* member, const std::optional<std::uint64_t>& taken, std::uint64_t received) {
  if (taken && *taken > received) {
    fault(reader.name(member) + " is " + std::to_string(*taken) + ", received " + std::to_string(received));
  }
}

std::optional<StreamWord> read_stdin_word(const Reader& reader) {
  auto word = read_word(reader, "stdin");
  if (!word) return word;
  const auto stream = reader.object("stdin");
  word->taken = stream->integer("taken");
  check_taken(*stream, "taken", word->taken, word->received);
  word->closed = stream->integer("closed");
  check_taken(*stream, "closed", word->closed, word->received);
  return word;
}

void write_word(ObjectWriter& json, std::string_view member, const std::optional<StreamWord>& word) {
  if (!word) return;
  ObjectWriter stream(json.key(member));
  stream.number("received", word->received);
  stream.number("limit", word->limit);
  if (word->taken) stream.number("taken", *word->taken);
  if (word->closed) stream.number("closed", *word->closed);
  stream.end();
}

// ---- exit status ----

constexpr std::array<std::pair<ExitStatus::Outcome, const char*>, 6> kOutcomes = {{
    {ExitStatus::Outcome::exited, "exited"},
    {ExitStatus::Outcome::signaled, "signaled"},
    {ExitStatus::Outcome::timed_out, "timed_out"},
    {ExitStatus::Outcome::cancelled, "cancelled"},
    {ExitStatus::Outcome::failed, "failed"},
    {ExitStatus::Outcome::lost, "lost"},
}};

constexpr std::array<std::pair<ExitStatus::Reason, const char*>, 7> kReasons = {{
    {ExitStatus::Reason::timeout, "timeout"},
    {ExitStatus::Reason::sandbox_stopped, "sandbox_stopped"},
    {ExitStatus::Reason::lifetime, "lifetime"},
    {ExitStatus::Reason::out_of_memory, "out_of_memory"},
    {ExitStatus::Reason::main_ended, "main_ended"},
    {ExitStatus::Reason::gateway_shutdown, "gateway_shutdown"},
    {ExitStatus::Reason::other, "other"},
}};

void write_exit(ObjectWriter& json, const char* type, const ExitStatus& status) {
  json.text("type", type);
  for (const auto& [outcome, name] : kOutcomes) {
    if (outcome == status.outcome) json.text("outcome", name);
  }
  if (status.code) json.key("code") += std::to_string(*status.code);
  if (status.signal) {
    const std::string name = signal_name(*status.signal);
    if (!name.empty()) json.text("signal", name);
    json.key("signalNumber") += std::to_string(*status.signal);
  }
  if (!status.error_name.empty() || !status.error_what.empty() || !status.message.empty()) {
    ObjectWriter error(json.key("error"));
    if (!status.error_name.empty()) error.text("errno", status.error_name);
    if (!status.error_what.empty()) error.text("what", status.error_what);
    if (!status.message.empty()) error.text("message", status.message);
    error.end();
  }
  for (const auto& [reason, name] : kReasons) {
    if (reason == status.reason) json.text("reason", name);
  }
  if (status.stdout_open || status.stderr_open) {
    std::string& out = json.key("open");
    out += status.stdout_open && status.stderr_open ? R"(["stdout","stderr"])"
           : status.stdout_open                     ? R"(["stdout"])"
                                                    : R"(["stderr"])";
  }
  if (status.written) {
    ObjectWriter written(json.key("written"));
    written.number("stdout", (*status.written)[0]);
    written.number("stderr", (*status.written)[1]);
    written.end();
  }
  if (status.group_gone) json.boolean("groupGone", true);
  if (status.start_time_ms != 0) json.number("startTimeMs", status.start_time_ms);
  if (status.end_time_ms != 0) json.number("endTimeMs", status.end_time_ms);
}

ExitStatus exit_from_json(const Reader& reader) {
  ExitStatus status;
  const std::string outcome = reader.text("outcome");
  bool known = false;
  for (const auto& [value, name] : kOutcomes) {
    if (outcome == name) status.outcome = value, known = true;
  }
  if (!known) fault(reader.name("outcome") + " is unknown: \"" + base::printable(outcome, 32) + "\"");
  if (const auto code = reader.integer("code", std::numeric_limits<std::int32_t>::max())) status.code = static_cast<int>(*code);
  if (const auto number = reader.integer("signalNumber", 255)) {
    status.signal = static_cast<int>(*number);
  } else if (const std::string name = reader.text("signal"); !name.empty()) {
    status.signal = signal_number(name);
    if (!status.signal) fault(reader.name("signal") + " is unknown: \"" + base::printable(name, 32) + "\"");
  }
  // A missing status is never turned into 0 (EX-11): such a message says nothing.
  if (status.outcome == ExitStatus::Outcome::exited && !status.code) fault(reader.name("code") + " is missing");
  if (status.outcome == ExitStatus::Outcome::signaled && !status.signal) fault(reader.name("signal") + " is missing");
  if (const auto error = reader.object("error")) {
    status.error_name = error->text("errno");
    status.error_what = error->text("what");
    status.message = error->text("message");
  }
  if (const std::string reason = reader.text("reason"); !reason.empty()) {
    status.reason = ExitStatus::Reason::other;  // a newer server may know more of them
    for (const auto& [value, name] : kReasons) {
      if (reason == name) status.reason = value;
    }
  }
  for (const Value& stream : reader.array("open")) {
    if (!stream.is(Value::Kind::string)) fault(reader.name("open") + " must hold names of streams");
    const std::string name = stream.as_string();
    status.stdout_open = status.stdout_open || name == "stdout";
    status.stderr_open = status.stderr_open || name == "stderr";
  }
  if (const auto written = reader.object("written")) status.written = {written->needed("stdout"), written->needed("stderr")};
  status.group_gone = reader.boolean("groupGone");
  status.start_time_ms = reader.integer("startTimeMs").value_or(0);
  status.end_time_ms = reader.integer("endTimeMs").value_or(0);
  return status;
}

StatusError error_from_json(const Reader& reader) {
  StatusError error;
  const std::string code = reader.text("code");
  if (code.empty()) fault(reader.name("code") + " is missing");
  error.code = base::parse_error_code(code).value_or(ErrorCode::unknown);
  error.message = reader.text("message");
  error.reason = reader.text("reason");
  if (const auto metadata = reader.object("metadata")) {
    for (const auto& [key, value] : metadata->members()) {
      if (value.is(Value::Kind::string)) error.metadata.insert_or_assign(key.as_string(), value.as_string());
    }
  }
  error.retry_delay_ms = reader.integer("retryDelayMs");
  return error;
}

std::uint64_t max_dimension() { return std::numeric_limits<std::uint16_t>::max(); }

}  // namespace

void fault(std::string_view reason, CloseCode code) { throw Fault{ProtocolError{code, base::printable(reason, kMaxReason)}}; }

std::string channel_name(std::uint8_t channel) {
  switch (static_cast<Channel>(channel)) {
    case Channel::std_in:
      return "stdin";
    case Channel::std_out:
      return "stdout";
    case Channel::std_err:
      return "stderr";
    case Channel::status:
      return "status";
    case Channel::resize:
      return "resize";
    case Channel::start:
      return "start";
    case Channel::window:
      return "window";
    case Channel::signal:
      return "signal";
    case Channel::resume:
      return "resume";
    case Channel::close:
      return "close";
  }
  return "channel " + std::to_string(channel);
}

std::size_t max_payload(std::uint8_t channel) noexcept {
  switch (static_cast<Channel>(channel)) {
    case Channel::std_in:
    case Channel::std_out:
    case Channel::std_err:
      return kMaxDataPayload;
    case Channel::start:
      return kMaxStartPayload;
    case Channel::status:
    case Channel::resize:
    case Channel::window:
    case Channel::signal:
    case Channel::resume:
      return kMaxControlPayload;
    case Channel::close:
      return 1;
  }
  return 0;
}

void check_size(std::uint8_t channel, std::string_view payload) {
  const std::size_t max = max_payload(channel);
  if (max == 0) fault("channel " + std::to_string(channel) + " is unknown");
  if (channel == static_cast<std::uint8_t>(Channel::close)) return;  // decode_close says it better
  if (payload.size() > max) {
    fault(channel_name(channel) + ": " + std::to_string(payload.size()) + " bytes, at most " + std::to_string(max),
          CloseCode::too_big);
  }
}

void encode_window(std::string& out, const WindowMessage& message) {
  begin(out, Channel::window);
  ObjectWriter json(out);
  json.text("type", "window");
  write_word(json, "stdin", message.std_in);
  write_word(json, "stdout", message.std_out);
  write_word(json, "stderr", message.std_err);
  if (message.flush) json.number("flush", *message.flush);
  if (message.release) json.boolean("release", true);
  json.end();
}

WindowMessage decode_window(std::string_view payload) {
  const Reader reader = parse_typed(Channel::window, payload, "window");
  WindowMessage message;
  message.std_in = read_stdin_word(reader);
  message.std_out = read_word(reader, "stdout");
  message.std_err = read_word(reader, "stderr");
  message.flush = reader.integer("flush");
  message.release = reader.boolean("release");
  return message;
}

bool is_process_id(std::string_view id) { return is_id(id); }

namespace {

void write_command(ObjectWriter& json, const std::vector<std::string>& command) {
  std::string& out = json.key("command");
  out += '[';
  for (const auto& argument : command) {
    append_bytes(out, argument);
    out += ',';
  }
  close_list(out, ']');
}

std::vector<std::string> read_command(const Reader& reader, const char* message) {
  const auto arguments = reader.array("command");
  std::vector<std::string> command;
  command.reserve(arguments.size());
  for (const auto& argument : arguments) {
    command.push_back(
        bytes_from_json(argument, [&] { return std::string(message) + ": command[" + std::to_string(command.size()) + "]"; }));
  }
  return command;
}

}  // namespace

void encode_start(std::string& out, const StartRequest& request) {
  begin(out, Channel::start);
  ObjectWriter json(out);
  json.text("type", "start");
  json.text("id", request.id);
  json.text("sandboxId", request.sandbox_id);
  write_command(json, request.command);
  if (!request.env.empty()) {
    bool names_are_text = true;
    for (const auto& [name, value] : request.env) names_are_text = names_are_text && base::is_utf8(name);
    json.key("env") += names_are_text ? '{' : '[';
    for (const auto& [name, value] : request.env) {
      if (!names_are_text) out += '[';
      append_bytes(out, name);
      out += names_are_text ? ':' : ',';
      append_bytes(out, value);
      out += names_are_text ? "," : "],";
    }
    close_list(out, names_are_text ? '}' : ']');
  }
  if (!request.cwd.empty()) append_bytes(json.key("cwd"), request.cwd);
  if (request.use_stdin) json.boolean("stdin", true);
  if (request.tty) {
    json.boolean("tty", true);
    if (request.tty_width != 0) json.number("width", request.tty_width);
    if (request.tty_height != 0) json.number("height", request.tty_height);
  }
  if (request.timeout_ms != 0) json.number("timeoutMs", request.timeout_ms);
  json.number("graceMs", request.grace_ms);
  if (request.drain_ms != 0) json.number("drainMs", request.drain_ms);
  ObjectWriter window(json.key("window"));
  window.number("stdout", request.stdout_limit);
  window.number("stderr", request.stderr_limit);
  window.end();
  if (request.attempt != 0) json.number("attempt", request.attempt);
  json.end();
}

StartRequest decode_start(std::string_view payload) {
  const Reader reader = parse_typed(Channel::start, payload, "start");
  StartRequest request;
  request.id = read_id(reader);
  request.sandbox_id = reader.text("sandboxId");
  request.command = read_command(reader, "start");
  if (const Value* env = reader.find("env")) {
    if (env->is(Value::Kind::object)) {
      const json_text::Object variables(*env);
      for (const auto& [key, value] : variables.members()) {
        std::string name = key.as_string();
        const auto where = [&] { return "start: env[\"" + base::printable(name, 48) + "\"]"; };
        if (name.find('\0') != std::string::npos) fault(where() + ": the name holds a NUL");
        std::string bytes = bytes_from_json(value, where);
        request.env.insert_or_assign(std::move(name), std::move(bytes));
      }
    } else if (env->is(Value::Kind::array)) {
      std::size_t index = 0;
      for (const auto& entry : env->elements()) {
        const auto where = [&](const char* part) { return "start: env[" + std::to_string(index) + "]" + part; };
        const auto pair = entry.is(Value::Kind::array) ? entry.elements() : std::vector<Value>();
        if (pair.size() != 2) fault(where(" must be [name, value]"));
        std::string name = bytes_from_json(pair[0], [&] { return where("[0]"); });
        request.env.insert_or_assign(std::move(name), bytes_from_json(pair[1], [&] { return where("[1]"); }));
        ++index;
      }
    } else {
      fault("start: env must be an object or an array");
    }
  }
  if (const Value* cwd = reader.find("cwd")) request.cwd = bytes_from_json(*cwd, [] { return std::string("start: cwd"); });
  request.use_stdin = reader.boolean("stdin");
  request.tty = reader.boolean("tty");
  request.tty_width = static_cast<std::uint16_t>(reader.integer("width", max_dimension()).value_or(0));
  request.tty_height = static_cast<std::uint16_t>(reader.integer("height", max_dimension()).value_or(0));
  request.timeout_ms = reader.integer("timeoutMs").value_or(0);
  request.grace_ms = reader.integer("graceMs").value_or(request.grace_ms);
  request.drain_ms = reader.integer("drainMs").value_or(0);
  if (const auto window = reader.object("window")) {
    request.stdout_limit = window->integer("stdout", kMaxWindow).value_or(kDefaultWindow);
    request.stderr_limit = window->integer("stderr", kMaxWindow).value_or(kDefaultWindow);
  }
  request.attempt = reader.integer("attempt").value_or(0);
  return request;
}

void encode_resume(std::string& out, const ResumeRequest& request) {
  Json json{{"type", "resume"}, {"id", request.id}, {"sandboxId", request.sandbox_id}};
  json["stdout"] = Json{{"received", request.stdout_received}, {"limit", request.stdout_limit}};
  json["stderr"] = Json{{"received", request.stderr_received}, {"limit", request.stderr_limit}};
  if (request.attempt != 0) json["attempt"] = request.attempt;
  if (request.describe) json["describe"] = true;
  write(out, Channel::resume, json);
}

ResumeRequest decode_resume(std::string_view payload) {
  const Reader reader = parse_typed(Channel::resume, payload, "resume");
  ResumeRequest request;
  request.id = read_id(reader);
  request.sandbox_id = reader.text("sandboxId");
  const auto out = read_word(reader, "stdout");
  const auto err = read_word(reader, "stderr");
  if (!out) fault("resume: stdout is missing");
  if (!err) fault("resume: stderr is missing");
  request.stdout_received = out->received;
  request.stdout_limit = out->limit;
  request.stderr_received = err->received;
  request.stderr_limit = err->limit;
  request.attempt = reader.integer("attempt").value_or(0);
  request.describe = reader.boolean("describe");
  return request;
}

void encode_resumed(std::string& out, const ResumedMessage& message) {
  begin(out, Channel::resume);
  ObjectWriter json(out);
  json.text("type", "resumed");
  write_word(json, "stdin", message.std_in);
  if (message.signals != 0) json.number("signals", message.signals);
  if (message.pid) json.number("pid", *message.pid);
  if (!message.command.empty()) {
    const std::size_t before = out.size();
    write_command(json, message.command);
    if (out.size() > kMaxControlPayload) out.resize(before);
  }
  json.end();
}

ResumedMessage decode_resumed(std::string_view payload) {
  const Reader reader = parse_typed(Channel::resume, payload, "resumed");
  const auto word = read_stdin_word(reader);
  if (!word) fault("resumed: stdin is missing");
  ResumedMessage message{*word, reader.integer("signals").value_or(0)};
  message.pid = reader.integer("pid");
  message.command = read_command(reader, "resumed");
  return message;
}

void encode_started(std::string& out, const StartedMessage& message) {
  begin(out, Channel::status);
  ObjectWriter json(out);
  json.text("type", "started");
  json.text("id", message.id);
  json.number("pid", message.pid);
  json.boolean("attached", message.attached);
  ObjectWriter window(json.key("window"));
  window.number("stdin", message.stdin_limit);
  window.end();
  if (message.attached) {
    ObjectWriter received(json.key("received"));
    received.number("stdin", message.stdin_received);
    received.end();
    if (message.stdin_taken != message.stdin_received) {
      ObjectWriter taken(json.key("taken"));
      taken.number("stdin", message.stdin_taken);
      taken.end();
    }
    json.number("signals", message.signals);
  }
  json.end();
}

void encode_ended(std::string& out, const ExitStatus& status) {
  begin(out, Channel::status);
  ObjectWriter json(out);
  write_exit(json, "ended", status);
  json.end();
}

void encode_exit(std::string& out, const ExitMessage& message) {
  begin(out, Channel::status);
  ObjectWriter json(out);
  write_exit(json, "exit", message.status);
  json.number("stdout", message.stdout_total);
  json.number("stderr", message.stderr_total);
  if (message.stdin_taken) json.number("stdin", *message.stdin_taken);
  json.end();
}

void encode_status_error(std::string& out, const StatusError& error) {
  // The message is read by people and may come from anywhere: it must not grow beyond what a control message carries.
  constexpr std::size_t kMaxText = 8 * 1024;
  Json json{{"type", "error"}, {"code", base::to_string(error.code)}};
  if (!error.message.empty()) json["message"] = error.message.substr(0, kMaxText);
  if (!error.reason.empty()) json["reason"] = error.reason.substr(0, kMaxText);
  if (!error.metadata.empty()) {
    Json& metadata = json["metadata"] = Json::object();
    std::size_t total = 0;
    for (const auto& [key, value] : error.metadata) {
      total += key.size() + value.size();
      if (total > kMaxText) break;
      metadata[key] = value;
    }
  }
  if (error.retry_delay_ms) json["retryDelayMs"] = *error.retry_delay_ms;
  write(out, Channel::status, json);
}

StatusMessage decode_status(std::string_view payload) {
  Reader reader(parse_object(Channel::status, payload), "status");
  const std::string type = type_of(Channel::status, reader);
  reader.set_path(type);
  if (type == "started") {
    StartedMessage message;
    message.id = reader.text("id");
    message.pid = reader.integer("pid").value_or(0);
    message.attached = reader.boolean("attached");
    if (const auto received = reader.object("received")) message.stdin_received = received->integer("stdin").value_or(0);
    message.stdin_taken = message.stdin_received;
    if (const auto taken = reader.object("taken")) {
      const auto bytes = taken->integer("stdin");
      check_taken(*taken, "stdin", bytes, message.stdin_received);
      message.stdin_taken = bytes.value_or(message.stdin_received);
    }
    message.stdin_limit = message.stdin_received + kInitialStdinWindow;
    if (const auto window = reader.object("window")) {
      message.stdin_limit = window->integer("stdin").value_or(message.stdin_limit);
    }
    if (message.stdin_limit > message.stdin_received && message.stdin_limit - message.stdin_received > kMaxWindow) {
      fault("started: window: stdin is more than " + std::to_string(kMaxWindow) + " beyond received");
    }
    message.signals = reader.integer("signals").value_or(0);
    return message;
  }
  if (type == "ended") return EndedMessage{exit_from_json(reader)};
  if (type == "exit") {
    ExitMessage message;
    message.status = exit_from_json(reader);
    message.stdout_total = reader.needed("stdout");
    message.stderr_total = reader.needed("stderr");
    message.stdin_taken = reader.integer("stdin");
    return message;
  }
  if (type == "error") return error_from_json(reader);
  unknown_type(Channel::status, type);
}

void encode_signal(std::string& out, const SignalMessage& message) {
  Json json{{"type", "signal"}};
  std::string name = signal_name(message.number);
  if (name.empty()) {
    json["signal"] = message.number;
  } else {
    json["signal"] = std::move(name);
  }
  if (message.sequence != 0) json["seq"] = message.sequence;
  write(out, Channel::signal, json);
}

void encode_cancel(std::string& out, const CancelRequest& request) {
  Json json{{"type", "cancel"}};
  if (request.grace_ms) json["graceMs"] = *request.grace_ms;
  write(out, Channel::signal, json);
}

std::variant<SignalMessage, CancelRequest> decode_signal(std::string_view payload) {
  Reader reader(parse_object(Channel::signal, payload), "signal");
  const std::string type = type_of(Channel::signal, reader);
  if (type == "cancel") {
    reader.set_path(type);
    return CancelRequest{reader.integer("graceMs")};
  }
  if (type != "signal") unknown_type(Channel::signal, type);
  SignalMessage message;
  const Value* signal = reader.find("signal");
  if (signal == nullptr) fault("signal: signal is missing");
  std::optional<int> number;
  std::string given;
  if (signal->is(Value::Kind::string)) {
    given = signal->as_string();
    number = signal_number(given);
  } else if (signal->is(Value::Kind::number) && signal->raw().find_first_of(".eE") == std::string_view::npos) {
    given = signal->raw();
    number = signal_number(given);
  } else {
    fault("signal: signal must be a name or a number");
  }
  if (!number) fault("signal: signal is unknown: \"" + base::printable(given, 32) + "\"");
  message.number = *number;
  message.sequence = reader.integer("seq").value_or(0);
  return message;
}

void encode_resize(std::string& out, const ResizeRequest& request) {
  write(out, Channel::resize, Json{{"type", "resize"}, {"width", request.width}, {"height", request.height}});
}

ResizeRequest decode_resize(std::string_view payload) {
  const Reader reader = parse_typed(Channel::resize, payload, "resize");
  ResizeRequest request;
  request.width = static_cast<std::uint16_t>(reader.needed("width", max_dimension()));
  request.height = static_cast<std::uint16_t>(reader.needed("height", max_dimension()));
  if (request.width == 0) fault("resize: width must be at least 1");
  if (request.height == 0) fault("resize: height must be at least 1");
  return request;
}

void encode_close(std::string& out, Channel stream) {
  begin(out, Channel::close);
  out += byte(stream);
}

Channel decode_close(std::string_view payload) {
  if (payload.size() != 1) fault("close: the payload must be one byte, the stream");
  const auto number = static_cast<std::uint8_t>(payload[0]);
  if (number > static_cast<std::uint8_t>(Channel::std_err)) fault("close: " + channel_name(number) + " is no stream");
  return static_cast<Channel>(number);
}

FirstMessage parse_first_message(std::uint8_t channel, std::string_view payload) {
  try {
    check_size(channel, payload);
    if (channel == static_cast<std::uint8_t>(Channel::start)) return decode_start(payload);
    if (channel == static_cast<std::uint8_t>(Channel::resume)) return decode_resume(payload);
    fault(channel_name(channel) + ": no process is under way; expected start or resume");
  } catch (const Fault& f) {
    return f.error;
  }
}

std::optional<StatusError> validate(const StartRequest& request) {
  const auto invalid = [](std::string field, const std::string& why) {
    StatusError error{ErrorCode::invalid_argument, field + " " + why, "CWSANDBOX_INVALID_REQUEST", {}, std::nullopt};
    error.metadata.emplace("field", std::move(field));
    return error;
  };
  const auto has_nul = [](const std::string& text) { return text.find('\0') != std::string::npos; };
  if (!is_id(request.id)) return invalid("id", "must be a UUID");
  if (request.sandbox_id.empty()) return invalid("sandboxId", "is empty");
  if (request.command.empty()) return invalid("command", "is empty");
  if (request.command.front().empty()) return invalid("command[0]", "is empty: it names the program");
  std::size_t total = 0;
  for (std::size_t i = 0; i < request.command.size(); ++i) {
    if (has_nul(request.command[i])) return invalid("command[" + std::to_string(i) + "]", "holds a NUL");
    total += request.command[i].size() + 3;
  }
  for (const auto& [name, value] : request.env) {
    const std::string field = "env[\"" + base::printable(name, 48) + "\"]";
    if (name.empty()) return invalid(field, "has an empty name");
    if (name.find('=') != std::string::npos) return invalid(field, "has a '=' in its name");
    if (has_nul(name)) return invalid(field, "has a NUL in its name");
    if (has_nul(value)) return invalid(field, "holds a NUL");
    total += name.size() + value.size() + 6;
  }
  if (!request.cwd.empty() && request.cwd.front() != '/') return invalid("cwd", "must be an absolute path");
  if (has_nul(request.cwd)) return invalid("cwd", "holds a NUL");
  if (request.tty_width != 0 && !request.tty) return invalid("width", "needs a terminal");
  if (request.tty_height != 0 && !request.tty) return invalid("height", "needs a terminal");
  if (request.timeout_ms > kMaxInteger) return invalid("timeoutMs", "is too large");
  if (request.grace_ms > kMaxInteger) return invalid("graceMs", "is too large");
  if (request.stdout_limit > kMaxWindow) return invalid("window.stdout", "is more than " + std::to_string(kMaxWindow));
  if (request.stderr_limit > kMaxWindow) return invalid("window.stderr", "is more than " + std::to_string(kMaxWindow));
  // Escapes and base64 make text longer on the wire: only what may not fit is encoded to see.
  if (total > kMaxStartPayload / 8) {
    std::string encoded;
    encode_start(encoded, request);
    if (encoded.size() > kMaxMessage) {
      return invalid("command",
                     "and env take " + std::to_string(encoded.size()) + " bytes, at most " + std::to_string(kMaxMessage));
    }
  }
  return std::nullopt;
}

}  // namespace cwsandbox::protocol
