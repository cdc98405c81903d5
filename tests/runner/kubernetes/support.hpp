// A scripted API server, and what else the tests of this folder share.
#pragma once

#include "net/net_support.hpp"
#include "runner/kubernetes/api_client.hpp"

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

namespace cwsandbox::runner::kubernetes::test {

namespace asio = boost::asio;
using namespace net::test;

inline void write_file(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
}

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

/// A variable of the environment, as it was afterwards.
class Variable {
 public:
  Variable(std::string name, const char* value) : name_(std::move(name)) {
    if (const char* before = std::getenv(name_.c_str())) before_ = before;
    value == nullptr ? ::unsetenv(name_.c_str()) : ::setenv(name_.c_str(), value, 1);
  }
  ~Variable() { before_ ? ::setenv(name_.c_str(), before_->c_str(), 1) : ::unsetenv(name_.c_str()); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  std::string name_;
  std::optional<std::string> before_;
};

struct Seen {
  std::string line;  // "GET /api/v1/pods?limit=500"
  std::string head, body;
  [[nodiscard]] std::string header(const std::string& name) const {
    const auto at = head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return {};
    const auto from = at + name.size() + 4;
    return head.substr(from, head.find("\r\n", from) - from);
  }
};

inline std::string answer(int status, const std::string& body, const std::string& headers = "") {
  return "HTTP/1.1 " + std::to_string(status) + " Word\r\nContent-Type: application/json\r\n" + headers +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

inline std::string stream_head() {
  return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
}
inline std::string chunk(const std::string& text) {
  std::ostringstream out;
  out << std::hex << text.size() << "\r\n" << text << "\r\n";
  return out.str();
}
inline std::string last_chunk() { return "0\r\n\r\n"; }

/// What `on` does with each request, on one connection after the other.
class FakeApi {
 public:
  using On = std::function<asio::awaitable<void>(Raw&, const Seen&)>;
  explicit FakeApi(On on) : on_(std::move(on)), peer_(context, [this](Raw& raw) { return serve(raw); }) {
    access.endpoint = peer_.endpoint();
    access.origin = "the test";
    options.retry_base = std::chrono::milliseconds(1);
    options.retry_max = std::chrono::milliseconds(1500);
  }

  [[nodiscard]] std::shared_ptr<ApiClient> client() { return std::make_shared<ApiClient>(context.get_executor(), access, options); }
  [[nodiscard]] int connections() const { return peer_.connections; }
  [[nodiscard]] std::vector<std::string> lines() const {
    std::vector<std::string> out;
    for (const auto& one : seen) out.push_back(one.line);
    return out;
  }

  asio::io_context context{1};
  ClusterAccess access;
  ApiClientOptions options;
  std::vector<Seen> seen;

 private:
  asio::awaitable<void> serve(Raw& raw) {
    for (;;) {
      Seen one;
      one.head = co_await raw.read_until("\r\n\r\n");
      if (one.head.size() < 4) co_return;
      one.line = one.head.substr(0, one.head.find(" HTTP/1.1"));
      const auto length = one.header("Content-Length");
      if (!length.empty()) one.body = co_await raw.read_exactly(std::stoul(length));
      seen.push_back(one);
      co_await on_(raw, one);
    }
  }

  On on_;
  Scripted peer_;
};

/// What a request gave, or why it failed.
struct Outcome {
  Json json;
  std::optional<ApiError> error;
  std::string code, text;
};

inline asio::awaitable<Outcome> outcome(asio::awaitable<Json> call) {
  Outcome out;
  try {
    out.json = co_await std::move(call);
  } catch (const ApiError& e) {
    out.error = e;
    out.code = base::to_string(e.code());
    out.text = e.what();
  } catch (const RunnerError& e) {
    out.code = base::to_string(e.code());
    out.text = e.what();
  }
  co_return out;
}

}  // namespace cwsandbox::runner::kubernetes::test
