// HTTP/1.1 messages as bytes: Beast's parser of headers behind a plain face (compiled once), bodies that are held whole, and the
// writer.
#pragma once

#include "base/error_code.hpp"
#include "net/http.hpp"

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cwsandbox::net {

enum class ParseResult { need_more, progress, header_too_large, body_too_large, malformed };

/// Reads one message. Feed bytes with `put`; what it does not consume must be fed again, with more behind it.
class RequestReader {
 public:
  RequestReader(std::size_t max_header, std::size_t max_body);
  ~RequestReader();
  RequestReader(const RequestReader&) = delete;
  RequestReader& operator=(const RequestReader&) = delete;

  /// Stops after the header, whatever length that announces; `read_body` lets it go on, up to `max_body`.
  ParseResult put(std::string_view bytes, std::size_t& consumed);
  void read_body();
  [[nodiscard]] bool header_done() const;
  [[nodiscard]] bool done() const;

  // After the header.
  /// Empty when the header is sound, else why it answers 400.
  [[nodiscard]] std::string_view complaint() const;
  [[nodiscard]] bool keep_alive() const;
  [[nodiscard]] bool has_body() const;
  /// Bytes of the body when announced; nullopt when chunked.
  [[nodiscard]] std::optional<std::uint64_t> content_length() const;
  [[nodiscard]] bool expects_continue() const;
  [[nodiscard]] bool websocket_upgrade() const;
  [[nodiscard]] unsigned version() const;  ///< 10 or 11
  /// Method, target and headers, without those of the connection.
  [[nodiscard]] HttpRequest head() const;
  /// Every header, for the WebSocket handshake.
  [[nodiscard]] Headers all_headers() const;
  [[nodiscard]] std::string take_body();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class ResponseReader {
 public:
  ResponseReader(std::size_t max_body, bool head_request);
  ~ResponseReader();
  ResponseReader(const ResponseReader&) = delete;
  ResponseReader& operator=(const ResponseReader&) = delete;

  ParseResult put(std::string_view bytes, std::size_t& consumed);
  /// The connection ended: completes a body that lasts until then.
  ParseResult put_eof();
  [[nodiscard]] bool done() const;
  /// Before the first byte: stops after the header, and whoever reads the body bounds it.
  void header_only();
  [[nodiscard]] bool header_done() const;
  [[nodiscard]] bool interim() const;  ///< 100 Continue and its kind: the real answer follows
  // After the header, when it is the header only.
  /// Bytes of the body when announced; 0 for an answer that has none.
  [[nodiscard]] std::optional<std::uint64_t> content_length() const;
  [[nodiscard]] bool chunked() const;
  [[nodiscard]] bool keep_alive() const;
  [[nodiscard]] HttpResponse take();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The header block of a request. Throws std::invalid_argument for a method, target or header that would break the framing;
/// the text names the header, never its value.
[[nodiscard]] std::string write_request_head(const HttpRequest& request, std::string_view host);
/// The same for a body that is sent apart: of that length, or in chunks.
[[nodiscard]] std::string write_request_head(const HttpRequest& request, std::string_view host,
                                             std::optional<std::uint64_t> body_length, bool expect_continue);

/// The header block of an answer. Throws as above.
[[nodiscard]] std::string write_response_head(const HttpResponse& response, bool keep_alive, unsigned version);
/// The same for a body that is sent apart: of that length, or in chunks (HTTP/1.0: until the connection ends).
[[nodiscard]] std::string write_response_head(const HttpResponse& response, bool keep_alive, unsigned version,
                                              std::optional<std::uint64_t> body_length);

/// An error in the shape of the Connect protocol.
[[nodiscard]] HttpResponse error_response(unsigned status, base::ErrorCode code, std::string_view message);

/// Throws std::invalid_argument for anything but a path (and query) without blanks.
void check_target(std::string_view target);

/// Throws std::invalid_argument for a header that would break the framing.
void check_header(std::string_view name, std::string_view value);

/// The elements of a comma separated header, over all its lines.
[[nodiscard]] std::vector<std::string> header_list(const Headers& headers, std::string_view name);

}  // namespace cwsandbox::net
