// The lines of a watch: the same ones however the stream is cut.
#include "runner/kubernetes/watch_lines.hpp"

#include <string>

#include "script.hpp"

using cwsandbox::runner::kubernetes::WatchLines;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::size_t step = 1 + data[0] % 16;
  WatchLines lines(64);
  std::string joined, expected;
  for (std::size_t at = 0; at < text.size() && !lines.too_long(); at += step) {
    lines.put(text.substr(at, step));
    while (const auto line = lines.next()) {
      FUZZ_CHECK(!line->empty() && line->find('\n') == std::string_view::npos);
      joined += *line;
      joined += '\n';
    }
  }
  if (lines.too_long()) return 0;
  for (std::size_t from = 0; from < text.size();) {
    const auto newline = text.find('\n', from);
    if (newline == std::string_view::npos) break;
    if (newline > from) expected += std::string(text.substr(from, newline - from)) + '\n';
    from = newline + 1;
  }
  FUZZ_CHECK(joined == expected);
  FUZZ_CHECK(lines.empty() == (text.empty() || text.back() == '\n'));
  return 0;
}
