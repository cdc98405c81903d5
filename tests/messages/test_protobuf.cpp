// The binary encoding: bytes as the specification has them, written by hand, and bytes that are not.
#include "fault.hpp"
#include "messages/exec.hpp"
#include "messages/files.hpp"
#include "messages/json.hpp"
#include "messages/protobuf.hpp"
#include "messages/services.hpp"
#include "support/catch.hpp"

#include <random>
#include <set>
#include <string>

using namespace cwsandbox::messages;
using namespace std::string_literals;

TEST_CASE("messages are the bytes that the specification has", "[messages]") {
  ExecRequest exec;
  exec.sandbox_id = "sb";
  exec.command = {"ls", "-l"};
  exec.env = {{"A", "1"}};
  exec.max_output_bytes = 300;
  CHECK(to_protobuf(exec) ==
        "\x0a\x02sb\x12\x02ls\x12\x02-l\x1a\x06\x0a\x01"
        "A\x12\x01"
        "1\x20\xac\x02"s);
  Sandbox sandbox;
  sandbox.status.state = State::running;
  sandbox.status.exit_code = 0;  // there, and 0
  sandbox.status.create_time = std::chrono::system_clock::time_point(std::chrono::milliseconds(1500));
  CHECK(to_protobuf(sandbox) == "\x1a\x0e\x08\x02\x1a\x08\x08\x01\x10\x80\xca\xb5\xee\x01\x48\x00"s);
  CHECK(from_protobuf<Sandbox>(to_protobuf(sandbox)).status.create_time == sandbox.status.create_time);
  CHECK(from_protobuf<Sandbox>(to_protobuf(sandbox)).status.exit_code == 0);
  // Before 1970 the second is the one below, and a negative number has ten bytes.
  sandbox = {};
  sandbox.status.create_time = std::chrono::system_clock::time_point(std::chrono::milliseconds(-500));
  CHECK(to_protobuf(sandbox) == "\x1a\x13\x1a\x11\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x10\x80\xca\xb5\xee\x01"s);
  ExecResponse response;
  response.exit_code = -1;
  response.std_out = "\xff";
  CHECK(to_protobuf(response) == "\x0a\x01\xff\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"s);
}

TEST_CASE("fields come in any order, more than once, and unknown", "[messages]") {
  const auto exec = from_protobuf<ExecRequest>("\x20\x05\x12\x01x\xfa\x3f\x02zz\x0a\x01z\x20\x07\x12\x01y\x0a\x01s\x28\x01"s);
  CHECK(exec.sandbox_id == "s");  // the last of two; that `container` came as a number makes it another field
  CHECK(exec.container.empty());
  CHECK(exec.max_output_bytes == 7);
  CHECK(exec.command == std::vector<std::string>{"x", "y"});
  // Parts of a message that comes twice are merged.
  const auto sandbox = from_protobuf<Sandbox>("\x12\x05\x42\x03one\x12\x05\x42\x03two\x12\x02\x28\x09"s);
  CHECK(sandbox.spec.tags == std::vector<std::string>{"one", "two"});
  CHECK(sandbox.spec.max_lifetime_seconds == 9);
  // Of a group the last one counts.
  const auto rule = from_protobuf<EgressRule>(
      "\x12\x03"
      "a.b\x20\x01"s);
  CHECK_FALSE(rule.https_hostname);
  CHECK(rule.any == true);
  // The key or value of an entry may be left out.
  CHECK(from_protobuf<ExecRequest>("\x1a\x03\x0a\x01"
                                   "A\x1a\x03\x12\x01"
                                   "B"s)
            .env == TextMap{{"A", ""}, {"", "B"}});
  // Unknown values of enums are the unspecified one; lists of them come packed or not.
  CHECK(from_protobuf<Sandbox>("\x1a\x02\x08\x63"s).status.state == State::unspecified);
}

TEST_CASE("bytes that are no message are refused where they are wrong", "[messages]") {
  const auto fault = [](const std::string& bytes) { return fault_of([&] { (void)from_protobuf<CreateSandboxRequest>(bytes); }); };
  CHECK(fault("\x0a") == "");
  CHECK(fault("\x0a\x05zz"s) == "");
  CHECK(fault("\x0a\x02\x12\x07"s) == "sandbox");
  CHECK(fault("\x0a\x04\x12\x02\x0a\x03"s) == "sandbox.spec");
  CHECK(fault("\x0a\x07\x12\x05\x42\x03\xff\xfe\xfd"s) == "sandbox.spec.tags[0]");
  CHECK(fault("\x12\x01\xff"s) == "requestId");
  const std::vector<char> cut = {0x0a, 0x01, 's', 0x12, 0x02, '/', 'a', 0x20};  // and nothing behind it, for AddressSanitizer
  CHECK(fault_of([&] { (void)from_protobuf<StatFileRequest>({cut.data(), cut.size()}); }) == "");
  CHECK(from_protobuf<StatFileRequest>("\x12\x01/\x20\x80\x01"s).follow_symlinks);
  CHECK(fault("\x0a\x0c\x1a\x0a\x1a\x08\x10\xff\xff\xff\xff\xff\xff\x7f"s) == "sandbox.status.createTime");
  CHECK(fault_of([] { (void)from_protobuf<StatFileRequest>("\x0a\x01s"s); }) == "path");
  CHECK(fault_of([] {
          (void)from_protobuf<RenameFileRequest>(
              "\x12\x01"
              "a\x2a\x01"
              "b"s);
        }) == "(no error)");
}

TEST_CASE("a list says how many elements it may have, in the binary encoding, too", "[messages][bounds][EV-23]") {
  std::string containers;
  for (int i = 0; i < 1001; ++i) containers += "\x0a\x00"s;
  const auto why = [](const std::string& bytes) {
    try {
      (void)from_protobuf<SandboxSpec>(bytes);
    } catch (const ParseError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(why(containers.substr(2)).empty());
  CHECK(why(containers) == "containers: has more than 1000 elements");
  // Two bytes each, and each is hundreds of bytes of memory: more than the size allows.
  std::string page;
  for (int i = 0; i < 90'000; ++i) page += "\x0a\x00"s;
  CHECK(fault_of([&] { (void)from_protobuf<ListSandboxesResponse>(page); }) == "sandboxes");
  std::string deep;
  for (int i = 0; i < 5; ++i) deep += "x";
  CHECK(why("\x12\x05"s + deep).empty());  // a text
}

TEST_CASE("tables are sound", "[messages]") {
  const auto types = all_types();
  CHECK(types.size() > 100);
  for (const Type* type : types) {
    INFO(type->name);
    CHECK(type->fields.size() < 64);  // the readers count what they have seen in a word of 64 bits
    std::set<std::uint32_t> numbers;
    std::set<std::string_view> names;
    for (const Field& field : type->fields) {
      INFO(field.name);
      CHECK(numbers.insert(field.number).second);
      if (field.bytes_number != 0) CHECK(numbers.insert(field.bytes_number).second);
      CHECK(names.insert(field.name).second);
      CHECK((field.shape != Shape::list || field.most > 0));
      CHECK(((field.kind != Kind::text_map && field.kind != Kind::bytes_map) || field.most > 0));
      CHECK(field.most_bytes > 0);
    }
    const AnyMessage empty = type->make();
    CHECK(is_empty(*type, empty.get()));
  }
}

TEST_CASE("random bytes give a message or a ParseError", "[messages]") {
  std::mt19937 random(7);
  const auto good = to_protobuf(from_json<CreateSandboxRequest>(
      R"({"sandbox":{"sandboxId":"s","spec":{"containers":[{"args":["a"],"environmentVariables":{"A":"1"},"resources":{"cpu":"1","gpu":{"count":1}},)"
      R"("volumeMounts":[{"volume":"v","mountPath":"/v"}]}],"volumes":[{"name":"v","scratch":{"size":"1Gi"}}],"services":[{"port":80}],)"
      R"("network":{"egress":[{"cidr":{"cidr":"10.0.0.0/8"}}]},"tags":["t"],)"
      R"("maxLifetimeSeconds":"60"},"status":{"createTime":"2026-11-22T00:30:00.5Z","state":"STATE_RUNNING","exitCode":1}},"requestId":"q"})"));
  int read = 0;
  for (int i = 0; i < 30'000; ++i) {
    std::string bytes = good;
    for (std::size_t changes = random() % 4; changes > 0; --changes) {
      const std::size_t at = random() % bytes.size();
      if (random() % 2 == 0) {
        bytes[at] = static_cast<char>(random());
      } else {
        bytes.erase(at, 1 + random() % 4);
      }
      if (bytes.empty()) bytes = "\x0a";
    }
    try {
      const auto request = from_protobuf<CreateSandboxRequest>(bytes);
      // What has been read is written so that it is read as the same.
      CHECK(to_protobuf(from_protobuf<CreateSandboxRequest>(to_protobuf(request))) == to_protobuf(request));
      CHECK(to_protobuf(from_json<CreateSandboxRequest>(to_json(request))) == to_protobuf(request));
      ++read;
    } catch (const ParseError&) {
    }
  }
  CHECK(read > 1000);
}
