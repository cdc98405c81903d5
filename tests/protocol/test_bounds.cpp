// How much memory it takes to read a message, whatever is in it: every byte that is allocated is counted.
#include "messages/json.hpp"
#include "messages/protobuf.hpp"
#include "messages/sandbox.hpp"
#include "protocol/exec_stream.hpp"
#include "support/catch.hpp"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <vector>

namespace {

std::atomic<std::size_t> allocated{0}, most{0};

void* counted(std::size_t size) {
  void* at = std::malloc(size == 0 ? 1 : size);
  if (at == nullptr) throw std::bad_alloc();
  const std::size_t now = allocated += ::malloc_usable_size(at);
  std::size_t seen = most;
  while (now > seen && !most.compare_exchange_weak(seen, now)) {
  }
  return at;
}

void uncounted(void* at) noexcept {
  if (at == nullptr) return;
  allocated -= ::malloc_usable_size(at);
  std::free(at);
}

}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
void operator delete(void* at) noexcept { uncounted(at); }
void operator delete[](void* at) noexcept { uncounted(at); }
void operator delete(void* at, std::size_t) noexcept { uncounted(at); }
void operator delete[](void* at, std::size_t) noexcept { uncounted(at); }

namespace {

using namespace cwsandbox::protocol;
using cwsandbox::messages::CreateSandboxRequest;
using cwsandbox::messages::from_json;
using cwsandbox::messages::ParseError;

std::size_t peak_of(const std::function<void()>& work) {
  const std::size_t before = allocated;
  most = before;
  work();
  return most - before;
}

std::string repeated(const std::string& head, const std::string& element, const std::string& tail, std::size_t bytes) {
  std::string out = head + element;
  out.reserve(bytes + element.size() + tail.size() + 1);
  while (out.size() < bytes) out.append(",").append(element);
  return out + tail;
}

// Not less for what is small: a few thousand values are nobody's harm.
std::size_t allowed(const std::string& text) { return std::max<std::size_t>(8 * text.size(), 8u << 20); }

struct Shape {
  const char* head;
  const char* element;
  const char* tail;
};

}  // namespace

TEST_CASE("reading a request takes a small multiple of its size, and one with too many parts is refused by name",
          "[protocol][bounds]") {
  const std::vector<Shape> shapes = {
      {R"({"sandbox":{"spec":{"containers":[)", "{}", "]}}}"},
      {R"({"sandbox":{"spec":{"containers":[{"secretStores":[)", "{}", "]}]}}}"},
      {R"({"sandbox":{"spec":{"containers":[{"files":[)", R"({"path":"/a"})", "]}]}}}"},
      {R"({"sandbox":{"spec":{"containers":[{"args":[)", R"("")", "]}]}}}"},
      {R"({"sandbox":{"spec":{"containers":[{"args":[)", R"("\u0000")", "]}]}}}"},
      {R"({"sandbox":{"spec":{"volumes":[)", R"({"x":1})", "]}}}"},
      {R"({"sandbox":{"spec":{"tags":[)", R"("a")", "]}}}"},
      {R"({"sandbox":{"spec":{"unknown":[)", "[]", "]}}}"},
      {R"({"unknown":[)", "0", "]}"},
      {R"({"unknown":[)", R"({"":{}})", "]}"},
      {R"({"sandbox":{"spec":{"containers":[{"image":")", "x", R"("}]}}})"},
  };
  for (const auto& shape : shapes) {
    for (const std::size_t bytes : {std::size_t{300'000}, std::size_t{8} << 20}) {
      const std::string text = repeated(shape.head, shape.element, shape.tail, bytes);
      INFO(text.substr(0, 80) << " of " << text.size() << " bytes");
      std::string why;
      const std::size_t peak = peak_of([&] {
        try {
          (void)from_json<CreateSandboxRequest>(text);
        } catch (const ParseError& e) {
          why = e.what();
        }
      });
      INFO(why);
      CHECK(peak <= allowed(text));
      // What is not known is passed over, and takes nothing.
      const bool known = std::string(shape.head).find("unknown") == std::string::npos;
      if (bytes > 1'000'000) CHECK(why.empty() != known);
    }
  }
}

TEST_CASE("a list says how many elements it may have", "[protocol][bounds][EV-23]") {
  const auto why = [](const std::string& text) {
    try {
      (void)from_json<CreateSandboxRequest>(text);
    } catch (const ParseError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const auto list = [](const char* head, const char* element, const char* tail, std::size_t count) {
    std::string out = std::string(head) + element;
    for (std::size_t i = 1; i < count; ++i) out.append(",").append(element);
    return out + tail;
  };
  CHECK(why(list(R"({"sandbox":{"spec":{"containers":[)", "{}", "]}}}", 1000)).empty());
  CHECK(why(list(R"({"sandbox":{"spec":{"containers":[)", "{}", "]}}}", 1001)) ==
        "sandbox.spec.containers: has more than 1000 elements");
  CHECK(why(list(R"({"sandbox":{"spec":{"containers":[{"args":[)", R"("argument")", "]}]}}}", 65'536)).empty());
  CHECK(why(list(R"({"sandbox":{"spec":{"containers":[{"args":[)", R"("argument")", "]}]}}}", 65'537)) ==
        "sandbox.spec.containers[0].args: has more than 65536 elements");
}

TEST_CASE("a start with too many parts is a fault before any of them is made", "[protocol][bounds]") {
  const std::string text = repeated(R"({"type":"start","id":"a","sandboxId":"s","command":[)", R"("")", "]}", 4'000'000);
  FirstMessage first = ProtocolError{};
  const std::size_t peak = peak_of([&] { first = parse_first_message(static_cast<std::uint8_t>(Channel::start), text); });
  CHECK(peak <= allowed(text));
  REQUIRE(std::holds_alternative<ProtocolError>(first));
  CHECK(std::get<ProtocolError>(first).reason == "start: holds too many values for its size");
}
