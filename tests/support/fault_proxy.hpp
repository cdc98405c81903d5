// A proxy that fails on purpose: it passes bytes between a client and a gateway's Unix socket and cuts, stalls, delays, truncates,
// resets or refuses where the test says. It reads the frames of WebSockets, so that a cut may fall between two messages.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>

namespace support {

class FaultProxy {
 public:
  static constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

  /// When to cut one WebSocket; whatever comes first. Counted from behind its upgrade; what is counted has passed before the cut.
  class Plan {
   public:
    Plan() {}
    std::uint64_t bytes_to_server = kNever, bytes_to_client = kNever;
    std::uint64_t messages = kNever;  ///< whole data messages, both directions together
    std::uint64_t messages_to_server = kNever, messages_to_client = kNever;
    bool late = false;                   ///< not behind what was counted last, but when the next byte of that direction comes
    bool reset = false;                  ///< RST instead of FIN, where the client came by TCP
    bool truncate = false;               ///< only the direction that came so far ends, with a FIN; what still comes is swallowed
    std::chrono::milliseconds delay{0};  ///< of everything that passes
  };
  /// Told the number of the WebSocket, from 0; called on a thread of the proxy's.
  using Planner = std::function<Plan(int websocket)>;

  enum class Listen { unix_socket, tcp };
  explicit FaultProxy(std::string target_socket, Listen listen = Listen::unix_socket);
  ~FaultProxy();
  FaultProxy(const FaultProxy&) = delete;
  FaultProxy& operator=(const FaultProxy&) = delete;

  [[nodiscard]] std::string url() const;
  void set_planner(Planner planner);
  /// Where connections that come from now on are led.
  void set_target(std::string target_socket);
  /// On: connections are closed as soon as they come.
  void refuse(bool on);
  /// On: connections stay, and nothing passes.
  void stall(bool on);
  void cut_all();
  /// Cuts of WebSockets that a plan asked for.
  [[nodiscard]] int cuts() const;
  [[nodiscard]] int websockets() const;
  /// Connections that came, those that were refused among them.
  [[nodiscard]] int connections() const;
  /// What has passed over one WebSocket.
  struct Traffic {
    std::uint64_t bytes_to_server = 0, bytes_to_client = 0, messages_to_server = 0, messages_to_client = 0;
  };
  [[nodiscard]] Traffic traffic(int websocket) const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace support
