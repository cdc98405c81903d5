#include "net/http_wire.hpp"

#include "base/ascii.hpp"
#include "net/http_body.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/rfc7230.hpp>

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace cwsandbox::net {

namespace http = boost::beast::http;

namespace {

constexpr std::size_t kMaxResponseHeader = 64 * 1024;
// What is set aside for a body because it was announced; what is larger grows as it comes.
constexpr std::size_t kMaxReserve = 64 * 1024;

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

bool is_token(std::string_view text) { return !text.empty() && base::only_letters_digits_and("!#$%&'*+-.^_`|~", text); }

ParseResult result_of(boost::system::error_code ec) {
  if (!ec) return ParseResult::progress;
  if (ec == http::error::need_more) return ParseResult::need_more;
  if (ec == http::error::header_limit) return ParseResult::header_too_large;
  if (ec == http::error::body_limit) return ParseResult::body_too_large;
  return ParseResult::malformed;
}

// A body that is held whole.
class WholeBody {
 public:
  WholeBody(BodyReader framing, std::size_t max) : framing_(framing), max_(max) {
    if (const auto length = framing_.left())
      bytes_.reserve(static_cast<std::size_t>(std::min<std::uint64_t>(*length, kMaxReserve)));
  }

  ParseResult put(std::string_view bytes, std::size_t& consumed) {
    consumed = 0;
    std::string_view rest = bytes;
    while (!rest.empty() && !framing_.done()) {
      if (const auto left = framing_.left(); left && *left > max_ - bytes_.size()) return ParseResult::body_too_large;
      std::string_view data;
      if (!framing_.next(rest, data)) return ParseResult::malformed;
      if (data.size() > max_ - bytes_.size()) return ParseResult::body_too_large;
      // Once what is held shows that the peer means it: growing by and by would copy megabytes in one turn of the loop. Memory that
      // is not written to costs addresses only.
      if (data.size() > bytes_.capacity() - bytes_.size()) {
        if (const auto left = framing_.left()) bytes_.reserve(bytes_.size() + data.size() + static_cast<std::size_t>(*left));
      }
      bytes_ += data;
    }
    consumed = bytes.size() - rest.size();
    return consumed == 0 ? ParseResult::need_more : ParseResult::progress;
  }
  [[nodiscard]] bool end() noexcept { return framing_.end(); }
  [[nodiscard]] bool done() const noexcept { return framing_.done(); }
  [[nodiscard]] std::string take() { return std::move(bytes_); }

 private:
  BodyReader framing_;
  std::size_t max_;
  std::string bytes_;
};

// A message: Beast parses its header only. Beast's reader of chunks (Boost 1.81) asserts what a hostile peer's trailers need not
// keep.
template <typename Parser>
struct Reader {
  Parser parser;
  std::optional<WholeBody> body;

  explicit Reader(std::size_t max_header) : header_left_(max_header) {
    parser.eager(false);
    parser.body_limit(boost::none);  // bodies bound themselves
    // Beast measures the first line apart when both come together; the bound is ours.
    parser.header_limit(std::numeric_limits<std::uint32_t>::max());
  }

  ParseResult put(std::string_view bytes, std::size_t& consumed) {
    consumed = 0;
    if (body) return body->put(bytes, consumed);
    if (parser.is_header_done()) return ParseResult::need_more;
    boost::system::error_code ec;
    const auto part = bytes.substr(0, header_left_);
    if (!part.empty()) consumed = parser.put(boost::asio::const_buffer(part.data(), part.size()), ec);
    header_left_ -= consumed;
    if (!parser.is_header_done() && (!ec || ec == http::error::need_more) && part.size() < bytes.size())
      return ParseResult::header_too_large;
    return result_of(ec);
  }
  void read_body(std::size_t max) { body.emplace(framing(), max); }
  [[nodiscard]] bool done() const { return parser.is_done() || (body && body->done()); }
  [[nodiscard]] std::string take_body() { return body ? body->take() : std::string(); }

 private:
  std::size_t header_left_;  // bytes that the rest of the header may have
  [[nodiscard]] BodyReader framing() const {
    if (parser.is_done()) return BodyReader::of_length(0);
    if (parser.chunked()) return BodyReader::in_chunks();
    const auto length = parser.content_length();
    return length ? BodyReader::of_length(*length) : BodyReader::until_end();
  }
};

// Whether the framing is one that every reader on the way understands alike: no transfer coding at all, or exactly "chunked".
// Beast takes the last word of a list for the coding, and what it does not know for none: a lenient proxy in front would see the
// end of the message elsewhere, and the body would be a request of its own (RFC 9112, sections 6.1 and 11.2).
template <typename Message>
bool plain_framing(const Message& message) {
  const auto codings = message.count(http::field::transfer_encoding);
  if (codings == 0) return true;
  return codings == 1 && message.version() == 11 &&
         base::same_but_for_case(view(message[http::field::transfer_encoding]), "chunked");
}

// Headers that belong to the connection and are not the application's business.
bool of_connection(std::string_view name) {
  for (const std::string_view own : {"host", "content-length", "connection", "transfer-encoding", "keep-alive", "expect"})
    if (base::same_but_for_case(name, own)) return true;
  return false;
}

template <typename Fields>
Headers copy_headers(const Fields& fields, bool all) {
  Headers out;
  for (const auto& field : fields) {
    const auto name = view(field.name_string());
    if (all || !of_connection(name)) out.emplace_back(name, view(field.value()));
  }
  return out;
}

}  // namespace

std::string_view find_header(const Headers& headers, std::string_view name) noexcept {
  for (const auto& [key, value] : headers)
    if (base::same_but_for_case(key, name)) return value;
  return {};
}

std::vector<std::string> header_list(const Headers& headers, std::string_view name) {
  std::vector<std::string> out;
  for (const auto& [key, value] : headers) {
    if (!base::same_but_for_case(key, name)) continue;
    std::string_view rest = value;
    while (!rest.empty()) {
      const auto comma = std::min(rest.find(','), rest.size());
      const auto item = base::trimmed(rest.substr(0, comma), " \t");
      if (!item.empty()) out.emplace_back(item);
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
  }
  return out;
}

struct RequestReader::Impl : Reader<http::request_parser<http::empty_body>> {
  using Reader::Reader;
  std::size_t max_body = 0;
};

RequestReader::RequestReader(std::size_t max_header, std::size_t max_body) : impl_(std::make_unique<Impl>(max_header)) {
  impl_->max_body = max_body;
}
RequestReader::~RequestReader() = default;

ParseResult RequestReader::put(std::string_view bytes, std::size_t& consumed) { return impl_->put(bytes, consumed); }
void RequestReader::read_body() { impl_->read_body(impl_->max_body); }
bool RequestReader::header_done() const { return impl_->parser.is_header_done(); }
bool RequestReader::done() const { return impl_->done(); }

std::string_view RequestReader::complaint() const {
  const auto& message = impl_->parser.get();
  if (message.version() != 10 && message.version() != 11) return "unsupported HTTP version";
  const auto target = view(message.target());
  if (!target.starts_with('/') && target != "*" && !target.starts_with("http://") && !target.starts_with("https://"))
    return "malformed request target";
  if (!plain_framing(message)) return "the only transfer coding here is chunked, and once";
  const auto hosts = message.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && message.version() == 11)) return "a request needs exactly one Host header";
  return {};
}
bool RequestReader::keep_alive() const { return impl_->parser.keep_alive(); }
bool RequestReader::has_body() const {
  const auto length = impl_->parser.content_length();
  return impl_->parser.chunked() || (length && *length != 0);
}
std::optional<std::uint64_t> RequestReader::content_length() const {
  if (impl_->parser.chunked()) return std::nullopt;
  const auto length = impl_->parser.content_length();
  return length ? *length : 0;
}
bool RequestReader::expects_continue() const {
  return version() == 11 && base::same_but_for_case(view(impl_->parser.get()[http::field::expect]), "100-continue");
}
bool RequestReader::websocket_upgrade() const {
  const auto& message = impl_->parser.get();
  return message.version() == 11 && http::token_list(message[http::field::connection]).exists("upgrade") &&
         http::token_list(message[http::field::upgrade]).exists("websocket");
}
unsigned RequestReader::version() const { return impl_->parser.get().version(); }

HttpRequest RequestReader::head() const {
  const auto& message = impl_->parser.get();
  HttpRequest out;
  out.method = std::string(view(message.method_string()));
  auto target = view(message.target());
  if (target.starts_with("http")) {  // absolute form
    const auto start = target.find('/', target.find("//") + 2);
    target = start == std::string_view::npos ? std::string_view("/") : target.substr(start);
  }
  out.target = std::string(target);
  out.headers = copy_headers(message, false);
  // What the client calls this server: some of it depends on that.
  if (const auto host = message.find(http::field::host); host != message.end())
    out.headers.emplace_back("Host", view(host->value()));
  return out;
}
Headers RequestReader::all_headers() const { return copy_headers(impl_->parser.get(), true); }
std::string RequestReader::take_body() { return impl_->take_body(); }

struct ResponseReader::Impl : Reader<http::response_parser<http::empty_body>> {
  using Reader::Reader;
  std::optional<std::size_t> max_body;  // null: the header only
};

ResponseReader::ResponseReader(std::size_t max_body, bool head_request) : impl_(std::make_unique<Impl>(kMaxResponseHeader)) {
  impl_->parser.skip(head_request);
  impl_->max_body = max_body;
}
ResponseReader::~ResponseReader() = default;

ParseResult ResponseReader::put(std::string_view bytes, std::size_t& consumed) {
  const bool had_header = header_done();
  const ParseResult result = impl_->put(bytes, consumed);
  if (!had_header && header_done() && !plain_framing(impl_->parser.get())) return ParseResult::malformed;
  if (!had_header && header_done() && impl_->max_body) impl_->read_body(*impl_->max_body);
  return result;
}
ParseResult ResponseReader::put_eof() { return impl_->body && impl_->body->end() ? ParseResult::progress : ParseResult::malformed; }
bool ResponseReader::done() const { return impl_->done(); }
void ResponseReader::header_only() { impl_->max_body.reset(); }
bool ResponseReader::header_done() const { return impl_->parser.is_header_done(); }
std::optional<std::uint64_t> ResponseReader::content_length() const {
  if (impl_->parser.is_done()) return 0;
  const auto length = impl_->parser.content_length();
  if (!length || impl_->parser.chunked()) return std::nullopt;
  return *length;
}
bool ResponseReader::chunked() const { return !impl_->parser.is_done() && impl_->parser.chunked(); }
bool ResponseReader::interim() const {
  const auto status = impl_->parser.get().result_int();
  return status >= 100 && status < 200 && status != 101;
}
bool ResponseReader::keep_alive() const { return impl_->parser.keep_alive(); }
HttpResponse ResponseReader::take() {
  auto& message = impl_->parser.get();
  HttpResponse out;
  out.status = message.result_int();
  out.headers = copy_headers(message, false);
  out.body = impl_->take_body();
  return out;
}

void check_target(std::string_view target) {
  if (!target.starts_with('/') || std::any_of(target.begin(), target.end(), [](char c) { return c <= ' ' || c == '\x7f'; }))
    throw std::invalid_argument("the request's target is not a path");
}

void check_header(std::string_view name, std::string_view value) {
  if (!is_token(name)) throw std::invalid_argument("a header's name holds a character that is not allowed");
  for (const char c : value)
    if (c == '\r' || c == '\n' || c == '\0')
      throw std::invalid_argument("the value of header \"" + std::string(name) + "\" holds a line break or a zero byte");
}

namespace {

void append_headers(std::string& out, const Headers& headers) {
  for (const auto& [name, value] : headers) {
    check_header(name, value);
    if (of_connection(name)) continue;
    out.append(name).append(": ").append(value).append("\r\n");
  }
}

}  // namespace

std::string write_request_head(const HttpRequest& request, std::string_view host) {
  return write_request_head(request, host, request.body.size(), false);
}

std::string write_request_head(const HttpRequest& request, std::string_view host, std::optional<std::uint64_t> body_length,
                               bool expect_continue) {
  if (!is_token(request.method)) throw std::invalid_argument("the request's method is not a token");
  check_target(request.target);
  std::string out;
  out.reserve(512);
  out.append(request.method).append(" ").append(request.target).append(" HTTP/1.1\r\nHost: ").append(host).append("\r\n");
  append_headers(out, request.headers);
  // A method that carries a body says so even when it is empty.
  if (!body_length) {
    out.append("Transfer-Encoding: chunked\r\n");
  } else if (*body_length != 0 || request.method == "POST" || request.method == "PUT" || request.method == "PATCH") {
    out.append("Content-Length: ").append(std::to_string(*body_length)).append("\r\n");
  }
  if (expect_continue) out.append("Expect: 100-continue\r\n");
  out.append("\r\n");
  return out;
}

std::string write_response_head(const HttpResponse& response, bool keep_alive, unsigned version) {
  return write_response_head(response, keep_alive, version, response.body.size());
}

std::string write_response_head(const HttpResponse& response, bool keep_alive, unsigned version,
                                std::optional<std::uint64_t> body_length) {
  std::string out;
  out.reserve(256);
  const auto reason = view(http::obsolete_reason(http::int_to_status(response.status)));
  out.append("HTTP/1.1 ").append(std::to_string(response.status)).append(" ").append(reason).append("\r\nServer: cwsandboxd\r\n");
  append_headers(out, response.headers);
  const bool no_body = response.status == 204 || response.status == 304 || response.status < 200;
  if (!no_body && body_length) out.append("Content-Length: ").append(std::to_string(*body_length)).append("\r\n");
  if (!no_body && !body_length && version != 10) out.append("Transfer-Encoding: chunked\r\n");
  if (!keep_alive) {
    out.append("Connection: close\r\n");
  } else if (version == 10) {
    out.append("Connection: keep-alive\r\n");
  }
  out.append("\r\n");
  return out;
}

HttpResponse error_response(unsigned status, base::ErrorCode code, std::string_view message) {
  HttpResponse out;
  out.status = status;
  out.headers.emplace_back("Content-Type", "application/json");
  // The texts are this folder's own constants; nothing in them needs escaping.
  out.body.append("{\"code\":\"").append(base::to_string(code)).append("\",\"message\":\"").append(message).append("\"}");
  return out;
}

}  // namespace cwsandbox::net
