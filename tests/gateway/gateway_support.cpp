#include "gateway_support.hpp"

#include "core/loop_watch.hpp"
#include "runner/local/local_runner.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_future.hpp>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>
#include <sstream>
#include <stdexcept>

namespace gateway_test {

std::size_t processes_with(const std::string& marker) {
  std::size_t found = 0;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ec)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "cmdline");
    std::stringstream text;
    text << file.rdbuf();
    if (text.str().find(marker) != std::string::npos) ++found;
  }
  return found;
}

std::string unique_marker() {
  static std::atomic<unsigned> next{0};
  return "gwtest_" + std::to_string(::getpid()) + "_" + std::to_string(next++) + "_";
}

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "cwsandbox-gateway-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
  path_ = name;
}
TempDir::~TempDir() {
  std::error_code ec;
  std::filesystem::remove_all(path_, ec);
}

// ---- sockets ----

Socket::Socket(const net::ListenAddress& address) {
  timeval patience{};
  patience.tv_sec = kLong.count();
  int rc = -1;
  if (address.is_unix) {
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::strncpy(to.sun_path, address.path.c_str(), sizeof to.sun_path - 1);
    rc = ::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to);
  } else {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(address.port);
    ::inet_pton(AF_INET, address.host.c_str(), &to.sin_addr);
    rc = ::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to);
  }
  if (rc != 0) throw std::runtime_error(std::string("connect: ") + std::strerror(errno));
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

bool Socket::try_write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

void Socket::write(std::string_view bytes) {
  if (!try_write(bytes)) throw std::runtime_error(std::string("send: ") + std::strerror(errno));
}

std::string Socket::read_some() {
  if (!buffer_.empty()) return std::exchange(buffer_, {});
  std::string out(64 * 1024, '\0');
  ssize_t n = 0;
  do {
    n = ::recv(fd_, out.data(), out.size(), 0);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno != ECONNRESET) throw std::runtime_error(std::string("recv: ") + std::strerror(errno));
  out.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return out;
}

std::string Socket::read_exactly(std::size_t n) {
  std::string out;
  while (out.size() < n) {
    const std::string more = read_some();
    if (more.empty()) return out;
    out += more;
  }
  buffer_ = out.substr(n);
  out.resize(n);
  return out;
}

std::string Socket::read_until(std::string_view mark) {
  std::string out;
  for (;;) {
    if (const auto at = out.find(mark); at != std::string::npos) {
      buffer_ = out.substr(at + mark.size());
      out.resize(at + mark.size());
      return out;
    }
    const std::string more = read_some();
    if (more.empty()) return out;
    out += more;
  }
}

void Socket::shutdown() noexcept { ::shutdown(fd_, SHUT_RDWR); }

// ---- HTTP ----

namespace {

Answer read_head(Socket& socket) {
  Answer answer;
  const std::string head = socket.read_until("\r\n\r\n");
  if (head.size() < 12) throw std::runtime_error("no answer");
  answer.status = static_cast<unsigned>(std::stoul(head.substr(9, 3)));
  std::istringstream lines(head.substr(head.find("\r\n") + 2));
  for (std::string line; std::getline(lines, line) && line != "\r";) {
    const auto colon = line.find(':');
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    std::string value = line.substr(colon + 1);
    value = value.substr(value.find_first_not_of(' '));
    answer.headers[name] = value.substr(0, value.find('\r'));
  }
  return answer;
}

Answer read_answer(Socket& socket) {
  Answer answer = read_head(socket);
  if (const auto length = answer.headers.find("content-length"); length != answer.headers.end())
    answer.body = socket.read_exactly(std::stoul(length->second));
  return answer;
}

void collect_strings(std::string_view message, std::vector<std::string>& out) {
  while (message.size() >= 2) {
    const auto length = static_cast<unsigned char>(message[1]);
    if ((static_cast<unsigned char>(message[0]) & 7) != 2 || length > message.size() - 2) return;
    const std::string_view field = message.substr(2, length);
    const bool printable = std::all_of(field.begin(), field.end(), [](char c) { return c >= ' '; });
    if (printable)
      out.emplace_back(field);
    else
      collect_strings(field, out);
    message.remove_prefix(2 + std::size_t{length});
  }
}

}  // namespace

std::string base64_decode(std::string_view text) {
  std::string out;
  std::uint32_t bits = 0;
  int have = 0;
  for (const char c : text) {
    std::uint32_t v = 0;
    if (c >= 'A' && c <= 'Z')
      v = static_cast<std::uint32_t>(c - 'A');
    else if (c >= 'a' && c <= 'z')
      v = static_cast<std::uint32_t>(c - 'a' + 26);
    else if (c >= '0' && c <= '9')
      v = static_cast<std::uint32_t>(c - '0' + 52);
    else if (c == '+')
      v = 62;
    else if (c == '/')
      v = 63;
    else
      break;
    bits = (bits << 6) | v;
    have += 6;
    if (have >= 8) {
      have -= 8;
      out += static_cast<char>((bits >> have) & 0xff);
    }
  }
  return out;
}

std::string base64_encode(std::string_view bytes) {
  static const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t bits = 0;
    for (std::size_t k = 0; k < 3; ++k) bits = (bits << 8) | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (std::size_t k = 0; k < 4; ++k) out += i + k <= bytes.size() ? digits[(bits >> (18 - 6 * k)) & 63] : '=';
  }
  return out;
}

std::string percent_encode(std::string_view bytes) {
  static const char* digits = "0123456789ABCDEF";
  std::string out;
  for (const char c : bytes) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) != 0 || c == '/' || c == '.' || c == '-' || c == '_') {
      out += c;
    } else {
      out += '%';
      out += digits[u >> 4];
      out += digits[u & 15];
    }
  }
  return out;
}

Answer http(const net::ListenAddress& address, const std::string& method, const std::string& target,
            const std::map<std::string, std::string>& headers, const std::string& body) {
  Socket socket(address);
  std::string text = method + " " + target + " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n";
  for (const auto& [name, value] : headers) text += name + ": " + value + "\r\n";
  text += "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n";
  socket.write(text);
  static_cast<void>(socket.try_write(body));  // a refusal may come before all of it was taken
  return read_answer(socket);
}

StreamCall::StreamCall(const net::ListenAddress& address, const std::string& method, const Json& request,
                       const std::map<std::string, std::string>& more)
    : socket_(address) {
  const std::string json = request.dump();
  std::string envelope(1, '\0');
  for (int shift = 24; shift >= 0; shift -= 8) envelope += static_cast<char>((json.size() >> shift) & 0xff);
  envelope += json;
  std::map<std::string, std::string> all = more;
  all.emplace("Authorization", std::string("Bearer ") + kToken);
  all.emplace("Content-Type", "application/connect+json");
  std::string text = "POST /" + method + " HTTP/1.1\r\nHost: test\r\n";
  for (const auto& [name, value] : all) text += name + ": " + value + "\r\n";
  text += "Content-Length: " + std::to_string(envelope.size()) + "\r\n\r\n";
  socket_.write(text + envelope);
  const Answer head = read_head(socket_);
  status = head.status;
  headers = head.headers;
  if (const auto length = headers.find("content-length"); length != headers.end())
    end = Json::parse(socket_.read_exactly(std::stoul(length->second)));
}

bool StreamCall::fill() {
  const std::string line = socket_.read_until("\r\n");
  if (!line.ends_with("\r\n")) return false;
  const std::size_t size = std::stoul(line, nullptr, 16);
  if (size == 0) return false;
  const std::string chunk = socket_.read_exactly(size + 2);
  if (chunk.size() < size + 2) return false;
  if (front_ > 0) body_.erase(0, std::exchange(front_, 0));
  body_.append(chunk, 0, size);
  return true;
}

std::optional<Json> StreamCall::next() {
  if (!end.is_null()) return std::nullopt;
  std::size_t size = 0;
  for (;;) {
    if (body_.size() - front_ >= 5) {
      size = 0;
      for (std::size_t i = 1; i < 5; ++i) size = (size << 8) | static_cast<unsigned char>(body_[front_ + i]);
      if (body_.size() - front_ >= 5 + size) break;
    }
    if (!fill()) return std::nullopt;
  }
  const char flags = body_[front_];
  Json json = Json::parse(body_.substr(front_ + 5, size));
  front_ += 5 + size;
  if (flags == 0) return json;
  if (flags != 2) throw std::runtime_error("an envelope with flags " + std::to_string(flags));
  end = std::move(json);
  return std::nullopt;
}

std::vector<Json> StreamCall::rest() {
  std::vector<Json> out;
  while (auto message = next()) out.push_back(std::move(*message));
  return out;
}

std::vector<std::string> detail_strings(const Json& error, const std::string& type) {
  std::vector<std::string> out;
  if (!error.contains("details")) return out;
  for (const auto& detail : error["details"]) {
    if (detail["type"] == "google.rpc." + type) collect_strings(base64_decode(detail["value"].get<std::string>()), out);
  }
  return out;
}

// ---- the exec peer ----

std::string Peer::handshake(Socket& socket, const std::string& target, const std::string& subprotocol, const std::string& token) {
  std::string text = "GET " + target +
                     " HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
  if (!subprotocol.empty()) text += "Sec-WebSocket-Protocol: " + subprotocol + "\r\n";
  if (!token.empty()) text += "Authorization: Bearer " + token + "\r\n";
  socket.write(text + "\r\n");
  return text;
}

Peer::Peer(const net::ListenAddress& address, const std::string& subprotocol, const std::string& token) : socket_(address) {
  handshake(socket_, "/v1/exec", subprotocol, token);
  const std::string head = socket_.read_until("\r\n\r\n");
  if (head.substr(9, 3) != "101") throw std::runtime_error("upgrade refused: " + head);
  if (head.find("v1.exec.cwsandbox") == std::string::npos) throw std::runtime_error("no subprotocol in " + head);
}

Answer Peer::refused(const net::ListenAddress& address, const std::string& subprotocol, const std::string& token,
                     const std::string& target) {
  Socket socket(address);
  handshake(socket, target, subprotocol, token);
  return read_answer(socket);
}

bool Peer::try_frame(std::uint8_t opcode, std::string_view payload) {
  std::string frame;
  frame += static_cast<char>(0x80 | opcode);
  if (payload.size() < 126) {
    frame += static_cast<char>(0x80 | payload.size());
  } else if (payload.size() < 65536) {
    frame += static_cast<char>(0x80 | 126);
    frame += static_cast<char>(payload.size() >> 8);
    frame += static_cast<char>(payload.size() & 0xff);
  } else {
    frame += static_cast<char>(0x80 | 127);
    for (int shift = 56; shift >= 0; shift -= 8) frame += static_cast<char>((payload.size() >> shift) & 0xff);
  }
  const char mask[4] = {0x11, 0x22, 0x33, 0x44};
  frame.append(mask, 4);
  for (std::size_t i = 0; i < payload.size(); ++i) frame += static_cast<char>(payload[i] ^ mask[i % 4]);
  return socket_.try_write(frame);
}

void Peer::frame(std::uint8_t opcode, std::string_view payload, bool) {
  if (!try_frame(opcode, payload)) throw std::runtime_error("the gateway closed the connection");
}

void Peer::send(std::uint8_t channel, std::string_view payload) {
  std::string message(1, static_cast<char>(channel));
  message += payload;
  frame(2, message);
}

std::optional<Message> Peer::receive() {
  for (;;) {
    const std::string head = socket_.read_exactly(2);
    if (head.size() < 2) {
      if (close_code == 0) close_code = 1006;
      return std::nullopt;
    }
    const auto opcode = static_cast<unsigned>(head[0]) & 0x0f;
    std::size_t size = static_cast<unsigned>(head[1]) & 0x7f;
    if (size >= 126) {
      const std::string more = socket_.read_exactly(size == 126 ? 2 : 8);
      size = 0;
      for (const char c : more) size = (size << 8) | static_cast<unsigned char>(c);
    }
    const std::string payload = socket_.read_exactly(size);
    if (opcode == 9) {  // ping
      frame(10, payload);
      continue;
    }
    if (opcode == 8) {
      close_code = 1005;
      if (payload.size() >= 2) {
        close_code =
            static_cast<std::uint16_t>((static_cast<unsigned char>(payload[0]) << 8) | static_cast<unsigned char>(payload[1]));
        close_reason = payload.substr(2);
      }
      static_cast<void>(try_frame(8, payload));
      return std::nullopt;
    }
    if (opcode != 2 || payload.empty())
      throw std::runtime_error("a frame that has no place here: opcode " + std::to_string(opcode));
    Message message;
    message.channel = static_cast<std::uint8_t>(payload[0]);
    message.payload = payload.substr(1);
    return message;
  }
}

Message Peer::expect(std::uint8_t channel) {
  auto message = receive();
  if (!message) throw std::runtime_error("closed: " + std::to_string(close_code) + " " + close_reason);
  if (message->channel != channel)
    throw std::runtime_error("channel " + std::to_string(message->channel) + ": " + message->payload.substr(0, 200));
  return *message;
}

Json Peer::expect_status(const std::string& type) {
  const Json json = expect(3).json();
  if (json["type"] != type) throw std::runtime_error("expected " + type + ", got " + json.dump());
  return json;
}

bool Peer::take(const Message& message) {
  if (message.channel == 1)
    out += message.payload;
  else if (message.channel == 2)
    err += message.payload;
  else
    return false;
  return true;
}

void Peer::grant(std::uint64_t window) {
  Json json;
  json["type"] = "window";
  json["stdout"] = {{"received", out.size()}, {"limit", out.size() + window}};
  json["stderr"] = {{"received", err.size()}, {"limit", err.size() + window}};
  send(6, json);
}

void Peer::release() {
  Json json;
  json["type"] = "window";
  json["release"] = true;
  send(6, json);
  out.clear();
  err.clear();
}

Peer::Outcome Peer::to_exit() {
  Outcome outcome;
  std::uint64_t granted = 0;
  for (;;) {
    const auto message = receive();
    if (!message) throw std::runtime_error("closed before the exit: " + std::to_string(close_code) + " " + close_reason);
    if (take(*message)) {
      if (out.size() + err.size() - granted >= 256 * 1024) {
        granted = out.size() + err.size();
        grant();
      }
      continue;
    }
    if (message->channel != 3) continue;
    const Json json = message->json();
    if (json["type"] == "started") outcome.started = true;
    if (json["type"] == "error") throw std::runtime_error("refused: " + json.dump());
    if (json["type"] != "exit") continue;
    outcome.exit = json;
    break;
  }
  outcome.out = out;
  outcome.err = err;
  if (outcome.exit["stdout"] != outcome.out.size() || outcome.exit["stderr"] != outcome.err.size())
    throw std::runtime_error("the totals do not fit: " + outcome.exit.dump());
  release();
  return outcome;
}

std::string new_id() {
  static std::random_device device;
  static const char* digits = "0123456789abcdef";
  std::string id = "xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx";
  for (char& c : id) {
    if (c == 'x') c = digits[device() % 16];
  }
  return id;
}

Json start(const std::string& sandbox, const std::vector<std::string>& command) {
  Json json;
  json["type"] = "start";
  json["id"] = new_id();
  json["sandboxId"] = sandbox;
  json["command"] = command;
  return json;
}

// ---- the gateway ----

Server::Server(const std::function<void(gateway::GatewayOptions&)>& change, MakeRunner make_runner)
    : guard_(asio::make_work_guard(io_)) {
  gateway::GatewayOptions options;
  options.tokens = {kToken};
  options.log = [this](gateway::LogLevel, const std::string& line) {
    const std::lock_guard lock(log_mutex_);
    log_ += line + "\n";
  };
  if (change) change(options);
  auto made = make_runner ? make_runner(io_.get_executor()) : runner::local::make_local_runner(io_.get_executor());
  gateway_ = std::make_unique<gateway::Gateway>(io_.get_executor(), std::move(made), std::move(options));
  net::ListenAddress address;
  address.is_unix = true;
  address.path = dir_.path("socket");
  address_ = gateway_->listen(address);
  thread_ = std::thread([this] {
    // What holds up the loop is told beside the tests, and fails none: a machine may be slow.
    cwsandbox::core::LoopWatch watch(cwsandbox::core::kDefaultTurnLimit, [](const std::string& text) { std::cerr << text; });
    watch.run(io_);
  });
}

Server::~Server() {
  asio::post(io_, [this] {
    gateway_.reset();
    guard_.reset();
  });
  thread_.join();  // returns only when nothing of the gateway is left to do
}

net::ListenAddress Server::listen(const net::ListenAddress& address) {
  return on_loop([&] { return gateway_->listen(address); });
}

Answer Server::call_raw(const std::string& method, const std::string& body, std::map<std::string, std::string> headers) const {
  headers.emplace("Authorization", std::string("Bearer ") + kToken);
  headers.emplace("Content-Type", "application/json");
  return http(address_, "POST", "/coreweave.sandbox.v1.SandboxService/" + method, headers, body);
}

Answer Server::call(const std::string& method, const Json& body, std::map<std::string, std::string> headers) const {
  return call_raw(method, body.dump(), std::move(headers));
}

Answer Server::file_call(const std::string& method, const Json& body) const {
  return http(address_, "POST", "/cwsandbox.v1.FileService/" + method,
              {{"Authorization", std::string("Bearer ") + kToken}, {"Content-Type", "application/json"}}, body.dump());
}

Answer Server::file(const std::string& method, const std::string& sandbox, const std::string& path, const std::string& body,
                    std::map<std::string, std::string> headers, const std::string& more) const {
  headers.emplace("Authorization", std::string("Bearer ") + kToken);
  return http(address_, method, "/v1/files?sandbox=" + sandbox + "&path=" + percent_encode(path) + more, headers, body);
}

std::string Server::wait_state(const std::string& id, const std::string& state) {
  std::string seen;
  eventually([&] {
    const Answer answer = call("GetSandbox", {{"sandboxId", id}});
    seen = answer.status == 200 ? answer.json()["status"]["state"].get<std::string>() : answer.body;
    return seen == state || seen == "STATE_FAILED" || seen == "STATE_TERMINATED" || seen == "STATE_COMPLETED";
  });
  return seen;
}

std::string Server::sandbox(const Json& spec) {
  const Answer answer = call("CreateSandbox", {{"sandbox", {{"spec", spec}}}});
  if (answer.status != 200) throw std::runtime_error("CreateSandbox: " + answer.body);
  const std::string id = answer.json()["sandboxId"];
  const std::string state = wait_state(id, "STATE_RUNNING");
  if (state != "STATE_RUNNING") throw std::runtime_error("sandbox: " + state + " " + call("GetSandbox", {{"sandboxId", id}}).body);
  return id;
}

gateway::Gateway::Counts Server::counts() {
  return on_loop([this] { return gateway_->counts(); });
}

void Server::stop(std::chrono::milliseconds grace) {
  auto done = asio::co_spawn(io_, gateway_->stop(grace), asio::use_future);
  if (done.wait_for(3 * kLong) != std::future_status::ready) throw std::runtime_error("stop did not complete");
  done.get();
}

std::string Server::log() {
  const std::lock_guard lock(log_mutex_);
  return log_;
}

}  // namespace gateway_test
