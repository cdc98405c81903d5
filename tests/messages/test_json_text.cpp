// JSON read where it lies, beside what nlohmann/json makes of the same bytes.
#include "base/text.hpp"
#include "messages/json_text.hpp"
#include "support/catch.hpp"

#include <nlohmann/json.hpp>

#include <random>
#include <string>
#include <vector>

using namespace cwsandbox::messages::json_text;
using Json = nlohmann::json;

namespace {

constexpr std::size_t kDepth = 8;

bool same(const Value& ours, const Json& theirs) {
  switch (theirs.type()) {
    case Json::value_t::null:
      return ours.is(Value::Kind::null);
    case Json::value_t::boolean:
      return ours.is(Value::Kind::boolean) && ours.as_bool() == theirs.get<bool>();
    case Json::value_t::string:
      return ours.is(Value::Kind::string) && ours.as_string() == theirs.get<std::string>();
    case Json::value_t::number_unsigned:
      return ours.is(Value::Kind::number) && ours.as_unsigned() == theirs.get<std::uint64_t>();
    case Json::value_t::number_integer:
    case Json::value_t::number_float:
      return ours.is(Value::Kind::number) && !ours.as_unsigned();
    case Json::value_t::array: {
      if (!ours.is(Value::Kind::array)) return false;
      const auto elements = ours.elements();
      if (elements.size() != theirs.size()) return false;
      for (std::size_t i = 0; i < elements.size(); ++i)
        if (!same(elements[i], theirs[i])) return false;
      return true;
    }
    case Json::value_t::object: {
      if (!ours.is(Value::Kind::object)) return false;
      const Object object(ours);
      if (object.members().size() < theirs.size()) return false;  // more where a name comes twice
      for (const auto& [name, value] : theirs.items()) {
        const Value* found = object.find(name);
        if (value.is_null() ? found != nullptr : found == nullptr || !same(*found, value)) return false;
      }
      return true;
    }
    default:
      return false;
  }
}

/// Whether brackets outside of strings nest deeper than that.
bool nests_deeper(const std::string& text, std::size_t most) {
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      in_string = !in_string;
    } else if (!in_string && (text[i] == '[' || text[i] == '{')) {
      if (++depth > most) return true;
    } else if (!in_string && (text[i] == ']' || text[i] == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

/// Whether both readers make the same of it.
bool agree(const std::string& text) {
  const auto ours = parse(text, kDepth);
  const Json theirs = nests_deeper(text, kDepth) ? Json(Json::value_t::discarded) : Json::parse(text, nullptr, false);
  if (theirs.is_discarded() || !ours) return theirs.is_discarded() && !ours;
  return same(*ours, theirs);
}

const std::vector<std::string> kMessages = {
    R"({"type":"started","id":"0b4c-77","pid":7,"attached":false,"window":{"stdin":1048576}})",
    R"({"code":0,"endTimeMs":1795520910124,"outcome":"exited","stdout":0,"stderr":0,"new":[1,-2,3.5,[],{}],"n":null,"type":"exit"})",
    R"({"command":["sh","-c","a\tb\"c\\d\u00e9\ud83d\ude00"],"env":{"A":"1","B":{"base64":"/w=="}},"cwd":"/ü/日本","stdin":true})",
    "[ true , false,\n\t\"x\" , { } , [ [ ] ] ]",
};

}  // namespace

TEST_CASE("what is JSON and what is not", "[json]") {
  for (const char* text : {"",
                           " ",
                           "null",
                           " true ",
                           "false",
                           "nul",
                           "truex",
                           "0",
                           "-0",
                           "01",
                           "-",
                           "+1",
                           "1.",
                           ".5",
                           "1.5",
                           "1e5",
                           "1E+5",
                           "1e",
                           "1e-",
                           "0x10",
                           "18446744073709551615",
                           "18446744073709551616",
                           "-1",
                           "\"\"",
                           "\"a",
                           "a\"",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u12g4\"",
                           "\"\\u-123\"",
                           "\"\\ud800\"",
                           "\"\\ud800x\"",
                           "\"\\ud800\\u0041\"",
                           "\"\\udc00\"",
                           "\"\\ud83d\\ude00\"",
                           "\"\n\"",
                           "\"\x7f\"",
                           "\"\xc3\xa9\"",
                           "\"\xc3\"",
                           "\"\xc0\x80\"",
                           "\"\xed\xa0\x80\"",
                           "[]",
                           "[ ]",
                           "[1,]",
                           "[,1]",
                           "[1 2]",
                           "[1",
                           "]",
                           "{}",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{a:1}",
                           "{\"a\":1 \"b\":2}",
                           "{\"a\":1}}",
                           "{\"a\":1,\"a\":2}",
                           "{\"\\u0061\":1}",
                           "{1:2}",
                           "[[[[[[[[]]]]]]]]",
                           "[[[[[[[[[]]]]]]]]]",
                           "// 1",
                           "1 1",
                           "\"\\u0000\""}) {
    CAPTURE(text);
    CHECK(agree(text));
  }
}

TEST_CASE("the last member of a name counts, and null is none", "[json]") {
  const auto value = parse(R"({"a":1,"b":null,"a":2,"\u0063":3})", kDepth);
  REQUIRE(value);
  const Object object(*value);
  REQUIRE(object.find("a"));
  CHECK(object.find("a")->as_unsigned() == 2U);
  CHECK(object.find("b") == nullptr);
  REQUIRE(object.find("c"));
  CHECK(object.find("c")->as_unsigned() == 3U);
  CHECK(object.find("d") == nullptr);
}

TEST_CASE("messages, cut anywhere and with any byte changed, mean the same to both readers", "[json]") {
  for (const auto& message : kMessages) {
    CHECK(agree(message));
    for (std::size_t i = 0; i < message.size(); ++i) {
      if (!agree(message.substr(0, i))) FAIL_CHECK("cut after " << i << " of " << message);
    }
  }
  std::mt19937 random(20261124);
  constexpr std::string_view bytes("{}[]:,\"\\ \t\n0123456789-+.utrfalsn\x01\x7f\x80\xc3\xa9\xff");
  for (int i = 0; i < 10000; ++i) {
    std::string text = kMessages[random() % kMessages.size()];
    for (auto changes = 1 + random() % 3; changes > 0; --changes) {
      const std::size_t at = random() % text.size();
      const char byte = bytes[random() % bytes.size()];
      if (random() % 2 == 0)
        text[at] = byte;
      else
        text.insert(at, 1, byte);
    }
    if (!agree(text)) FAIL_CHECK("the readers differ about: " << text);
  }
}

TEST_CASE("what is written is JSON with the same meaning", "[json]") {
  const std::vector<std::string> texts = {"",     "plain",     "quote \" and \\",    "line\nbreak\x01",
                                          "\x7f", "é 日本 😀", "not \xff UTF-8 \xc3"};
  for (const auto& text : texts) {
    std::string out;
    ObjectWriter writer(out);
    writer.text("text", text);
    writer.number("most", 18446744073709551615U);
    writer.boolean("yes", true);
    ObjectWriter none(writer.key("none"));
    none.end();
    writer.end();
    const Json read = Json::parse(out, nullptr, false);
    REQUIRE(read.is_object());
    if (cwsandbox::base::is_utf8(text)) CHECK(read["text"] == text);
    CHECK(read["most"] == 18446744073709551615U);
    CHECK(read["yes"] == true);
    CHECK(read["none"] == Json::object());
  }
}
