// A server that speaks only Connect over HTTP/1.1, says what the test tells it to and remembers what it was asked. Written from the
// protocol's text; nothing of lib/ takes part, so that a mistake there does not meet itself here.
#pragma once

#include <cwsandbox/client.hpp>

#include <nlohmann/json.hpp>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace support {

class ScriptedServer {
 public:
  struct Request {
    std::string method, target, body;
    std::map<std::string, std::string> headers;  // names in lower case
    [[nodiscard]] nlohmann::json json() const { return nlohmann::json::parse(body); }
    [[nodiscard]] std::string header(const std::string& name) const;
  };
  struct Answer {
    int status = 200;
    std::string body;
    std::string content_type = "application/json";
    std::map<std::string, std::string> headers;
    bool hang_up = false;     // nothing is answered: the connection closes
    std::size_t missing = 0;  // bytes of the body that are announced and never come: the connection closes
  };
  /// Called on the connection's own thread; may block, but must come back before the server is destroyed.
  using Handler = std::function<Answer(const Request&)>;

  ScriptedServer();
  ~ScriptedServer();
  ScriptedServer(const ScriptedServer&) = delete;
  ScriptedServer& operator=(const ScriptedServer&) = delete;

  [[nodiscard]] std::string url() const;
  [[nodiscard]] cwsandbox::ClientOptions options() const;

  /// `method` is one of SandboxService ("GetSandbox"), or the path of a target ("/v1/files"). What nobody answers for is
  /// `unimplemented` with status 404, as of a server that does not know it.
  void on(const std::string& method, Handler handler);
  void reply(const std::string& method, const nlohmann::json& answer);
  /// One answer after the other; the last one for ever.
  void reply_each(const std::string& method, std::vector<Answer> answers);

  [[nodiscard]] std::vector<Request> requests(const std::string& method) const;
  [[nodiscard]] int count(const std::string& method) const { return static_cast<int>(requests(method).size()); }

  [[nodiscard]] static Answer ok(const nlohmann::json& json);
  [[nodiscard]] static Answer error(const std::string& code, const std::string& message, const std::string& reason = "",
                                    std::optional<std::chrono::milliseconds> retry_delay = std::nullopt);
  /// {"sandboxId": id, "status": {"state": state}}
  [[nodiscard]] static nlohmann::json sandbox(const std::string& id, const std::string& state);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace support
