// What sandboxes may reach at most: an operator's ceiling, and what of it a sandbox's own rule asks for.
#include "runner/kubernetes/egress.hpp"
#include "support/catch.hpp"

#include <string>

using namespace cwsandbox::runner;
using namespace cwsandbox::runner::kubernetes;
using Strings = std::vector<std::string>;
using Catch::Matchers::Contains;

namespace {

std::string text(const Reachable& part) {
  std::string out = part.pods ? "pods" : part.rule.cidr;
  for (const auto& except : part.rule.except) out += " -" + except;
  for (const auto& range : part.rule.ports) {
    out += range.protocol == PortProtocol::udp ? " udp:" : " tcp:";
    out += std::to_string(range.first) + (range.last == range.first ? "" : "-" + std::to_string(range.last));
  }
  return out;
}

Strings texts(const std::vector<Reachable>& parts) {
  Strings out;
  for (const auto& part : parts) out.push_back(text(part));
  return out;
}

/// "refused" or what is left of the rule.
Strings within(const EgressRule& asked, const Strings& allowed, const Strings& denied = {}) {
  const auto parts = reach_within(asked, parse_ceiling(allowed, denied));
  return parts ? texts(*parts) : Strings{"refused"};
}

EgressRule to(const std::string& cidr, std::vector<PortRange> ports = {}, Strings except = {}) {
  return {cidr, std::move(except), std::move(ports)};
}

PortRange tcp(std::uint16_t first, std::uint16_t last = 0) { return {PortProtocol::tcp, first, last == 0 ? first : last}; }
PortRange udp(std::uint16_t port) { return {PortProtocol::udp, port, port}; }

std::string complaint(const Strings& allowed, const Strings& denied = {}) {
  try {
    (void)parse_ceiling(allowed, denied);
  } catch (const RunnerError& error) {
    return error.what();
  }
  return "";
}

const Strings kRefused = {"refused"};

}  // namespace

TEST_CASE("without a word of the operator's, no sandbox reaches a metadata service", "[kubernetes][KU-2]") {
  CHECK(texts(parse_ceiling({}, {})) == Strings{"pods",
                                                "0.0.0.0/0 -169.254.0.0/16 -100.100.100.200/32 -168.63.129.16/32 -192.0.0.192/32",
                                                "::/0 -fe80::/10 -64:ff9b::a9fe:0/112 -fd00:ec2::/32 -fd20:ce::254/128"});
  for (const char* block :
       {"169.254.169.254/32", "169.254.169.252/30", "169.254.0.0/16", "fe80::/10", "fe80::1/128", "fd00:ec2::254/128",
        "64:ff9b::a9fe:a9fe/128", "100.100.100.200/32", "::ffff:169.254.169.254/128", "::ffff:0:0/96"}) {
    CAPTURE(block);
    CHECK(within(to(block), {}) == kRefused);
    CHECK(within(to(block, {tcp(80)}), {}) == kRefused);
  }
  CHECK(within(to("10.0.0.0/8"), {}) == Strings{"10.0.0.0/8"});
  // A block around them has them taken out, also beside exceptions of its own; once is enough.
  CHECK(within(to("169.0.0.0/8", {}, {"169.1.0.0/16"}), {}) == Strings{"169.0.0.0/8 -169.1.0.0/16 -169.254.0.0/16"});
  CHECK(within(to("169.0.0.0/8", {}, {"169.252.0.0/14"}), {}) == Strings{"169.0.0.0/8 -169.252.0.0/14"});
  // Who wants them open says so.
  CHECK(within(to("169.254.169.254/32"), {"169.254.169.254/32"}) == Strings{"169.254.169.254/32"});
  CHECK(within(to("169.254.169.253/32"), {"0.0.0.0/0", "169.254.169.254/32"}) == kRefused);
  CHECK(within(to("169.254.169.254/32"), {"any"}) == Strings{"169.254.169.254/32"});
  CHECK(texts(parse_ceiling({"any"}, {})) == Strings{"pods", "0.0.0.0/0", "::/0"});
}

TEST_CASE("no rule of a sandbox's reaches beyond the ceiling", "[kubernetes][KU-2]") {
  const Strings ceiling = {"10.0.0.0/8=tcp:443,tcp:8000-8080", "10.0.0.0/8=udp:53", "fd00::/8", "pods=tcp:80"};
  CHECK(within(to("10.1.0.0/16", {tcp(443)}), ceiling) == Strings{"10.1.0.0/16 tcp:443"});
  CHECK(within(to("10.0.0.0/8", {tcp(8000, 8080)}), ceiling) == Strings{"10.0.0.0/8 tcp:8000-8080"});
  CHECK(within(to("10.0.0.0/8", {tcp(443), udp(53)}), ceiling) == Strings{"10.0.0.0/8 tcp:443", "10.0.0.0/8 udp:53"});
  CHECK(within(to("fd00:1::/32"), ceiling) == Strings{"fd00:1::/32"});
  CHECK(within(to("fd00:1::/32", {tcp(1, 65535)}), ceiling) == Strings{"fd00:1::/32 tcp:1-65535"});
  CHECK(within(to("10.1.0.0/16"), ceiling) == kRefused);  // all ports
  CHECK(within(to("10.1.0.0/16", {tcp(443), tcp(22)}), ceiling) == kRefused);
  CHECK(within(to("10.1.0.0/16", {udp(443)}), ceiling) == kRefused);
  CHECK(within(to("10.1.0.0/16", {tcp(7999, 8001)}), ceiling) == kRefused);
  CHECK(within(to("10.0.0.0/7", {tcp(443)}), ceiling) == kRefused);
  CHECK(within(to("11.0.0.0/8", {tcp(443)}), ceiling) == kRefused);
  CHECK(within(to("0.0.0.0/0", {tcp(443)}), ceiling) == kRefused);
  CHECK(within(to("::/0"), ceiling) == kRefused);
  // "Any" is all that there is, on the ports that are named.
  CHECK(within(to(""), ceiling) == Strings{"10.0.0.0/8 tcp:443 tcp:8000-8080", "10.0.0.0/8 udp:53",
                                           "fd00::/8 -fd00:ec2::/32 -fd20:ce::254/128", "pods tcp:80"});
  CHECK(within(to("", {tcp(80)}), ceiling) == Strings{"fd00::/8 -fd00:ec2::/32 -fd20:ce::254/128 tcp:80", "pods tcp:80"});
  CHECK(within(to("", {tcp(443), tcp(22)}), {"10.0.0.0/8=tcp:443"}) == kRefused);

  CHECK(within(to("10.0.0.0/8"), {"10.0.0.0/8"}, {"10.1.0.0/16", "11.0.0.0/8"}) == Strings{"10.0.0.0/8 -10.1.0.0/16"});
  CHECK(within(to("10.1.2.0/24"), {"10.0.0.0/8"}, {"10.1.0.0/16"}) == kRefused);
  CHECK(within(to("169.254.0.0/16"), {"any"}, {"169.254.169.254/32"}) == Strings{"169.254.0.0/16 -169.254.169.254/32"});
}

TEST_CASE("a ceiling that makes no sense is refused by what is wrong in it", "[kubernetes]") {
  CHECK(complaint({"10.0.0.0/8=tcp:1-65535", "pods=udp:53", "any", "::1/128"}, {"10.0.0.0/9"}).empty());
  CHECK_THAT(complaint({"10.0.0.1/8"}), Contains("\"10.0.0.1/8\"") && Contains("block of addresses"));
  for (const char* text : {"", "10.0.0.0", "all", "10.0.0.0/8:443", "10.0.0.0/8="}) CHECK_FALSE(complaint({text}).empty());
  for (const char* ports : {"443", "tcp:", "tcp:0", "tcp:65536", "tcp:9-8", "tcp:1-", "sctp:1", "tcp:80,", "tcp:+80"})
    CHECK_THAT(complaint({std::string("10.0.0.0/8=") + ports}), Contains(ports));
  CHECK_THAT(complaint({"pods"}, {"nowhere"}), Contains("nowhere"));
  CHECK_THAT(complaint({"10.1.0.0/16"}, {"10.0.0.0/8"}), Contains("10.1.0.0/16") && Contains("denied by 10.0.0.0/8"));
  CHECK_THAT(complaint({"::ffff:10.0.0.0/104"}), Contains("::ffff"));
  CHECK_THAT(complaint({}, {"::ffff:10.0.0.0/104"}), Contains("::ffff"));
}
