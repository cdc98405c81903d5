// How the program that pods/exec starts gets to PID 1.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>

namespace cwsandbox::runner::pod {

/// An abstract name, that of the container's network namespace: there is no place in an image that is sure to be writable, and in
/// none could it be kept from being replaced. Packets, so that the descriptors and their byte are one.
inline constexpr char kSocketName[] = "\0cwsandbox-agent";

struct SocketAddress {
  sockaddr_un address{};
  socklen_t length = offsetof(sockaddr_un, sun_path) + sizeof kSocketName - 1;
  SocketAddress() noexcept {
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, kSocketName, sizeof kSocketName - 1);
  }
  [[nodiscard]] const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&address); }
};

inline constexpr char kHereTheyAre = 'R';  ///< a relay's only byte, with its stdin and stdout

// PID 1's only packet, when it is done with a relay, begins with one of these. A socket that ends without it means that PID 1 has
// gone.
inline constexpr char kOver = 'E';     ///< the connection is over, as it should be
inline constexpr char kRefused = 'F';  ///< it was not let in; behind this byte it stands why
inline constexpr std::size_t kMaxReason = 256;

}  // namespace cwsandbox::runner::pod
