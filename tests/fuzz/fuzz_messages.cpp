// Every message in both encodings: it is read, or refused with a ParseError, within a small multiple of the input's memory. What
// was read is the same in the other encoding. And the first message of an exec stream, which is not one of the tables'.
#include "messages/json.hpp"
#include "messages/protobuf.hpp"
#include "messages/services.hpp"
#include "protocol/exec_stream.hpp"
#include "script.hpp"

#include <sanitizer/allocator_interface.h>

#include <cstdlib>

using namespace cwsandbox;

namespace {

std::size_t held = 0, most = 0;
bool counting = false;

void on_malloc(const volatile void*, std::size_t size) {
  if (!counting) return;
  held += size;
  if (held > most) most = held;
}

void on_free(const volatile void* at) {
  if (!counting || at == nullptr) return;
  const std::size_t size = __sanitizer_get_allocated_size(at);
  held -= size < held ? size : held;
}

[[maybe_unused]] const int installed = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);

using Read = void (*)(std::string_view, const messages::Type&, void*);
using Write = void (*)(std::string&, const messages::Type&, const void*);

std::string text_of(Write write, const messages::Type& type, const messages::AnyMessage& message) {
  std::string out;
  write(out, type, message.get());
  return out;
}

messages::AnyMessage message_of(Read read, const messages::Type& type, std::string_view text) {
  messages::AnyMessage out = type.make();
  read(text, type, out.get());
  return out;
}

void check(const messages::Type& type, Read read, std::string_view input) {
  messages::AnyMessage message = type.make();
  held = most = 0;
  counting = true;
  bool good = true;
  try {
    read(input, type, message.get());
  } catch (const messages::ParseError& e) {
    good = false;
    FUZZ_CHECK(e.what()[0] != '\0');
  }
  counting = false;
  FUZZ_CHECK(most <= 8 * input.size() + (std::size_t{5} << 20));
  if (!good) return;
  using namespace messages;
  const std::string json = text_of(append_json, type, message);
  const std::string binary = text_of(append_protobuf, type, message);
  FUZZ_CHECK(text_of(append_protobuf, type, message_of(read_json, type, json)) == binary);
  FUZZ_CHECK(text_of(append_json, type, message_of(read_protobuf, type, binary)) == json);
}

void check_start(std::uint8_t channel, std::string_view json) {
  using namespace protocol;
  const auto first = parse_first_message(channel, json);
  const auto* start = std::get_if<StartRequest>(&first);
  if (start == nullptr || validate(*start)) return;
  ExecClientStream client(*start);
  const auto out = client.next_message();
  FUZZ_CHECK(out.has_value());
  const auto again = parse_first_message(5, out->head.substr(1));
  FUZZ_CHECK(std::holds_alternative<StartRequest>(again));
  FUZZ_CHECK(std::get<StartRequest>(again).command == start->command);
  FUZZ_CHECK(std::get<StartRequest>(again).env == start->env);
  FUZZ_CHECK(std::get<StartRequest>(again).cwd == start->cwd);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto types = messages::all_types();
  Script script(data, size);
  const std::uint8_t encoding = script.byte(), which = script.byte();
  const messages::Type& type = *types[which % types.size()];
  switch (encoding % 4) {
    case 0:
      check(type, messages::read_json, script.rest());
      break;
    case 1:
      check(type, messages::read_protobuf, script.rest());
      break;
    default:
      check_start(encoding % 4 == 2 ? 5 : 8, script.rest());
      break;
  }
  return 0;
}
