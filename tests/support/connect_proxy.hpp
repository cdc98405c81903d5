// A proxy that knows CONNECT (RFC 9110, section 9.3.6) and nothing else, on a loopback port and a thread of its own: it asks for
// credentials, counts, cuts, and answers wrongly where a test says so.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace support {

class ConnectProxy {
 public:
  /// What is done with a request.
  enum class Mode {
    tunnel,    ///< what it asks for
    drip,      ///< the same, the answer's header a byte at a time
    stall,     ///< no answer
    close,     ///< the connection is closed instead of an answer
    answer,    ///< `set_answer`'s text, then the connection is closed
    together,  ///< `set_answer`'s text in one piece, then the tunnel
    endless,   ///< a header that does not end
  };

  ConnectProxy();
  ~ConnectProxy();
  ConnectProxy(const ConnectProxy&) = delete;
  ConnectProxy& operator=(const ConnectProxy&) = delete;

  [[nodiscard]] std::uint16_t port() const;
  /// With `user_info` ("user:password") in it.
  [[nodiscard]] std::string url(const std::string& user_info = "") const;

  /// A name, with any port, leads to this loopback port. What is not known is answered with 502.
  void add_host(const std::string& name, std::uint16_t port);
  void set_mode(Mode mode);
  /// See Mode.
  void set_answer(const std::string& text);
  /// The value of Proxy-Authorization without which the answer is 407; empty: none is needed.
  void require(const std::string& authorization);
  /// Ends the tunnels and the connections that stall.
  void cut_all();

  [[nodiscard]] int connections() const;
  [[nodiscard]] int tunnels() const;
  /// Connections that are open now, as far as this end knows.
  [[nodiscard]] int open() const;
  /// Bytes that have come through tunnels from clients.
  [[nodiscard]] std::uint64_t bytes() const;
  /// The headers of the requests.
  [[nodiscard]] std::vector<std::string> requests() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace support
