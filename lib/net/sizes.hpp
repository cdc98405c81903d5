// What a connection holds, beside what counts in a pool.
#pragma once

#include <cstddef>

namespace cwsandbox::net {

// HTTP. Answers up to this size are not counted.
inline constexpr std::size_t kSmallAnswer = 64 * 1024;
// What is read at once of a request: little until it turns out to be a large one.
inline constexpr std::size_t kSmallRead = 4 * 1024;
inline constexpr std::size_t kLargeRead = 64 * 1024;

// WebSocket. What an idle connection holds for its next message; most control messages fit.
inline constexpr std::size_t kSmallStorage = 4 * 1024;
// The first growth: a data message's payload, so that a 64 KiB message grows once. Later growth doubles what has arrived, so
// that a frame header alone never makes this side allocate its announced length.
inline constexpr std::size_t kLargeStorage = 64 * 1024;
// Beast masks through this buffer, one write per fill: a small one cuts a 64 KiB message into 16 writes.
inline constexpr std::size_t kSmallWriteBuffer = 4 * 1024;
inline constexpr std::size_t kLargeWriteBuffer = 64 * 1024 + 64;

// OpenSSL's state with the record that it reads and the one that it writes; and our objects and coroutines. Estimates, on the safe
// side.
inline constexpr std::size_t kTlsBytes = 96 * 1024;
inline constexpr std::size_t kObjectBytes = 32 * 1024;

/// One connection at most. Either it speaks HTTP or it is a WebSocket.
inline constexpr std::size_t kMostOfConnection =
    (kLargeRead + kSmallAnswer > kLargeStorage + kLargeWriteBuffer ? kLargeRead + kSmallAnswer
                                                                   : kLargeStorage + kLargeWriteBuffer) +
    kTlsBytes + kObjectBytes;

}  // namespace cwsandbox::net
