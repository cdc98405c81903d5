#include "net/tls.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/recycling_allocator.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <iterator>
#include <new>
#include <stdexcept>
#include <type_traits>

namespace cwsandbox::net {

class TlsContext {
 public:
  TlsContext(asio::ssl::context::method method, bool is_client, bool verifies)
      : context(method), client(is_client), verify(verifies) {
    if (SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION) != 1)
      throw std::runtime_error("TLS 1.2 is not available");
    // Of TLS 1.2 only what also encrypts what it authenticates, with keys that are not kept: no CBC, no RSA key exchange.
    if (SSL_CTX_set_cipher_list(context.native_handle(), "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20") != 1)
      throw std::runtime_error("no cipher suite of TLS 1.2 is available");
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
[[noreturn]] void refuse_file(TlsFileError::Role role, const char* what, const std::string& file, const error_code& ec) {
  throw TlsFileError(role, file, std::string(what) + " \"" + file + "\": " + ec.message());
}

void use_key_pair(asio::ssl::context& context, const std::string& certificate, const std::string& key) {
  error_code ec;
  if (context.use_certificate_chain_file(certificate, ec); ec)
    refuse_file(TlsFileError::Role::certificate, "cannot use the TLS certificate", certificate, ec);
  const auto& key_file = key.empty() ? certificate : key;
  if (context.use_private_key_file(key_file, asio::ssl::context::pem, ec); ec)
    refuse_file(TlsFileError::Role::key, "cannot use the TLS key", key_file, ec);
  if (SSL_CTX_check_private_key(context.native_handle()) != 1)
    throw TlsFileError(TlsFileError::Role::key, key_file,
                       "the TLS key \"" + key_file + "\" does not belong to the certificate \"" + certificate + "\"");
}

// Where text is given instead of a file, `what` is all that there is to name.
[[noreturn]] void refuse_text(const char* what, const error_code& ec) {
  throw std::runtime_error(std::string(what) + " that is given as text: " + ec.message());
}

void use_key_pair_text(asio::ssl::context& context, const std::string& certificate, const std::string& key) {
  error_code ec;
  if (context.use_certificate_chain(asio::buffer(certificate), ec); ec) refuse_text("cannot use the TLS certificate", ec);
  // OpenSSL would ask at the terminal for the password of a key that is encrypted.
  SSL_CTX_set_default_passwd_cb(context.native_handle(), [](char*, int, int, void*) { return -1; });
  // That it belongs to the certificate is looked at here too.
  if (context.use_private_key(asio::buffer(key), asio::ssl::context::pem, ec); ec) refuse_text("cannot use the TLS key", ec);
}

// SSL_set_tlsext_host_name is a macro with a cast of its own.
bool send_name(SSL* ssl, std::string host) {
  return SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, host.data()) == 1;
}

// ---- The socket below OpenSSL ---------------------------------------------------------------------------------------------

// OpenSSL's own way to a socket would raise SIGPIPE, and would go on using the number of a descriptor that has been closed.
Socket& socket_of(BIO* bio) { return *static_cast<Socket*>(BIO_get_data(bio)); }

template <typename Call>
int transfer(BIO* bio, std::size_t size, std::size_t* moved, int retry, const Call& call) {
  BIO_clear_retry_flags(bio);
  *moved = 0;
  Socket& socket = socket_of(bio);
  if (!socket.is_open()) {
    errno = EBADF;
    return 0;
  }
  ssize_t n = -1;
  do n = call(socket.native_handle(), size);
  while (n < 0 && errno == EINTR);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) BIO_set_flags(bio, retry | BIO_FLAGS_SHOULD_RETRY);
  if (n == 0) errno = 0;  // the end is no error of the system's
  if (n <= 0) return 0;
  *moved = static_cast<std::size_t>(n);
  return 1;
}

int bio_read(BIO* bio, char* into, std::size_t size, std::size_t* moved) {
  return transfer(bio, size, moved, BIO_FLAGS_READ, [into](int fd, std::size_t n) { return ::recv(fd, into, n, 0); });
}
int bio_write(BIO* bio, const char* from, std::size_t size, std::size_t* moved) {
  return transfer(bio, size, moved, BIO_FLAGS_WRITE, [from](int fd, std::size_t n) { return ::send(fd, from, n, MSG_NOSIGNAL); });
}
long bio_control(BIO* /*bio*/, int command, long /*number*/, void* /*pointer*/) { return command == BIO_CTRL_FLUSH ? 1 : 0; }
int bio_create(BIO* bio) {
  BIO_set_init(bio, 1);
  return 1;
}

// For the life of the process.
const BIO_METHOD* socket_method() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* out = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "cwsandbox socket");
    if (out == nullptr) throw std::bad_alloc();
    BIO_meth_set_read_ex(out, bio_read);
    BIO_meth_set_write_ex(out, bio_write);
    BIO_meth_set_ctrl(out, bio_control);
    BIO_meth_set_create(out, bio_create);
    return out;
  }();
  return method;
}

// OpenSSL works on the socket itself, and waiting is for readiness: so an idle connection holds no buffer, neither OpenSSL's
// (SSL_MODE_RELEASE_BUFFERS) nor one between it and the socket. asio::ssl::stream keeps 68 KiB there for each.
class TlsTransportImpl final : public TlsTransport {
 public:
  TlsTransportImpl(Socket socket, std::shared_ptr<TlsContext> context)
      : context_(std::move(context)),
        socket_(std::move(socket)),
        executor_(socket_.get_executor()),
        ssl_(SSL_new(context_->context.native_handle())) {
    if (!ssl_) throw std::bad_alloc();
    keep_from_children(socket_.native_handle());
    socket_.native_non_blocking(true);
    BIO* bio = BIO_new(socket_method());
    if (bio == nullptr) throw std::bad_alloc();
    BIO_set_data(bio, &socket_);
    SSL_set_bio(ssl_.get(), bio, bio);
    SSL_set_mode(ssl_.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    // A record's header and body in one system call.
    SSL_set_read_ahead(ssl_.get(), 1);
  }

  asio::any_io_executor executor() override { return executor_; }

  void read_some(const MutableBuffers& into, SizeHandler handler) override {
    const auto buffer = into.empty() ? asio::mutable_buffer() : *into.begin();
    begin(Reading{buffer}, std::move(handler));
  }
  void write_some(const ConstBuffers& from, SizeHandler handler) override { begin(Writing{from}, std::move(handler)); }

  void async_handshake(const std::string& host, IoHandler handler) override {
    error_code ec;
    if (context_->client) {
      asio::ip::make_address(host, ec);
      const bool is_name = static_cast<bool>(ec);
      ec = {};
      if (is_name && !send_name(ssl_.get(), host))
        ec = error_code(static_cast<int>(ERR_get_error()), asio::error::get_ssl_category());
      // OpenSSL's own check, so that a mismatch is reported as such by refusal().
      if (!ec && context_->verify) {
        X509_VERIFY_PARAM* param = SSL_get0_param(ssl_.get());
        X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        const int ok = is_name ? X509_VERIFY_PARAM_set1_host(param, host.c_str(), host.size())
                               : X509_VERIFY_PARAM_set1_ip_asc(param, host.c_str());
        if (ok != 1) ec = asio::error::invalid_argument;
      }
      SSL_set_connect_state(ssl_.get());
    } else {
      SSL_set_accept_state(ssl_.get());
    }
    if (ec) {
      finish_later(std::move(handler), ec);
      return;
    }
    begin(Handshaking{}, std::move(handler));
  }

  std::string refusal() const override {
    const long result = SSL_get_verify_result(ssl_.get());
    return result == X509_V_OK ? std::string() : std::string(X509_verify_cert_error_string(result));
  }

  void close() noexcept override {
    error_code ignored;
    socket_.close(ignored);
  }
  void cancel() noexcept override {
    error_code ignored;
    socket_.cancel(ignored);
  }
  bool quiet() noexcept override { return SSL_has_pending(ssl_.get()) == 0 && socket_is_quiet(socket_); }

 protected:
  asio::awaitable<void> farewell() override {
    error_code ignored;
    auto token = asio::redirect_error(asio::use_awaitable, ignored);
    auto initiate = [this](auto handler) { begin(ShuttingDown{}, IoHandler(std::move(handler))); };
    co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
  }
  Socket& socket() noexcept override { return socket_; }

 private:
  struct Free {
    void operator()(SSL* ssl) const noexcept { SSL_free(ssl); }
  };

  // What is tried, again whenever the socket is ready: OpenSSL's result, and the bytes moved.
  struct Reading {
    using Handler = SizeHandler;
    asio::mutable_buffer into;
    int operator()(SSL* ssl, std::size_t& n) const { return into.size() == 0 ? 1 : SSL_read_ex(ssl, into.data(), into.size(), &n); }
  };
  struct Writing {
    using Handler = SizeHandler;
    ConstBuffers from;
    int operator()(SSL* ssl, std::size_t& n) const {
      if (from.empty()) return 1;
      asio::const_buffer piece = *from.begin();
      // Small pieces, such as a frame's header and its body, go into one record. What is tried again is put together again, as
      // OpenSSL wants it.
      std::array<char, SSL3_RT_MAX_PLAIN_LENGTH> joined;
      if (piece.size() < joined.size() && std::next(from.begin()) != from.end())
        piece = asio::buffer(joined.data(), asio::buffer_copy(asio::buffer(joined), from));
      return SSL_write_ex(ssl, piece.data(), piece.size(), &n);
    }
  };
  struct Handshaking {
    using Handler = IoHandler;
    int operator()(SSL* ssl, std::size_t& /*n*/) const { return SSL_do_handshake(ssl); }
  };
  struct ShuttingDown {
    using Handler = IoHandler;
    int operator()(SSL* ssl, std::size_t& /*n*/) const {
      // 0: ours is sent, the peer's is to come.
      const int result = SSL_shutdown(ssl);
      return result == 0 ? SSL_shutdown(ssl) : result;
    }
  };

  // The engine is used by the completion of an operation, so the operation keeps this object.
  template <typename Attempt>
  struct Operation {
    std::shared_ptr<TlsTransportImpl> transport;
    Attempt attempt;
    typename Attempt::Handler handler;
    bool begun = false;  // completes from where it is, and not from inside the call that gave it
    error_code ec{};
    std::size_t n = 0;

    using executor_type = asio::any_io_executor;
    [[nodiscard]] executor_type get_executor() const noexcept { return transport->executor_; }
    using allocator_type = asio::recycling_allocator<void>;
    [[nodiscard]] allocator_type get_allocator() const noexcept { return {}; }
    using cancellation_slot_type = asio::cancellation_slot;
    [[nodiscard]] cancellation_slot_type get_cancellation_slot() const noexcept { return handler.get_cancellation_slot(); }

    void operator()(error_code waited) {
      if (waited) {
        ec = waited;
        complete();
      } else {
        auto self = transport;
        self->go_on(std::move(*this));
      }
    }
    void operator()() { complete(); }

   private:
    void complete() {
      if constexpr (std::is_same_v<typename Attempt::Handler, SizeHandler>) {
        std::move(handler)(ec, n);
      } else {
        std::move(handler)(ec);
      }
    }
  };

  template <typename Attempt>
  void begin(Attempt attempt, typename Attempt::Handler handler) {
    go_on(Operation<Attempt>{self(), std::move(attempt), std::move(handler)});
  }

  template <typename Attempt>
  void go_on(Operation<Attempt> operation) {
    ERR_clear_error();
    std::size_t n = 0;
    const int result = operation.attempt(ssl_.get(), n);
    const int system_error = errno;
    const int what = result > 0 ? SSL_ERROR_NONE : SSL_get_error(ssl_.get(), result);
    if (socket_.is_open() && (what == SSL_ERROR_WANT_READ || what == SSL_ERROR_WANT_WRITE)) {
      const auto ready = what == SSL_ERROR_WANT_READ ? Socket::wait_read : Socket::wait_write;
      operation.begun = true;
      socket_.async_wait(ready, std::move(operation));
      return;
    }
    operation.ec = what == SSL_ERROR_NONE ? error_code() : error_of(what, system_error);
    operation.n = n;
    if (operation.begun) {
      std::move(operation)();
    } else {
      asio::post(executor_, std::move(operation));
    }
  }

  error_code error_of(int what, int system_error) const {
    if (!socket_.is_open()) return asio::error::operation_aborted;
    if (what == SSL_ERROR_ZERO_RETURN) return asio::error::eof;
    const unsigned long error = ERR_get_error();
    // Only a farewell tells that nothing has been cut off.
    if (what == SSL_ERROR_SSL && ERR_GET_REASON(error) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
      return asio::ssl::error::stream_truncated;
    if (what == SSL_ERROR_SYSCALL && error == 0)
      return system_error == 0 ? make_error_code(asio::ssl::error::stream_truncated)
                               : error_code(system_error, boost::system::system_category());
    if (error == 0) return asio::ssl::error::unexpected_result;
    return {static_cast<int>(error), asio::error::get_ssl_category()};
  }

  void finish_later(IoHandler handler, error_code ec) {
    Operation<Handshaking> operation{self(), {}, std::move(handler)};
    operation.ec = ec;
    asio::post(executor_, std::move(operation));
  }

  std::shared_ptr<TlsTransportImpl> self() { return std::static_pointer_cast<TlsTransportImpl>(shared_from_this()); }

  std::shared_ptr<TlsContext> context_;
  Socket socket_;
  asio::any_io_executor executor_;
  std::unique_ptr<SSL, Free> ssl_;
};

}  // namespace

std::shared_ptr<TlsContext> make_tls_client_context(const TlsClientOptions& options) {
  if ((!options.ca.empty() && !options.ca_file.empty()) || (!options.certificate.empty() && !options.certificate_file.empty()))
    throw std::runtime_error("a TLS certificate was given both as text and as a file");
  auto tls = std::make_shared<TlsContext>(asio::ssl::context::tls_client, true, options.verify);
  error_code ec;
  if (options.verify) {
    if (!options.ca.empty()) {
      if (tls->context.add_certificate_authority(asio::buffer(options.ca), ec); ec)
        refuse_text("cannot use the CA certificate", ec);
      // What is given is trusted itself, also when another authority has signed it.
      X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(tls->context.native_handle()), X509_V_FLAG_PARTIAL_CHAIN);
    } else if (options.ca_file.empty()) {
      if (tls->context.set_default_verify_paths(ec); ec)
        throw std::runtime_error("cannot use the system's CA store: " + ec.message());
    } else if (tls->context.load_verify_file(options.ca_file, ec); ec) {
      refuse_file(TlsFileError::Role::ca, "cannot use the CA file", options.ca_file, ec);
    }
  }
  tls->context.set_verify_mode(options.verify ? asio::ssl::verify_peer : asio::ssl::verify_none);
  if (!options.certificate_file.empty()) use_key_pair(tls->context, options.certificate_file, options.key_file);
  if (!options.certificate.empty()) use_key_pair_text(tls->context, options.certificate, options.key);
  return tls;
}

std::shared_ptr<TlsContext> make_tls_server_context(const TlsServerOptions& options) {
  if (options.certificate_file.empty()) throw std::runtime_error("a TLS key was given without a certificate");
  auto tls = std::make_shared<TlsContext>(asio::ssl::context::tls_server, false, false);
  use_key_pair(tls->context, options.certificate_file, options.key_file);
  if (!options.client_ca_file.empty()) {
    error_code ec;
    if (tls->context.load_verify_file(options.client_ca_file, ec); ec)
      refuse_file(TlsFileError::Role::ca, "cannot use the CA file for clients", options.client_ca_file, ec);
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
