#include "runner/remote/messages.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <limits>
#include <utility>

#include "base/base64.hpp"
#include "base/errno_text.hpp"
#include "base/error_code.hpp"
#include "base/text.hpp"
#include "messages/json_text.hpp"
#include "protocol/exec_stream.hpp"

namespace cwsandbox::runner::remote {

namespace {

using messages::json_text::append_bytes;
using messages::json_text::append_number;
using messages::json_text::ObjectWriter;
using messages::json_text::Value;

constexpr std::size_t kMaxDepth = 8;
constexpr std::size_t kMaxText = 8 * 1024;  // of an error
constexpr int kMostExitCode = 255, kMostSignal = 64;
constexpr std::size_t kMaxWord = 64;  // a code, a reason, the name of a piece of metadata

constexpr std::array<std::pair<Control::Type, std::string_view>, 9> kTypes = {{
    {Control::Type::hello, "hello"},
    {Control::Type::welcome, "welcome"},
    {Control::Type::refused, "refused"},
    {Control::Type::running, "running"},
    {Control::Type::ended, "ended"},
    {Control::Type::ack, "ack"},
    {Control::Type::bye, "bye"},
    {Control::Type::ping, "ping"},
    {Control::Type::pong, "pong"},
}};

constexpr std::array<std::pair<Control::State, std::string_view>, 4> kStates = {{
    {Control::State::empty, "empty"},
    {Control::State::creating, "creating"},
    {Control::State::running, "running"},
    {Control::State::ended, "ended"},
}};

constexpr std::array<std::pair<FileEvent::Kind, std::string_view>, 10> kEventKinds = {{
    {FileEvent::Kind::created, "created"},
    {FileEvent::Kind::modified, "modified"},
    {FileEvent::Kind::closed, "closed"},
    {FileEvent::Kind::attributes, "attributes"},
    {FileEvent::Kind::deleted, "deleted"},
    {FileEvent::Kind::renamed, "renamed"},
    {FileEvent::Kind::moved_in, "movedIn"},
    {FileEvent::Kind::moved_out, "movedOut"},
    {FileEvent::Kind::gone, "gone"},
    {FileEvent::Kind::overflow, "overflow"},
}};

constexpr std::array<std::pair<Op, std::string_view>, 20> kOps = {{
    {Op::stage, "stage"},
    {Op::create, "create"},
    {Op::stop, "stop"},
    {Op::signal, "signal"},
    {Op::close_output, "closeOutput"},
    {Op::forget, "forget"},
    {Op::open, "open"},
    {Op::create_file, "createFile"},
    {Op::stat, "stat"},
    {Op::list, "list"},
    {Op::make_directory, "makeDirectory"},
    {Op::remove, "remove"},
    {Op::rename, "rename"},
    {Op::read, "read"},
    {Op::write, "write"},
    {Op::commit, "commit"},
    {Op::next, "next"},
    {Op::watch, "watch"},
    {Op::events, "events"},
    {Op::close, "close"},
}};

constexpr std::array<std::pair<ExitInfo::Kind, std::string_view>, 3> kKinds = {{
    {ExitInfo::Kind::exited, "exited"},
    {ExitInfo::Kind::signaled, "signaled"},
    {ExitInfo::Kind::lost, "lost"},
}};

constexpr std::array<std::pair<Failure::Kind, std::string_view>, 3> kFailures = {{
    {Failure::Kind::runner, "runner"},
    {Failure::Kind::start, "start"},
    {Failure::Kind::file, "file"},
}};

constexpr std::array<std::pair<FileType, std::string_view>, 8> kFileTypes = {{
    {FileType::unknown, "unknown"},
    {FileType::regular, "regular"},
    {FileType::directory, "directory"},
    {FileType::symlink, "symlink"},
    {FileType::fifo, "fifo"},
    {FileType::socket, "socket"},
    {FileType::block_device, "blockDevice"},
    {FileType::character_device, "characterDevice"},
}};

template <class Names, class Key>
[[nodiscard]] std::string_view name_of(const Names& names, Key key) {
  for (const auto& [value, name] : names) {
    if (value == key) return name;
  }
  return {};
}

// ---- Reading ----

class Reader {
 public:
  explicit Reader(const Value& object) : object_(object) {}

  [[nodiscard]] const Value* find(const char* member) const { return object_.find(member); }
  [[nodiscard]] std::uint64_t integer(const char* member, std::uint64_t most = std::numeric_limits<std::uint64_t>::max()) const {
    const Value* value = find(member);
    if (value == nullptr) return 0;
    const auto number = value->as_unsigned();
    if (!number || *number > most) wrong(member);
    return *number;
  }
  [[nodiscard]] bool boolean(const char* member) const {
    const Value* value = typed(member, Value::Kind::boolean);
    return value != nullptr && value->as_bool();
  }
  [[nodiscard]] std::string text(const char* member) const {
    const Value* value = typed(member, Value::Kind::string);
    return value == nullptr ? std::string() : value->as_string();
  }
  [[nodiscard]] std::string bytes(const char* member) const {
    const Value* value = find(member);
    return value == nullptr ? std::string() : bytes_of(*value, member);
  }
  [[nodiscard]] std::vector<Value> array(const char* member) const {
    const Value* value = typed(member, Value::Kind::array);
    return value == nullptr ? std::vector<Value>() : value->elements();
  }
  [[nodiscard]] std::optional<Reader> object(const char* member) const {
    const Value* value = typed(member, Value::Kind::object);
    return value == nullptr ? std::nullopt : std::optional<Reader>(*value);
  }
  [[nodiscard]] const std::vector<messages::json_text::Object::Member>& members() const noexcept { return object_.members(); }
  template <class Names>
  [[nodiscard]] auto one_of(const char* member, const Names& names) const {
    const std::string got = text(member);
    for (const auto& [value, name] : names) {
      if (name == got) return value;
    }
    wrong(member);
  }

  [[nodiscard]] static std::string bytes_of(const Value& value, const char* member) {
    if (value.is(Value::Kind::string)) return value.as_string();
    if (value.is(Value::Kind::object)) {
      const messages::json_text::Object object(value);
      const Value* encoded = object.find("base64");
      if (encoded != nullptr && encoded->is(Value::Kind::string)) {
        if (auto decoded = base::base64_decode(encoded->as_string())) return std::move(*decoded);
      }
    }
    wrong(member);
  }
  [[noreturn]] static void wrong(const char* member) { throw Violation(std::string("tunnel: the value of ") + member); }

 private:
  [[nodiscard]] const Value* typed(const char* member, Value::Kind kind) const {
    const Value* value = find(member);
    if (value != nullptr && !value->is(kind)) wrong(member);
    return value;
  }

  messages::json_text::Object object_;
};

[[nodiscard]] Value parse(std::string_view text) {
  const auto value = messages::json_text::parse(text, kMaxDepth);
  if (!value || !value->is(Value::Kind::object)) throw Violation("tunnel: not a JSON object");
  return *value;
}

template <class Number>
[[nodiscard]] Number number_from(const std::string& text, const char* member) {
  Number number{};
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (ec != std::errc() || end != text.data() + text.size()) Reader::wrong(member);
  return number;
}

// ---- Parts ----

// Times before 1970, and to the nanosecond: more than JSON's numbers are good for.
using Nanoseconds = std::chrono::time_point<std::chrono::system_clock, std::chrono::nanoseconds>;

[[nodiscard]] std::string time_text(std::chrono::system_clock::time_point time) {
  return std::to_string(std::chrono::time_point_cast<std::chrono::nanoseconds>(time).time_since_epoch().count());
}

[[nodiscard]] std::chrono::system_clock::time_point time_from(const Reader& reader, const char* member) {
  const std::string text = reader.text(member);
  if (text.empty()) return {};
  const Nanoseconds time(std::chrono::nanoseconds(number_from<std::int64_t>(text, member)));
  return std::chrono::time_point_cast<std::chrono::system_clock::duration>(time);
}

void write_exit(ObjectWriter& json, const ExitInfo& exit) {
  ObjectWriter part(json.key("exit"));
  part.text("kind", name_of(kKinds, exit.kind));
  part.number("value", static_cast<std::uint64_t>(std::max(exit.value, 0)));
  if (exit.out_of_memory) part.boolean("outOfMemory", true);
  part.text("time", time_text(exit.time));
  part.end();
}

[[nodiscard]] ExitInfo read_exit(const Reader& reader) {
  ExitInfo exit;
  exit.kind = reader.one_of("kind", kKinds);
  exit.value = static_cast<int>(reader.integer("value", std::numeric_limits<int>::max()));
  exit.out_of_memory = reader.boolean("outOfMemory");
  exit.time = time_from(reader, "time");
  check_exit(exit);
  return exit;
}

void write_offsets(ObjectWriter& json, const Offsets& offsets) {
  json.number("stdout", offsets.out);
  json.number("stderr", offsets.err);
}

[[nodiscard]] Offsets read_offsets(const Reader& reader) {
  return {reader.integer("stdout", protocol::kMaxInteger), reader.integer("stderr", protocol::kMaxInteger)};
}

void write_numbers(std::string& out, const std::vector<std::uint64_t>& numbers) {
  out += '[';
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (i > 0) out += ',';
    append_number(out, numbers[i]);
  }
  out += ']';
}

void write_texts(std::string& out, const std::vector<std::string>& texts) {
  out += '[';
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (i > 0) out += ',';
    append_bytes(out, texts[i]);
  }
  out += ']';
}

void write_info(std::string& out, const FileInfo& info) {
  ObjectWriter json(out);
  append_bytes(json.key("name"), info.name);
  json.text("type", name_of(kFileTypes, info.type));
  json.number("size", info.size);
  json.number("mode", info.mode);
  json.number("uid", info.uid);
  json.number("gid", info.gid);
  json.text("modified", time_text(info.modified));
  if (!info.link_target.empty()) append_bytes(json.key("target"), info.link_target);
  json.end();
}

void write_event(std::string& out, const FileEvent& event) {
  ObjectWriter json(out);
  json.text("kind", name_of(kEventKinds, event.kind));
  if (!event.name.empty()) append_bytes(json.key("name"), event.name);
  if (!event.old_name.empty()) append_bytes(json.key("oldName"), event.old_name);
  if (event.directory) json.boolean("directory", true);
  json.end();
}

// One part of a path: whoever puts it behind a directory stays in that.
[[nodiscard]] std::string read_name(const Reader& reader, const char* member) {
  std::string name = reader.bytes(member);
  if (name.find('/') != std::string::npos || name.find('\0') != std::string::npos) Reader::wrong(member);
  return name;
}

// No answer has more of them, and none is looked at of one that has.
[[nodiscard]] std::vector<Value> some(const Reader& reader, const char* member) {
  std::vector<Value> values = reader.array(member);
  if (values.size() > kMaxEntries) Reader::wrong(member);
  return values;
}

[[nodiscard]] FileEvent read_event(const Value& value) {
  if (!value.is(Value::Kind::object)) Reader::wrong("events");
  const Reader reader(value);
  FileEvent event;
  event.kind = reader.one_of("kind", kEventKinds);
  event.name = read_name(reader, "name");
  event.old_name = read_name(reader, "oldName");
  event.directory = reader.boolean("directory");
  return event;
}

[[nodiscard]] FileInfo read_info(const Value& value) {
  if (!value.is(Value::Kind::object)) Reader::wrong("entries");
  const Reader reader(value);
  FileInfo info;
  info.name = read_name(reader, "name");
  info.type = reader.one_of("type", kFileTypes);
  info.size = reader.integer("size");
  info.mode = static_cast<std::uint32_t>(reader.integer("mode", 07777));
  info.uid = static_cast<std::uint32_t>(reader.integer("uid", std::numeric_limits<std::uint32_t>::max()));
  info.gid = static_cast<std::uint32_t>(reader.integer("gid", std::numeric_limits<std::uint32_t>::max()));
  info.modified = time_from(reader, "modified");
  info.link_target = reader.bytes("target");
  return info;
}

void write_failure(ObjectWriter& json, const Failure& failure) {
  ObjectWriter part(json.key("failure"));
  part.text("kind", name_of(kFailures, failure.kind));
  if (failure.error != 0) part.text("errno", base::errno_name(failure.error));
  if (!failure.what.empty()) append_bytes(part.key("what"), failure.what);
  if (failure.kind == Failure::Kind::runner) part.text("code", base::to_string(failure.code));
  if (!failure.reason.empty()) part.text("reason", failure.reason);
  append_bytes(part.key("message"), std::string_view(failure.message).substr(0, kMaxText));
  if (!failure.metadata.empty()) {
    ObjectWriter metadata(part.key("metadata"));
    std::size_t total = 0;
    for (const auto& [name, value] : failure.metadata) {
      if ((total += name.size() + value.size()) > kMaxText) break;
      std::string quoted;
      messages::json_text::append_string(quoted, name);
      metadata.text(std::string_view(quoted).substr(1, quoted.size() - 2), value);
    }
    metadata.end();
  }
  part.end();
}

[[nodiscard]] Failure read_failure(const Reader& reader) {
  Failure failure;
  failure.kind = reader.one_of("kind", kFailures);
  if (const std::string name = reader.text("errno"); !name.empty()) failure.error = base::errno_number(name);
  failure.what = reader.bytes("what");
  const std::string code = reader.text("code");
  failure.code = base::parse_error_code(code).value_or(ErrorCode::unknown);
  failure.reason = reader.text("reason");
  failure.message = reader.bytes("message");
  if (const auto metadata = reader.object("metadata")) {
    for (const auto& [name, value] : metadata->members()) {
      if (value.is(Value::Kind::string)) failure.metadata.insert_or_assign(name.as_string(), value.as_string());
    }
  }
  if (failure.kind == Failure::Kind::runner ? code.empty() : failure.error == 0) Reader::wrong("failure");
  return failure;
}

// Channel and length come first, the length when the text is there.
[[nodiscard]] std::string begin_call(std::uint8_t channel) {
  std::string out(5, '\0');
  out[0] = static_cast<char>(channel);
  return out;
}

void end_call(std::string& out) {
  const std::size_t size = out.size() - 5;
  for (std::size_t i = 0; i < 4; ++i) out[1 + i] = static_cast<char>(size >> (24 - 8 * i));
}

// The JSON text and the bytes behind it.
[[nodiscard]] std::pair<std::string_view, std::string_view> split_call(std::string_view payload) {
  if (payload.size() < 4) throw Violation("tunnel: a call without its length");
  std::size_t size = 0;
  for (std::size_t i = 0; i < 4; ++i) size = size << 8 | static_cast<unsigned char>(payload[i]);
  payload.remove_prefix(4);
  if (size > payload.size()) throw Violation("tunnel: a call's text is longer than its frame");
  return {payload.substr(0, size), payload.substr(size)};
}

}  // namespace

// ---- Control ----

std::string encode_control(const Control& control) {
  using Type = Control::Type;
  std::string out(1, static_cast<char>(kControlChannel));
  ObjectWriter json(out);
  json.text("type", name_of(kTypes, control.type));
  if (control.type == Type::hello || control.type == Type::welcome) json.number("version", control.version);
  if (control.type == Type::hello) {
    json.text("session", control.session);
    json.text("key", control.key);
    json.number("graceMs", static_cast<std::uint64_t>(std::max<std::int64_t>(control.grace.count(), 0)));
  }
  if (control.resumed) json.boolean("resumed", true);
  if (control.type == Type::hello || control.type == Type::welcome || control.type == Type::ack)
    write_numbers(json.key("calls"), control.calls);
  if (control.type == Type::welcome) json.text("state", name_of(kStates, control.state));
  if (control.appends) json.boolean("appends", true);
  if (control.watches) json.boolean("watches", true);
  if (control.type == Type::welcome || control.type == Type::running) write_offsets(json, control.main);
  if (control.exit) write_exit(json, *control.exit);
  if (control.type == Type::refused) {
    json.text("code", base::to_string(control.code));
    json.text("message", std::string_view(control.message).substr(0, kMaxText));
  }
  json.end();
  return out;
}

Control decode_control(std::string_view payload) {
  using Type = Control::Type;
  const Reader reader(parse(payload));
  Control control;
  control.type = reader.one_of("type", kTypes);
  control.version = reader.integer("version");
  control.session = reader.text("session");
  control.key = reader.text("key");
  control.resumed = reader.boolean("resumed");
  control.appends = reader.boolean("appends");
  control.watches = reader.boolean("watches");
  control.grace = std::chrono::milliseconds(reader.integer("graceMs", protocol::kMaxInteger));
  for (const Value& id : reader.array("calls")) {
    const auto number = id.as_unsigned();
    if (!number || control.calls.size() == kMaxCallsTaken) Reader::wrong("calls");
    control.calls.push_back(*number);
  }
  if (control.type == Type::welcome) control.state = reader.one_of("state", kStates);
  control.main = read_offsets(reader);
  if (const auto exit = reader.object("exit")) control.exit = read_exit(*exit);
  control.code = base::parse_error_code(reader.text("code")).value_or(ErrorCode::unknown);
  control.message = reader.text("message");
  if ((control.type == Type::ended || control.state == Control::State::ended) && !control.exit) Reader::wrong("exit");
  return control;
}

// ---- Calls ----

std::string encode_request(const Request& request) {
  std::string out = begin_call(kRequestChannel);
  ObjectWriter json(out);
  json.number("id", request.id);
  json.text("op", name_of(kOps, request.op));
  if (!request.path.empty()) append_bytes(json.key("path"), request.path);
  if (!request.second.empty()) append_bytes(json.key("second"), request.second);
  if (request.flag) json.boolean("flag", true);
  if (request.append) json.boolean("append", true);
  if (request.mode) json.number("mode", *request.mode);
  if (request.modified) json.text("modified", time_text(*request.modified));
  if (request.handle != 0) json.number("handle", request.handle);
  if (request.offset != 0) json.number("offset", request.offset);
  if (request.size != 0) json.number("size", request.size);
  if (request.grace.count() > 0) json.number("graceMs", static_cast<std::uint64_t>(request.grace.count()));
  if (request.stream != 0) json.number("stream", request.stream);
  if (request.number > 0) json.number("number", static_cast<std::uint64_t>(request.number));
  if (!request.command.empty()) write_texts(json.key("command"), request.command);
  if (!request.env.empty()) {
    std::vector<std::string> pairs;
    for (const auto& [name, value] : request.env) pairs.insert(pairs.end(), {name, value});
    write_texts(json.key("env"), pairs);
  }
  json.end();
  end_call(out);
  return out;
}

Decoded<Request> decode_request(std::string_view payload) {
  const auto [text, bytes] = split_call(payload);
  const Reader reader(parse(text));
  Request request;
  request.id = reader.integer("id");
  request.op = reader.one_of("op", kOps);
  request.path = reader.bytes("path");
  request.second = reader.bytes("second");
  request.flag = reader.boolean("flag");
  request.append = reader.boolean("append");
  if (reader.find("mode") != nullptr) {
    request.mode = static_cast<std::uint32_t>(reader.integer("mode", std::numeric_limits<std::uint32_t>::max()));
  }
  if (reader.find("modified") != nullptr) request.modified = time_from(reader, "modified");
  request.handle = reader.integer("handle");
  request.offset = reader.integer("offset");
  request.size = reader.integer("size");
  request.grace = std::chrono::milliseconds(reader.integer("graceMs", protocol::kMaxInteger));
  request.stream = static_cast<std::uint32_t>(reader.integer("stream", std::numeric_limits<std::uint32_t>::max()));
  request.number = static_cast<int>(reader.integer("number", std::numeric_limits<int>::max()));
  for (const Value& word : reader.array("command")) request.command.push_back(Reader::bytes_of(word, "command"));
  const std::vector<Value> env = reader.array("env");
  if (env.size() % 2 != 0) Reader::wrong("env");
  for (std::size_t i = 0; i < env.size(); i += 2) {
    request.env.insert_or_assign(Reader::bytes_of(env[i], "env"), Reader::bytes_of(env[i + 1], "env"));
  }
  return {std::move(request), bytes};
}

std::string encode_answer(const Answer& answer) {
  std::string out = begin_call(kAnswerChannel);
  ObjectWriter json(out);
  json.number("id", answer.id);
  if (answer.failure) write_failure(json, *answer.failure);
  if (answer.handle != 0) json.number("handle", answer.handle);
  if (!answer.entries.empty()) {
    json.key("entries") += '[';
    for (std::size_t i = 0; i < answer.entries.size(); ++i) {
      if (i > 0) out += ',';
      write_info(out, answer.entries[i]);
    }
    out += ']';
  }
  if (!answer.events.empty()) {
    json.key("events") += '[';
    for (std::size_t i = 0; i < answer.events.size(); ++i) {
      if (i > 0) out += ',';
      write_event(out, answer.events[i]);
    }
    out += ']';
  }
  json.end();
  end_call(out);
  return out;
}

Decoded<Answer> decode_answer(std::string_view payload) {
  const auto [text, bytes] = split_call(payload);
  const Reader reader(parse(text));
  Answer answer;
  answer.id = reader.integer("id");
  if (const auto failure = reader.object("failure")) answer.failure = read_failure(*failure);
  answer.handle = reader.integer("handle");
  for (const Value& entry : some(reader, "entries")) answer.entries.push_back(read_info(entry));
  for (const Value& event : some(reader, "events")) answer.events.push_back(read_event(event));
  return {std::move(answer), bytes};
}

// ---- Failures ----

Failure Failure::of(const std::exception_ptr& error) {
  Failure failure;
  try {
    std::rethrow_exception(error);
  } catch (const StartFailed& e) {
    failure.kind = Kind::start;
    failure.error = e.error();
    failure.what = e.what_failed();
    failure.message = e.what();
  } catch (const FileFailed& e) {
    failure.kind = Kind::file;
    failure.error = e.error();
    failure.what = e.path();
    failure.message = e.what();
  } catch (const RunnerError& e) {
    failure.code = e.code();
    failure.reason = e.reason();
    failure.message = e.what();
    failure.metadata = e.metadata();
  } catch (const std::exception& e) {
    failure.code = ErrorCode::internal;
    failure.message = e.what();
  }
  return failure;
}

std::exception_ptr Failure::to_exception() const {
  switch (kind) {
    case Kind::start:
      return std::make_exception_ptr(StartFailed(error, base::printable(what, kMaxWord), base::printable(message, kMaxText)));
    case Kind::file:
      return std::make_exception_ptr(FileFailed(error, what, base::printable(message, kMaxText)));
    case Kind::runner:
      break;
  }
  return std::make_exception_ptr(told_error(code, reason, message, metadata));
}

RunnerError told_error(ErrorCode code, const std::string& reason, const std::string& message,
                       const std::map<std::string, std::string>& metadata) {
  const auto is_word = [](std::string_view text, char first, char last) {
    return text.size() <= kMaxWord && std::all_of(text.begin(), text.end(), [&](char c) {
             return (c >= first && c <= last) || (c >= '0' && c <= '9') || c == '_';
           });
  };
  std::map<std::string, std::string> kept;
  std::size_t total = 0;
  for (const auto& [name, value] : metadata) {
    if ((total += name.size() + value.size()) > kMaxText) break;
    kept.emplace(base::printable(name, kMaxWord), base::printable(value, kMaxText));
  }
  return {code, is_word(reason, 'A', 'Z') ? reason : std::string(), base::printable(message, kMaxText), std::move(kept)};
}

void check_exit(const ExitInfo& exit) {
  const bool possible = exit.kind == ExitInfo::Kind::exited     ? exit.value >= 0 && exit.value <= kMostExitCode
                        : exit.kind == ExitInfo::Kind::signaled ? exit.value >= 1 && exit.value <= kMostSignal
                                                                : true;
  if (!possible) {
    throw Violation(std::string(exit.kind == ExitInfo::Kind::exited ? "an exit code" : "a signal") + " of " +
                    std::to_string(exit.value) + ", which no process has");
  }
}

}  // namespace cwsandbox::runner::remote
