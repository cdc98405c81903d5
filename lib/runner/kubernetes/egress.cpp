#include "runner/kubernetes/egress.hpp"

#include "base/numbers.hpp"
#include "runner/address_block.hpp"

#include <algorithm>
#include <utility>

namespace cwsandbox::runner::kubernetes {

namespace {

constexpr const char* kAllV4 = "0.0.0.0/0";
constexpr const char* kAllV6 = "::/0";
// IPv4 in IPv6's clothes: what is sent there leaves as IPv4, which these rules would not see.
constexpr const char* kMapped = "::ffff:0:0/96";

[[noreturn]] void bad(const std::string& text, const std::string& why) {
  throw RunnerError(ErrorCode::invalid_argument, "", "\"" + text.substr(0, 128) + "\": " + why);
}

AddressBlock block_of(const std::string& text) {
  const auto block = parse_block(text);
  if (!block) bad(text, "not a block of addresses like 10.0.0.0/8");
  return *block;
}

/// "tcp:443" or "udp:5000-5010".
PortRange port_range(const std::string& whole, std::string_view text) {
  PortRange out;
  if (text.starts_with("udp:")) {
    out.protocol = PortProtocol::udp;
  } else if (!text.starts_with("tcp:")) {
    bad(whole, "expected tcp:PORT or udp:PORT behind the =");
  }
  text.remove_prefix(4);
  const auto number = [&](std::string_view digits) {
    const auto port = base::parse_number<std::uint16_t>(digits).value_or(0);
    if (port == 0) bad(whole, "a port is a number from 1 to 65535");
    return port;
  };
  const auto dash = text.find('-');
  out.first = number(text.substr(0, dash));
  out.last = dash == std::string_view::npos ? out.first : number(text.substr(dash + 1));
  if (out.last < out.first) bad(whole, "the last port is before the first");
  return out;
}

std::vector<PortRange> port_ranges(const std::string& whole, std::string_view text) {
  std::vector<PortRange> out;
  for (;;) {
    const auto comma = text.find(',');
    out.push_back(port_range(whole, text.substr(0, comma)));
    if (comma == std::string_view::npos) return out;
    text.remove_prefix(comma + 1);
  }
}

Reachable to_pods(const std::vector<PortRange>& ports) {
  Reachable out;
  out.pods = true;
  out.rule.ports = ports;
  return out;
}

Reachable to_block(const std::string& cidr, std::vector<std::string> except, const std::vector<PortRange>& ports) {
  Reachable out;
  out.rule.cidr = cidr;
  out.rule.except = std::move(except);
  out.rule.ports = ports;
  return out;
}

bool allows_port(const std::vector<PortRange>& allowed, const PortRange& asked) {
  return allowed.empty() || std::any_of(allowed.begin(), allowed.end(), [&](const PortRange& range) {
           return range.protocol == asked.protocol && range.first <= asked.first && asked.last <= range.last;
         });
}

/// What `part` allows of the block that was asked for; empty if that is not in it.
std::optional<Reachable> cut(const EgressRule& asked, const AddressBlock& block, const EgressRule& part) {
  const auto whole = parse_block(part.cidr);
  if (!whole || !is_inside(block, *whole)) return std::nullopt;
  Reachable out = to_block(asked.cidr, asked.except, {});
  for (const std::string& text : part.except) {
    const auto hole = parse_block(text);
    if (!hole) continue;
    if (is_inside(block, *hole)) return std::nullopt;
    const auto is_out_already = [&](const std::string& own) {
      const auto except = parse_block(own);
      return except && is_inside(*hole, *except);
    };
    if (is_strictly_inside(*hole, block) && std::none_of(asked.except.begin(), asked.except.end(), is_out_already))
      out.rule.except.push_back(text);
  }
  return out;
}

}  // namespace

const std::vector<std::string>& metadata_blocks() {
  static const std::vector<std::string> blocks = {
      "169.254.0.0/16",      "fe80::/10",         // link-local; 169.254.169.254 is most clouds' metadata service
      "64:ff9b::a9fe:0/112",                      // the same through a translator of RFC 6052
      "fd00:ec2::/32",       "fd20:ce::254/128",  // AWS and Google over IPv6
      "100.100.100.200/32",                       // Alibaba
      "168.63.129.16/32",    "192.0.0.192/32"};   // Azure's host, Oracle
  return blocks;
}

std::vector<Reachable> parse_ceiling(const std::vector<std::string>& allowed, const std::vector<std::string>& denied) {
  std::vector<Reachable> out;
  for (const std::string& text : denied) {
    if (is_inside(block_of(text), *parse_block(kMapped))) bad(text, "name IPv4 addresses as such");
  }
  const auto add = [&](const std::string& cidr, const std::vector<PortRange>& ports, bool without_metadata = true) {
    const AddressBlock block = block_of(cidr);
    if (is_inside(block, *parse_block(kMapped))) bad(cidr, "name IPv4 addresses as such");
    std::vector<std::string> except;
    for (const std::string& text : denied) {
      const AddressBlock hole = block_of(text);
      if (is_inside(block, hole)) bad(cidr, "is allowed, and denied by " + text);
      if (is_inside(hole, block)) except.push_back(text);
    }
    for (const std::string& text : metadata_blocks()) {
      const bool known = std::find(except.begin(), except.end(), text) != except.end();
      if (without_metadata && !known && is_strictly_inside(*parse_block(text), block)) except.push_back(text);
    }
    out.push_back(to_block(cidr, std::move(except), ports));
  };
  for (const std::string& text : allowed) {
    const auto equals = text.find('=');
    const std::string where = text.substr(0, equals);
    std::vector<PortRange> ports;
    if (equals != std::string::npos) ports = port_ranges(text, std::string_view(text).substr(equals + 1));
    if (where == kPodsEgress || where == kAnyEgress) out.push_back(to_pods(ports));
    if (where == kAnyEgress) {
      add(kAllV4, ports, false);
      add(kAllV6, ports, false);
    } else if (where != kPodsEgress) {
      add(where, ports);
    }
  }
  if (allowed.empty()) {
    out.push_back(to_pods({}));
    add(kAllV4, {});
    add(kAllV6, {});
  }
  return out;
}

std::optional<std::vector<Reachable>> reach_within(const EgressRule& asked, const std::vector<Reachable>& ceiling) {
  std::vector<Reachable> out;
  if (asked.cidr.empty() && asked.ports.empty()) return ceiling;
  std::optional<AddressBlock> block;
  if (!asked.cidr.empty()) {
    block = parse_block(asked.cidr);
    if (!block || is_inside(*block, *parse_block(kMapped))) return std::nullopt;
  }
  std::vector<bool> found(asked.ports.size());
  for (const Reachable& part : ceiling) {
    std::optional<Reachable> piece;
    if (!block) {
      piece = part;
    } else if (!part.pods) {
      piece = cut(asked, *block, part.rule);
    }
    if (!piece) continue;
    piece->rule.ports.clear();
    for (std::size_t i = 0; i < asked.ports.size(); ++i) {
      if (!allows_port(part.rule.ports, asked.ports[i])) continue;
      piece->rule.ports.push_back(asked.ports[i]);
      found[i] = true;
    }
    // Without ports all of them are meant.
    if (asked.ports.empty() ? part.rule.ports.empty() : !piece->rule.ports.empty()) out.push_back(std::move(*piece));
  }
  if (out.empty() || std::find(found.begin(), found.end(), false) != found.end()) return std::nullopt;
  return out;
}

}  // namespace cwsandbox::runner::kubernetes
