// Text from elsewhere: whether it is UTF-8, and four ways to show it. They differ in what is lost and in what a bound means, so
// none can stand for another; each says what it is for.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace cwsandbox::base {

/// How many bytes the UTF-8 character takes that `text` begins with; 0 when it begins with none. Strict: no overlong forms, no
/// surrogates, nothing above U+10FFFF.
[[nodiscard]] std::size_t utf8_character(std::string_view text) noexcept;

/// Nothing but characters as utf8_character() takes them.
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

/// With U+FFFD for each byte that belongs to no character.
[[nodiscard]] std::string repaired_utf8(std::string_view text);

/// For a reason or a message, which are bounded where they are sent (what a WebSocket is closed with has 123 bytes): at most `max`
/// bytes of printable ASCII. Any other byte becomes one '?', so that a text never grows; what is cut off becomes "...".
[[nodiscard]] std::string printable(std::string_view text, std::size_t max);

/// For a line of a log, and between double quotes: bytes that are not printable ASCII, '"' and '\' are written as \xNN, so that
/// what a peer sent can neither forge a line nor end the quotes, and can be told byte by byte. Cut to about `max` bytes.
[[nodiscard]] std::string escaped(std::string_view text, std::size_t max);

/// escaped(), in its quotes.
[[nodiscard]] std::string in_quotes(std::string_view text, std::size_t max);

/// For paths and names in a message to whoever chose them, in whatever language: UTF-8 stays as it is, control characters and other
/// bytes are written as \xNN. Cut to about 512 bytes, as the whole of it stands beside the message or is known.
[[nodiscard]] std::string printable_utf8(std::string_view text);

}  // namespace cwsandbox::base
