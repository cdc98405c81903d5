// HTTP/1.1 requests and answers as plain values, shared by the client and the server of this folder.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cwsandbox::net {

using Headers = std::vector<std::pair<std::string, std::string>>;

/// The first header of that name (ASCII case ignored), or an empty view.
[[nodiscard]] std::string_view find_header(const Headers& headers, std::string_view name) noexcept;

/// A request's target without its query.
[[nodiscard]] constexpr std::string_view path_of(std::string_view target) noexcept { return target.substr(0, target.find('?')); }

struct HttpRequest {
  std::string method = "POST";
  std::string target;  ///< origin form: path and query
  Headers headers;     ///< without Content-Length, Connection: the connection's business; Host only where it was received
  std::string body;
  /// False: doing it twice would do harm. It goes out over a connection of its own, since one that was idle may die under it in a
  /// way that does not tell whether the server has it.
  bool repeatable = true;
};

struct HttpResponse {
  unsigned status = 200;
  Headers headers;
  std::string body;
};

}  // namespace cwsandbox::net
