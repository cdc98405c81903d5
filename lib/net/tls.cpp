#include "net/tls.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <stdexcept>

namespace cwsandbox::net {

class TlsContext {
 public:
  TlsContext(asio::ssl::context::method method, bool is_client, bool verifies)
      : context(method), client(is_client), verify(verifies) {
    if (SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION) != 1)
      throw std::runtime_error("TLS 1.2 is not available");
    // 34 KiB less for each idle connection.
    SSL_CTX_set_mode(context.native_handle(), SSL_MODE_RELEASE_BUFFERS);
    context.set_options(asio::ssl::context::no_compression);
  }
  asio::ssl::context context;
  const bool client;
  const bool verify;
};

namespace {

// The library's own reason ("no such file", "bad base64 decode"); never anything of the file's content.
[[noreturn]] void refuse_file(const char* what, const std::string& file, const error_code& ec) {
  throw std::runtime_error(std::string(what) + " \"" + file + "\": " + ec.message());
}

void use_key_pair(asio::ssl::context& context, const std::string& certificate, const std::string& key) {
  error_code ec;
  if (context.use_certificate_chain_file(certificate, ec); ec) refuse_file("cannot use the TLS certificate", certificate, ec);
  const auto& key_file = key.empty() ? certificate : key;
  if (context.use_private_key_file(key_file, asio::ssl::context::pem, ec); ec) refuse_file("cannot use the TLS key", key_file, ec);
  if (SSL_CTX_check_private_key(context.native_handle()) != 1)
    throw std::runtime_error("the TLS key \"" + key_file + "\" does not belong to the certificate \"" + certificate + "\"");
}

// SSL_set_tlsext_host_name is a macro with a cast of its own.
bool send_name(SSL* ssl, std::string host) {
  return SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, host.data()) == 1;
}

class TlsTransportImpl final : public TlsTransport {
 public:
  TlsTransportImpl(Socket socket, std::shared_ptr<TlsContext> context)
      : context_(std::move(context)), stream_(std::move(socket), context_->context), executor_(stream_.get_executor()) {
    keep_from_children(stream_.next_layer().native_handle());
  }

  asio::any_io_executor executor() override { return executor_; }

  // The engine is used by the completion of an operation, so the operation keeps this object.
  void read_some(const MutableBuffers& into, SizeHandler handler) override {
    stream_.async_read_some(into, Keep<SizeHandler>{self(), std::move(handler)});
  }
  void write_some(const ConstBuffers& from, SizeHandler handler) override {
    stream_.async_write_some(from, Keep<SizeHandler>{self(), std::move(handler)});
  }

  void async_handshake(const std::string& host, IoHandler handler) override {
    const auto type = context_->client ? asio::ssl::stream_base::client : asio::ssl::stream_base::server;
    error_code ec;
    if (context_->client) {
      asio::ip::make_address(host, ec);
      const bool is_name = static_cast<bool>(ec);
      ec = {};
      if (is_name && !send_name(stream_.native_handle(), host))
        ec = error_code(static_cast<int>(ERR_get_error()), asio::error::get_ssl_category());
      // OpenSSL's own check, so that a mismatch is reported as such by refusal().
      if (!ec && context_->verify) {
        X509_VERIFY_PARAM* param = SSL_get0_param(stream_.native_handle());
        X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        const int ok = is_name ? X509_VERIFY_PARAM_set1_host(param, host.c_str(), host.size())
                               : X509_VERIFY_PARAM_set1_ip_asc(param, host.c_str());
        if (ok != 1) ec = asio::error::invalid_argument;
      }
    }
    Keep<IoHandler> keep{self(), std::move(handler)};
    if (ec) {
      asio::post(executor_, [keep = std::move(keep), ec]() mutable { keep(ec); });
      return;
    }
    stream_.async_handshake(type, std::move(keep));
  }

  std::string refusal() const override {
    // asio's handle accessor is not const.
    auto* ssl = const_cast<TlsTransportImpl*>(this)->stream_.native_handle();
    const long result = SSL_get_verify_result(ssl);
    return result == X509_V_OK ? std::string() : std::string(X509_verify_cert_error_string(result));
  }

  void close() noexcept override {
    error_code ignored;
    stream_.next_layer().close(ignored);
  }
  void cancel() noexcept override {
    error_code ignored;
    stream_.next_layer().cancel(ignored);
  }
  bool quiet() noexcept override { return SSL_has_pending(stream_.native_handle()) == 0 && socket_is_quiet(stream_.next_layer()); }

 protected:
  asio::awaitable<void> farewell() override {
    error_code ignored;
    auto token = asio::redirect_error(asio::use_awaitable, ignored);
    co_await stream_.async_shutdown(token);
  }
  Socket& socket() noexcept override { return stream_.next_layer(); }

 private:
  template <typename Handler>
  struct Keep {
    std::shared_ptr<TlsTransportImpl> transport;
    Handler handler;

    using executor_type = asio::any_io_executor;
    [[nodiscard]] executor_type get_executor() const noexcept { return transport->executor_; }
    using allocator_type = asio::recycling_allocator<void>;
    [[nodiscard]] allocator_type get_allocator() const noexcept { return {}; }
    using cancellation_slot_type = asio::cancellation_slot;
    [[nodiscard]] cancellation_slot_type get_cancellation_slot() const noexcept { return handler.get_cancellation_slot(); }

    template <typename... Args>
    void operator()(Args... args) {
      std::move(handler)(args...);
    }
  };

  std::shared_ptr<TlsTransportImpl> self() { return std::static_pointer_cast<TlsTransportImpl>(shared_from_this()); }

  std::shared_ptr<TlsContext> context_;
  asio::ssl::stream<Socket> stream_;
  asio::any_io_executor executor_;
};

}  // namespace

std::shared_ptr<TlsContext> make_tls_client_context(const TlsClientOptions& options) {
  auto tls = std::make_shared<TlsContext>(asio::ssl::context::tls_client, true, options.verify);
  error_code ec;
  if (options.verify) {
    if (options.ca_file.empty()) {
      if (tls->context.set_default_verify_paths(ec); ec)
        throw std::runtime_error("cannot use the system's CA store: " + ec.message());
    } else if (tls->context.load_verify_file(options.ca_file, ec); ec) {
      refuse_file("cannot use the CA file", options.ca_file, ec);
    }
  }
  tls->context.set_verify_mode(options.verify ? asio::ssl::verify_peer : asio::ssl::verify_none);
  if (!options.certificate_file.empty()) use_key_pair(tls->context, options.certificate_file, options.key_file);
  return tls;
}

std::shared_ptr<TlsContext> make_tls_server_context(const TlsServerOptions& options) {
  if (options.certificate_file.empty()) throw std::runtime_error("a TLS key was given without a certificate");
  auto tls = std::make_shared<TlsContext>(asio::ssl::context::tls_server, false, false);
  use_key_pair(tls->context, options.certificate_file, options.key_file);
  if (!options.client_ca_file.empty()) {
    error_code ec;
    if (tls->context.load_verify_file(options.client_ca_file, ec); ec)
      refuse_file("cannot use the CA file for clients", options.client_ca_file, ec);
    // The names go to clients, so that one with several certificates can choose.
    SSL_CTX_set_client_CA_list(tls->context.native_handle(), SSL_load_client_CA_file(options.client_ca_file.c_str()));
    // A session that is resumed has shown its certificate to this context before; OpenSSL wants the context named for that.
    constexpr unsigned char kName[] = "cwsandboxd";
    SSL_CTX_set_session_id_context(tls->context.native_handle(), kName, sizeof kName - 1);
    tls->context.set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert);
  }
  return tls;
}

bool is_tls_alert(const error_code& ec) noexcept {
  return ec.category() == asio::error::get_ssl_category() &&
         ERR_GET_REASON(static_cast<unsigned long>(ec.value())) >= SSL_AD_REASON_OFFSET;
}

std::shared_ptr<TlsTransport> make_tls_transport(Socket socket, std::shared_ptr<TlsContext> context) {
  return std::make_shared<TlsTransportImpl>(std::move(socket), std::move(context));
}

}  // namespace cwsandbox::net
