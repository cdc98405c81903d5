#include "core/encoding.hpp"

#include <iconv.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <memory>
#include <stdexcept>

namespace cwsandbox::core {

namespace {

/// iconv's handle for a name as users write it: Python says "latin-1" and "utf-16-le" where iconv says LATIN1 and UTF-16LE.
iconv_t open_encoding(const std::string& name) {
  const auto failed = reinterpret_cast<iconv_t>(-1);
  // iconv takes what follows a slash as orders ("//TRANSLIT" would replace characters silently).
  if (name.empty() || name.find('/') != std::string::npos) return failed;
  std::string dashes = name, joined, last_joined;
  std::replace(dashes.begin(), dashes.end(), '_', '-');
  std::remove_copy(dashes.begin(), dashes.end(), std::back_inserter(joined), '-');
  last_joined = dashes;
  if (const auto last = last_joined.rfind('-'); last != std::string::npos) last_joined.erase(last, 1);
  for (const auto& candidate : {name, dashes, last_joined, joined})
    if (const iconv_t handle = iconv_open(candidate.c_str(), "UTF-8"); handle != failed) return handle;
  return failed;
}

}  // namespace

std::string encode(std::string_view text, const std::string& encoding) {
  const auto close = [](void* handle) { iconv_close(handle); };
  std::unique_ptr<void, decltype(close)> converter(open_encoding(encoding), close);
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
    const std::size_t done =
        flushing ? iconv(converter.get(), nullptr, nullptr, &to, &room) : iconv(converter.get(), &from, &left, &to, &room);
    out.append(block, static_cast<std::size_t>(to - block));
    if (done != static_cast<std::size_t>(-1)) {
      // Characters that were replaced: the text is not what the caller gave.
      if (!flushing && done > 0) throw std::invalid_argument("the text holds a character that '" + encoding + "' does not have");
      if (flushing) return out;
      flushing = true;
    } else if (errno != E2BIG) {
      throw std::invalid_argument("cannot write the text in '" + encoding + "': the character at byte " +
                                  std::to_string(input.size() - left) +
                                  (errno == EINVAL ? " is cut off" : " is not UTF-8, or has no place in it"));
    }
  }
}

}  // namespace cwsandbox::core
