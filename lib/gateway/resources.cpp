#include "gateway/resources.hpp"

#include "base/numbers.hpp"
#include "base/text.hpp"

#include <array>
#include <limits>
#include <utility>

namespace cwsandbox::gateway {

namespace {

constexpr unsigned kMillis = 1000;
// Below them no program starts, or none gets anywhere.
constexpr std::uint64_t kMinMemory = 8ull << 20;
constexpr std::uint64_t kMinCpu = 10;

struct Suffix {
  std::string_view text;
  int tens, twos;  // powers
};
constexpr std::array<Suffix, 16> kSuffixes = {{{"", 0, 0},
                                               {"n", -9, 0},
                                               {"u", -6, 0},
                                               {"m", -3, 0},
                                               {"k", 3, 0},
                                               {"M", 6, 0},
                                               {"G", 9, 0},
                                               {"T", 12, 0},
                                               {"P", 15, 0},
                                               {"E", 18, 0},
                                               {"Ki", 0, 10},
                                               {"Mi", 0, 20},
                                               {"Gi", 0, 30},
                                               {"Ti", 0, 40},
                                               {"Pi", 0, 50},
                                               {"Ei", 0, 60}}};

__extension__ using Wide = unsigned __int128;
// Wide enough for 18 digits times 2^60 and 1000.
constexpr std::size_t kMaxDigits = 18;
constexpr int kMaxTens = 36;

}  // namespace

std::optional<std::uint64_t> parse_quantity(std::string_view text, unsigned scale) {
  Wide value = 0;
  std::size_t digits = 0;
  int tens = 0;
  bool any = false, point = false;
  for (; !text.empty(); text.remove_prefix(1)) {
    const char c = text.front();
    if (c == '.' && !point) {
      point = true;
    } else if (c >= '0' && c <= '9') {
      any = true;
      if (value > 0 || c != '0') ++digits;
      if (digits > kMaxDigits) return std::nullopt;
      value = value * 10 + static_cast<unsigned>(c - '0');
      if (point && --tens < -kMaxTens) return std::nullopt;
    } else {
      break;
    }
  }
  if (!any || value == 0) return std::nullopt;
  int twos = 0;
  bool known = false;
  for (const Suffix& suffix : kSuffixes) {
    if (text != suffix.text) continue;
    known = true;
    tens += suffix.tens;
    twos = suffix.twos;
  }
  if (!known) {
    if (text.size() < 2 || (text.front() != 'e' && text.front() != 'E')) return std::nullopt;
    text.remove_prefix(text[1] == '+' ? 2 : 1);
    const auto exponent = base::parse_number<int>(text);
    if (!exponent || *exponent < -kMaxTens || *exponent > kMaxTens) return std::nullopt;
    tens += *exponent;
  }
  value <<= twos;
  value *= scale;
  constexpr Wide kMost = std::numeric_limits<std::uint64_t>::max();
  for (; tens > 0; --tens) {
    if (value > kMost) return std::nullopt;
    value *= 10;
  }
  for (; tens < 0; ++tens) value = (value + 9) / 10;
  if (value > kMost) return std::nullopt;
  return static_cast<std::uint64_t>(value);
}

runner::ResourceSpec check_resources(const messages::Container& container, const GatewayOptions& options, const std::string& field,
                                     Violations& violations) {
  const auto violation = [&violations](const std::string& where, const std::string& what) { violations.add(where, what); };
  const auto read = [&](const std::string& where, const std::string& text, unsigned scale, std::uint64_t least, std::uint64_t most,
                        const char* unit) -> std::optional<std::uint64_t> {
    if (text.empty()) return std::nullopt;
    const auto value = parse_quantity(text, scale);
    if (!value) {
      violation(where, "not a quantity like 500m, 2, 512Mi or 4G: " + base::in_quotes(text, 64));
    } else if (*value < least) {
      violation(where, "less than " + std::to_string(least) + unit);
    } else if (most != 0 && *value > most) {
      violation(where, "more than the " + std::to_string(most) + unit + " that a sandbox of this gateway may have");
    } else {
      return value;
    }
    return std::nullopt;
  };
  runner::ResourceSpec spec;
  const messages::ResourceRequirements required = container.resource_requirements.value_or(messages::ResourceRequirements{});
  const auto asked = [](const std::optional<messages::Resources>& list) {
    messages::Resources out = list.value_or(messages::Resources{});
    if (out.gpu && messages::is_empty(*out.gpu)) out.gpu.reset();
    return out;
  };
  // The flat form means both.
  const bool flat = container.resources && !messages::is_empty(asked(container.resources));
  if (flat && !(messages::is_empty(asked(required.limits)) && messages::is_empty(asked(required.requests)))) {
    violation(field + ".resources", "excludes resourceRequirements");
    return spec;
  }
  const messages::Resources limits = asked(flat ? container.resources : required.limits);
  const messages::Resources requests = asked(flat ? container.resources : required.requests);
  const std::string limits_field = field + (flat ? ".resources" : ".resourceRequirements.limits");
  const std::string requests_field = field + (flat ? ".resources" : ".resourceRequirements.requests");
  const std::uint64_t most_cpu = options.max_cpu != 0 ? options.max_cpu : std::numeric_limits<std::uint32_t>::max();

  spec.memory_limit = read(limits_field + ".memory", limits.memory, 1, kMinMemory, options.max_memory, " bytes");
  // A device is had or not: what is set aside is what may be used.
  if (limits.gpu && requests.gpu && (limits.gpu->count != requests.gpu->count || limits.gpu->type != requests.gpu->type))
    violation(requests_field + ".gpu", "not the same as the limit");
  if (const auto& gpu = limits.gpu ? limits.gpu : requests.gpu) {
    const std::string where = (limits.gpu ? limits_field : requests_field) + ".gpu.count";
    if (gpu->count < 1 || !std::in_range<std::uint32_t>(gpu->count)) violation(where, "not a number of devices, 1 or more");
    spec.gpus = static_cast<std::uint32_t>(gpu->count);
    spec.gpu_type = gpu->type.value_or("");
  }
  const auto cpu = read(limits_field + ".cpu", limits.cpu, kMillis, kMinCpu, most_cpu, "m");
  if (cpu) spec.cpu_limit = static_cast<std::uint32_t>(*cpu);
  if (flat) {
    spec.cpu_request = spec.cpu_limit;
    spec.memory_request = spec.memory_limit;
    return spec;
  }
  const auto memory_request = read(requests_field + ".memory", requests.memory, 1, 0, options.max_memory, " bytes");
  const auto cpu_request = read(requests_field + ".cpu", requests.cpu, kMillis, 0, most_cpu, "m");
  if (memory_request && spec.memory_limit && *memory_request > *spec.memory_limit)
    violation(requests_field + ".memory", "more than the limit");
  if (cpu_request && cpu && *cpu_request > *cpu) violation(requests_field + ".cpu", "more than the limit");
  spec.memory_request = memory_request;
  if (cpu_request) spec.cpu_request = static_cast<std::uint32_t>(*cpu_request);
  return spec;
}

}  // namespace cwsandbox::gateway
