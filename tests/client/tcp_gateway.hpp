// A gateway on a loopback port, in this process.
#pragma once

#include "gateway/gateway.hpp"
#include "runner/local/local_runner.hpp"
#include "support.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_future.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <thread>

namespace support {

namespace asio = boost::asio;

class TcpGateway {
 public:
  /// With TLS, when there is a file with a certificate and its key.
  explicit TcpGateway(const std::string& file = "", const std::string& client_ca = "") : tls_(!file.empty()) {
    cwsandbox::gateway::GatewayOptions options;
    options.tokens.push_back(kToken);
    gateway_.emplace(io_.get_executor(), cwsandbox::runner::local::make_local_runner(io_.get_executor()), options);
    cwsandbox::net::TlsServerOptions tls;
    tls.certificate_file = tls.key_file = file;
    tls.client_ca_file = client_ca;
    port_ = gateway_->listen(cwsandbox::net::parse_listen("tcp:127.0.0.1:0"), tls).port;
    thread_ = std::thread([this] { io_.run(); });
  }
  ~TcpGateway() {
    asio::co_spawn(io_, gateway_->stop(1s), asio::use_future).wait();
    asio::post(io_, [this] { gateway_.reset(); });
    thread_.join();  // the loop ends when nothing is left
  }
  TcpGateway(const TcpGateway&) = delete;
  TcpGateway& operator=(const TcpGateway&) = delete;
  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  [[nodiscard]] std::string url(const std::string& host = "localhost") const {
    return (tls_ ? "https://" : "http://") + host + ":" + std::to_string(port_);
  }
  /// Nothing is tried again.
  [[nodiscard]] cwsandbox::ClientOptions options() const {
    return cwsandbox::ClientOptions().with_base_url(url()).with_api_key(kToken).with_retry_budget(0ms);
  }

  inline static const std::string kToken = "token-for-the-tests-of-tcp";

 private:
  asio::io_context io_;
  std::optional<cwsandbox::gateway::Gateway> gateway_;
  bool tls_;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

}  // namespace support
