#include "core/encoding.hpp"

#include <iconv.h>

#include <cerrno>
#include <memory>
#include <stdexcept>
#include <strings.h>

namespace cwsandbox::core {

std::string encode(std::string_view text, const std::string& encoding) {
  // iconv reads what follows a slash as orders ("//TRANSLIT" would replace characters silently).
  const bool plausible = !encoding.empty() && encoding.find('/') == std::string::npos;
  const auto close = [](void* handle) { iconv_close(handle); };
  std::unique_ptr<void, decltype(close)> converter(
      plausible ? iconv_open(encoding.c_str(), "UTF-8") : reinterpret_cast<iconv_t>(-1), close);
  if (converter.get() == reinterpret_cast<iconv_t>(-1)) {
    converter.release();
    throw std::invalid_argument("unknown encoding '" + encoding + "'");
  }
  std::string out;
  std::string input(text);  // iconv takes no const
  char* from = input.data();
  std::size_t left = input.size();
  char block[4096];
  bool flushing = false;
  for (;;) {
    char* to = block;
    std::size_t room = sizeof block;
    const std::size_t done = flushing ? iconv(converter.get(), nullptr, nullptr, &to, &room)
                                      : iconv(converter.get(), &from, &left, &to, &room);
    out.append(block, static_cast<std::size_t>(to - block));
    if (done != static_cast<std::size_t>(-1)) {
      // Characters that were replaced: the text is not what the caller gave.
      if (!flushing && done > 0) throw std::invalid_argument("the text holds a character that '" + encoding + "' does not have");
      if (flushing) return out;
      flushing = true;
    } else if (errno != E2BIG) {
      throw std::invalid_argument("cannot write the text in '" + encoding + "': the character at byte " +
                                  std::to_string(input.size() - left) + (errno == EINVAL ? " is cut off" : " is not UTF-8, or has no place in it"));
    }
  }
}

}  // namespace cwsandbox::core
