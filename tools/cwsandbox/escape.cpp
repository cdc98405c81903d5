#include "escape.hpp"

namespace cli {

namespace {

constexpr char kInterrupt = '\x03';
constexpr char kSuspend = '\x1a';

std::string shown(char c) {
  const auto byte = static_cast<unsigned char>(c);
  if (byte < 0x20) return {'^', static_cast<char>(byte + '@')};
  return {c};
}

}  // namespace

EscapeFilter::Action EscapeFilter::take(std::string_view& typed, std::string& out) {
  while (!typed.empty()) {
    const char key = typed.front();
    typed.remove_prefix(1);
    if (held_) {
      held_ = false;
      // Behind an action a line begins again, so that one may follow the other.
      if (key == '.') return Action::leave;
      if (key == '?') return Action::help;
      if (key == kSuspend) return Action::suspend;
      out += *escape_;
      line_begins_ = false;
      if (key == *escape_) continue;
    } else if (line_begins_ && escape_ && key == *escape_) {
      held_ = true;
      continue;
    }
    out += key;
    line_begins_ = key == '\r' || key == '\n';
  }
  return Action::none;
}

std::string EscapeFilter::help() const {
  const std::string escape = escape_ ? shown(*escape_) : "";
  return escape + "?\r\nAfter a new line:\r\n  " + escape + ".   leaves the session, which is hung up\r\n  " + escape +
         "^Z  suspends this program\r\n  " + escape + "?   shows this\r\n  " + escape + escape + "  types " + escape + "\r\n";
}

bool Patience::typed(std::string_view keys, std::uint64_t sent, std::uint64_t taken, Clock::time_point now) {
  if (count_ > 0 && taken >= first_) count_ = 0;
  for (const char key : keys) {
    ++sent;
    if (key != kInterrupt) {
      count_ = 0;
      continue;
    }
    if (count_++ == 0) {
      first_ = sent;
      since_ = now;
    }
    if (count_ >= kAsked && now - since_ >= kLongest) return true;
  }
  return false;
}

}  // namespace cli
