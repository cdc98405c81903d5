#include "scripted_server.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/streambuf.hpp>
#include <boost/asio/write.hpp>

#include <algorithm>
#include <istream>
#include <list>
#include <mutex>
#include <thread>

#include <sys/socket.h>

namespace support {

namespace asio = boost::asio;
using asio::ip::tcp;
using nlohmann::json;

namespace {

constexpr std::string_view kService = "/coreweave.sandbox.v1.SandboxService/";

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; });
  return text;
}

std::string path_of(const std::string& method) { return method.front() == '/' ? method : std::string(kService) + method; }

// The statuses that the protocol gives to its codes.
int status_of(const std::string& code) {
  static const std::map<std::string, int> statuses = {
      {"canceled", 499},    {"unknown", 500},         {"invalid_argument", 400},    {"deadline_exceeded", 504},
      {"not_found", 404},   {"already_exists", 409},  {"permission_denied", 403},   {"resource_exhausted", 429},
      {"aborted", 409},     {"unimplemented", 501},   {"failed_precondition", 400}, {"internal", 500},
      {"unavailable", 503}, {"unauthenticated", 401}, {"out_of_range", 400},        {"data_loss", 500}};
  const auto found = statuses.find(code);
  return found == statuses.end() ? 500 : found->second;
}

std::string base64(const std::string& bytes) {
  static constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    unsigned word = 0;
    for (std::size_t j = 0; j < 3; ++j)
      word = (word << 8U) | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    const std::size_t digits = std::min<std::size_t>(3, bytes.size() - i) + 1;
    for (std::size_t j = 0; j < digits; ++j) text += kDigits[(word >> (18 - 6 * j)) & 63U];
  }
  return text;  // without padding, as Connect has it in details
}

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 128; value >>= 7U) out += static_cast<char>((value & 127U) | 128U);
  out += static_cast<char>(value);
}
void put_bytes(std::string& out, int field, const std::string& bytes) {
  put_varint(out, (static_cast<std::uint64_t>(field) << 3U) | 2U);
  put_varint(out, bytes.size());
  out += bytes;
}
void put_number(std::string& out, int field, std::uint64_t value) {
  put_varint(out, static_cast<std::uint64_t>(field) << 3U);
  put_varint(out, value);
}

}  // namespace

struct ScriptedServer::Impl {
  struct Connection {
    explicit Connection(tcp::socket s) : socket(std::move(s)) {}
    tcp::socket socket;
    std::thread thread;
  };

  asio::io_context context;
  tcp::acceptor acceptor{context, tcp::endpoint(asio::ip::address_v4::loopback(), 0)};
  const std::uint16_t port = acceptor.local_endpoint().port();
  mutable std::mutex mutex;
  bool stopping = false;
  std::list<Connection> connections;
  std::map<std::string, Handler> handlers;
  std::vector<Request> requests;
  std::thread thread;

  void accept() {
    for (;;) {
      boost::system::error_code error;
      tcp::socket socket(context);
      acceptor.accept(socket, error);
      const std::lock_guard lock(mutex);
      if (stopping) return;
      if (error) continue;
      socket.set_option(tcp::no_delay(true), error);
      auto& connection = connections.emplace_back(std::move(socket));
      connection.thread = std::thread([this, &connection] { serve(connection.socket); });
    }
  }

  void serve(tcp::socket& socket) {
    try {
      asio::streambuf buffer;
      while (answer(socket, buffer)) {
      }
    } catch (const std::exception&) {  // the peer has gone, or the test is over
    }
    boost::system::error_code ignored;
    socket.shutdown(tcp::socket::shutdown_both, ignored);
  }

  bool answer(tcp::socket& socket, asio::streambuf& buffer) {
    Request request;
    asio::read_until(socket, buffer, "\r\n\r\n");
    std::istream stream(&buffer);
    std::string line;
    stream >> request.method >> request.target;
    std::getline(stream, line);
    while (std::getline(stream, line) && line != "\r") {
      const auto colon = line.find(':');
      const auto value = line.find_first_not_of(" \t", colon + 1);
      request.headers[lower(line.substr(0, colon))] = line.substr(value, line.find_last_not_of("\r \t") + 1 - value);
    }
    if (request.header("expect") == "100-continue")
      asio::write(socket, asio::buffer(std::string_view("HTTP/1.1 100 Continue\r\n\r\n")));
    const auto take = [&](std::size_t size) {
      if (buffer.size() < size) asio::read(socket, buffer, asio::transfer_exactly(size - buffer.size()));
      std::string bytes(size, '\0');
      stream.read(bytes.data(), static_cast<std::streamsize>(size));
      return bytes;
    };
    if (lower(request.header("transfer-encoding")) == "chunked") {
      for (;;) {
        asio::read_until(socket, buffer, "\r\n");
        std::getline(stream, line);
        const auto size = std::stoul(line, nullptr, 16);
        request.body += take(size);
        static_cast<void>(take(2));
        if (size == 0) break;
      }
    } else if (const auto length = request.header("content-length"); !length.empty()) {
      request.body = take(std::stoul(length));
    }

    Handler handler;
    {
      const std::lock_guard lock(mutex);
      requests.push_back(request);
      const auto found = handlers.find(request.target.substr(0, request.target.find('?')));
      if (found != handlers.end()) handler = found->second;
    }
    Answer reply;
    if (handler) {
      reply = handler(request);
    } else {
      reply = error("unimplemented", "no such method");
      reply.status = 404;
    }
    if (reply.hang_up) return false;
    std::string head = "HTTP/1.1 " + std::to_string(reply.status) + " Said\r\nContent-Type: " + reply.content_type +
                       "\r\nContent-Length: " + std::to_string(reply.body.size() + reply.missing) + "\r\n";
    for (const auto& [name, value] : reply.headers) head += name + ": " + value + "\r\n";
    head += "\r\n" + reply.body;
    asio::write(socket, asio::buffer(head));
    return reply.missing == 0;
  }
};

std::string ScriptedServer::Request::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

ScriptedServer::ScriptedServer() : impl_(std::make_unique<Impl>()) {
  impl_->thread = std::thread([impl = impl_.get()] { impl->accept(); });
}

ScriptedServer::~ScriptedServer() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
    // On the descriptors: the objects belong to threads that are blocked in them.
    ::shutdown(impl_->acceptor.native_handle(), SHUT_RDWR);
    for (auto& connection : impl_->connections) ::shutdown(connection.socket.native_handle(), SHUT_RDWR);
  }
  impl_->thread.join();
  for (auto& connection : impl_->connections) connection.thread.join();
}

std::string ScriptedServer::url() const { return "http://127.0.0.1:" + std::to_string(impl_->port); }
cwsandbox::ClientOptions ScriptedServer::options() const { return cwsandbox::ClientOptions().with_base_url(url()); }

void ScriptedServer::on(const std::string& method, Handler handler) {
  const std::lock_guard lock(impl_->mutex);
  impl_->handlers[path_of(method)] = std::move(handler);
}
void ScriptedServer::reply(const std::string& method, const json& answer) {
  on(method, [answer](const Request&) { return ok(answer); });
}
void ScriptedServer::reply_each(const std::string& method, std::vector<Answer> answers) {
  struct Script {
    std::mutex mutex;
    std::size_t next = 0;
    std::vector<Answer> answers;
  };
  auto script = std::make_shared<Script>();
  script->answers = std::move(answers);
  on(method, [script](const Request&) {
    const std::lock_guard lock(script->mutex);
    const auto at = std::min(script->next++, script->answers.size() - 1);
    return script->answers[at];
  });
}

std::vector<ScriptedServer::Request> ScriptedServer::requests(const std::string& method) const {
  const std::string path = path_of(method);
  const std::lock_guard lock(impl_->mutex);
  std::vector<Request> found;
  for (const auto& request : impl_->requests)
    if (request.target.substr(0, request.target.find('?')) == path) found.push_back(request);
  return found;
}

ScriptedServer::Answer ScriptedServer::ok(const json& message) {
  Answer answer;
  answer.body = message.dump();
  return answer;
}

ScriptedServer::Answer ScriptedServer::error(const std::string& code, const std::string& message, const std::string& reason,
                                             std::optional<std::chrono::milliseconds> retry_delay) {
  json body = {{"code", code}, {"message", message}};
  // google.rpc.ErrorInfo: 1 reason, 2 domain, 3 metadata. google.rpc.RetryInfo: 1 delay, a Duration of 1 seconds, 2 nanos.
  if (!reason.empty()) {
    std::string info;
    put_bytes(info, 1, reason);
    put_bytes(info, 2, "cwsandbox.com");
    body["details"].push_back({{"type", "google.rpc.ErrorInfo"}, {"value", base64(info)}});
  }
  if (retry_delay) {
    std::string duration, info;
    put_number(duration, 1, static_cast<std::uint64_t>(retry_delay->count() / 1000));
    put_number(duration, 2, static_cast<std::uint64_t>(retry_delay->count() % 1000 * 1'000'000));
    put_bytes(info, 1, duration);
    body["details"].push_back({{"type", "google.rpc.RetryInfo"}, {"value", base64(info)}});
  }
  Answer answer;
  answer.status = status_of(code);
  answer.body = body.dump();
  return answer;
}

json ScriptedServer::sandbox(const std::string& id, const std::string& state) {
  return {{"sandboxId", id}, {"spec", json::object()}, {"status", {{"state", state}}}};
}

}  // namespace support
