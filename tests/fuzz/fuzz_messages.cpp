// Every parser of a message: a message or a ParseError. What was read is written and read again to the same text.
#include "protocol/exec_stream.hpp"
#include "protocol/messages.hpp"
#include "script.hpp"

using namespace cwsandbox::protocol;

namespace {

template <class Parse>
void round_trip(Parse parse, std::string_view json) {
  std::string text;
  try {
    text = to_json(parse(json));
  } catch (const ParseError&) {
    return;
  }
  FUZZ_CHECK(to_json(parse(text)) == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script(data, size);
  const std::uint8_t which = script.byte();
  const std::string_view json = script.rest();
  switch (which % 26) {
    case 0:
      round_trip(parse_create_sandbox_request, json);
      break;
    case 1:
      round_trip(parse_get_sandbox_request, json);
      break;
    case 2:
      round_trip(parse_list_sandboxes_request, json);
      break;
    case 3:
      round_trip(parse_delete_sandbox_request, json);
      break;
    case 4:
      round_trip(parse_exec_request, json);
      break;
    case 5:
      round_trip(parse_sandbox, json);
      break;
    case 6:
      round_trip(parse_list_sandboxes_response, json);
      break;
    case 7:
      round_trip(parse_delete_sandbox_response, json);
      break;
    case 8:
      round_trip(parse_exec_response, json);
      break;
    case 9:
      round_trip(parse_write_file_request, json);
      break;
    case 10:
      round_trip(parse_read_file_request, json);
      break;
    case 11:
      round_trip(parse_read_file_response, json);
      break;
    case 12:
      round_trip(parse_stat_file_request, json);
      break;
    case 13:
      round_trip(parse_file_info, json);
      break;
    case 14:
      round_trip(parse_list_files_request, json);
      break;
    case 15:
      round_trip(parse_list_files_response, json);
      break;
    case 16:
      round_trip(parse_make_directory_request, json);
      break;
    case 17:
      round_trip(parse_remove_file_request, json);
      break;
    case 18:
      round_trip(parse_rename_file_request, json);
      break;
    case 19:
      round_trip(parse_stream_logs_request, json);
      break;
    case 20:
      round_trip(parse_log_entry, json);
      break;
    case 24:
      round_trip(parse_watch_file_request, json);
      break;
    case 25:
      round_trip(parse_watch_file_response, json);
      break;
    default: {
      const auto first = parse_first_message(which % 26 == 21 ? 5 : 8, json);
      if (const auto* start = std::get_if<StartRequest>(&first)) {
        if (validate(*start)) break;
        ExecClientStream client(*start);
        const auto out = client.next_message();
        FUZZ_CHECK(out.has_value());
        const auto again = parse_first_message(5, out->head.substr(1));
        FUZZ_CHECK(std::holds_alternative<StartRequest>(again));
        FUZZ_CHECK(std::get<StartRequest>(again).command == start->command);
        FUZZ_CHECK(std::get<StartRequest>(again).env == start->env);
        FUZZ_CHECK(std::get<StartRequest>(again).cwd == start->cwd);
      }
      break;
    }
  }
  return 0;
}
