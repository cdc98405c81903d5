// How far stdin has come, and that nobody reads it any more: the members `taken` and `closed` of a stdin word, `stdin` of the exit.
#include "exec_support.hpp"

#include <string>

using namespace exec_test;

namespace {

/// A client that has sent `bytes` of stdin.
ExecClientStream client_that_sent(std::size_t bytes) {
  auto client = running_client(true);
  client.std_in().push(std::string(bytes, 'x'));
  while (next(client).channel != -1) {
  }
  return client;
}

std::string window(const std::string& stdin_word) { return R"({"type":"window","stdin":)" + stdin_word + "}"; }

std::string exit_with(const std::string& members) {
  return R"({"type":"exit","outcome":"exited","code":0,"stdout":0,"stderr":0)" + members + "}";
}

/// A server that has received `bytes` of stdin.
ExecServerStream server_that_has(std::size_t bytes) {
  auto server = running_server(true);
  if (bytes > 0) (void)expect<Data>(server, 0, std::string(bytes, 'x'));
  return server;
}

}  // namespace

TEST_CASE("what the server holds has not been taken", "[exec-stream][SW-18]") {
  auto client = client_that_sent(10);
  CHECK(expect<Acknowledged>(client, 6, window(R"({"received":10,"limit":1048576,"taken":4})")).offset == 4);
  CHECK(client.stdin_taken() == 4);
  CHECK(client.std_in().acknowledged() == 10);  // it need not be kept
  CHECK(expect<Acknowledged>(client, 6, window(R"({"received":10,"limit":1048576})")).offset == 10);
  // Told again, and older: it changes nothing.
  CHECK(std::holds_alternative<Nothing>(client.on_message(6, window(R"({"received":10,"limit":9,"taken":4})"))));
  CHECK(client.stdin_taken() == 10);
  CHECK(!client.stdin_closed());
}

TEST_CASE("a flush is answered when the bytes have come, and again when the process has them", "[exec-stream][SW-18]") {
  auto server = server_that_has(10);
  CHECK(quiet(server));
  CHECK(std::holds_alternative<Nothing>(server.on_message(6, R"({"type":"window","flush":8})")));
  CHECK(server.stdin_awaited());
  CHECK(next(server).payload == window(R"({"received":10,"limit":1048576,"taken":0})"));
  server.on_stdin_consumed(10);
  server.on_stdin_taken(7);
  CHECK(quiet(server));
  server.on_stdin_taken(9);
  CHECK(!server.stdin_awaited());
  CHECK(next(server).payload == window(R"({"received":10,"limit":1048586,"taken":9})"));
  CHECK(quiet(server));
  // At the end of stdin all of it is told without being asked for.
  (void)expect<EndOfStream>(server, 255, std::string(1, '\0'));
  CHECK(server.stdin_awaited());
  CHECK(quiet(server));
  server.on_stdin_taken(10);
  CHECK(next(server).payload == window(R"({"received":10,"limit":1048586})"));
  CHECK(quiet(server));
}

TEST_CASE("a closed stdin is told though nothing is due, with the byte where it was", "[exec-stream][SW-19]") {
  auto server = server_that_has(10);
  server.on_stdin_consumed(4);
  server.on_stdin_taken(4);
  CHECK(quiet(server));
  server.on_stdin_closed();
  server.on_stdin_taken(10);  // too late: it is final
  const Message word = next(server);
  CHECK(word.payload == window(R"({"received":10,"limit":1048586,"closed":4})"));
  CHECK(quiet(server));

  auto client = client_that_sent(10);
  client.std_in().push("more");
  CHECK(next(client).channel == 0);
  client.std_in().push("and more");
  client.request_flush();
  CHECK(expect<Acknowledged>(client, 6, word.payload).offset == 4);
  CHECK(client.stdin_closed());
  CHECK(client.stdin_taken() == 4);
  CHECK(client.std_in().finished());
  CHECK(client.std_in().buffered() == 0);
  CHECK(quiet(client));  // neither what was queued, nor the flush, nor an end
  client.request_signal("INT");
  CHECK(next(client).channel == 7);
  // What was under way is taken and dropped, for whoever does not know the word.
  CHECK(std::holds_alternative<Nothing>(server.on_message(0, "more")));
  CHECK(std::holds_alternative<Nothing>(server.on_message(255, std::string(1, '\0'))));
  CHECK(next(server).payload == window(R"({"received":14,"limit":1048590,"closed":4})"));
  CHECK(std::holds_alternative<Nothing>(client.on_message(6, window(R"({"received":14,"limit":1048590,"closed":4})"))));
}

TEST_CASE("that stdin is closed waits for the exit, which says it too", "[exec-stream][SW-19]") {
  auto server = server_that_has(60'000);
  server.on_stdin_taken(5);
  server.hold_ends(true);
  server.on_stdin_closed();
  CHECK(std::holds_alternative<Nothing>(server.on_message(6, R"({"type":"window","flush":60000})")));
  CHECK(quiet(server));  // nothing may look as if there were room, or as if it had arrived
  SECTION("it comes") {
    server.on_exited(exited(0));
    CHECK(next(server).json()["stdin"] == 5);
    CHECK(quiet(server));
  }
  SECTION("it does not") {
    server.hold_ends(false);
    CHECK(next(server).json()["stdin"]["closed"] == 5);
    server.on_exited(exited(0));
    CHECK(next(server).json()["stdin"] == 5);
  }
  SECTION("it waits behind output for which there is no room") {
    server.outbound(Channel::std_out).push(std::string(kDefaultWindow + 1, 'o'));
    server.on_exited(exited(0));
    Message message = next(server);
    while (message.channel == 1) message = next(server);
    CHECK(message.json()["stdin"]["closed"] == 5);
    CHECK(next(server).json()["type"] == "ended");
  }
}

TEST_CASE("an end that has arrived whole needs no other word", "[exec-stream][SW-19]") {
  auto server = server_that_has(10);
  server.on_stdin_consumed(10);
  server.on_stdin_taken(10);
  (void)expect<EndOfStream>(server, 255, std::string(1, '\0'));
  CHECK(next(server).payload == window(R"({"received":10,"limit":1048586})"));
  server.on_stdin_closed();
  CHECK(quiet(server));
  server.on_exited(exited(0));
  CHECK(next(server).json()["stdin"] == 10);
}

TEST_CASE("the exit says how much of stdin was taken", "[exec-stream][SW-19]") {
  auto client = client_that_sent(10);
  (void)expect<Exited>(client, 3, exit_with(R"(,"stdin":7)"));
  CHECK(client.stdin_taken() == 7);
  SECTION("an older server does not") {
    auto other = client_that_sent(10);
    (void)expect<Exited>(other, 3, exit_with(""));
    CHECK(other.stdin_taken() == 0);
  }
  SECTION("nor does any for a process without stdin") {
    auto server = running_server(false);
    server.on_stdin_closed();
    CHECK(quiet(server));
    server.on_exited(exited(0));
    CHECK(!next(server).json().contains("stdin"));
  }
}

TEST_CASE("a closed stdin is told again over a new connection", "[exec-stream][P6][SW-19]") {
  auto server = server_that_has(10);
  server.on_stdin_taken(4);
  server.on_stdin_closed();
  CHECK(next(server).json()["stdin"]["closed"] == 4);  // lost

  auto client = client_that_sent(30);
  client.on_reconnected();
  SECTION("by a resume") {
    const Message resume = next(client);
    CHECK(!server.on_reconnected(std::get<ResumeRequest>(parse_first_message(8, resume.payload))));
    const Message resumed = next(server);
    CHECK(resumed.json() == Json::parse(R"({"type":"resumed","stdin":{"received":10,"limit":1048586,"closed":4}})"));
    CHECK(quiet(server));
    (void)expect<Resumed>(client, 8, resumed.payload);
    CHECK(client.stdin_closed());
    CHECK(client.stdin_taken() == 4);
    CHECK(quiet(client));
    // And once more: what was dropped is not asked for.
    client.on_reconnected();
    (void)next(client);
    (void)expect<Resumed>(client, 8, resumed.payload);
    CHECK(quiet(client));
  }
  SECTION("by a repeated start") {
    ExecClientStream starting(request(true));
    (void)next(starting);
    starting.std_in().push(std::string(30, 'x'));
    (void)next(starting);
    starting.on_reconnected();
    (void)next(starting);
    CHECK(!server.on_reconnected(0, 0, false));
    const Message started = next(server);
    CHECK(started.json()["taken"] == Json::parse(R"({"stdin":4})"));
    const Message word = next(server);
    CHECK(word.json()["stdin"]["closed"] == 4);
    (void)expect<Started>(starting, 3, started.payload);
    (void)expect<Acknowledged>(starting, 6, word.payload);
    CHECK(starting.stdin_closed());
    CHECK(quiet(starting));
  }
}

TEST_CASE("one that takes a process over learns that its stdin is closed", "[exec-stream][SW-19]") {
  ResumeRequest request;
  request.id = kId;
  request.sandbox_id = "sb-1";
  ExecClientStream client(request);
  (void)next(client);
  (void)expect<Resumed>(client, 8, R"({"type":"resumed","stdin":{"received":100,"limit":1048576,"closed":60}})");
  CHECK(client.stdin_closed());
  CHECK(client.stdin_taken() == 60);
  CHECK(quiet(client));
}

TEST_CASE("what a server cannot mean about stdin is a fault that names the member", "[exec-stream][SW-19]") {
  const struct {
    int channel;
    std::string before, payload;
    std::string reason;
  } cases[] = {
      {6, "", window(R"({"received":10,"limit":20,"taken":11})"), "window: stdin: taken is 11, received 10"},
      {6, "", window(R"({"received":10,"limit":20,"closed":11})"), "window: stdin: closed is 11, received 10"},
      {6, "", window(R"({"received":11,"limit":20,"closed":1})"), "window: stdin received 11, sent 10"},
      {6, "", window(R"({"received":10,"limit":20,"closed":true})"),
       "window: stdin: closed must be an integer from 0 to 9007199254740991"},
      {6, "", window(R"({"received":10,"limit":20,"taken":-1})"),
       "window: stdin: taken must be an integer from 0 to 9007199254740991"},
      {6, window(R"({"received":10,"limit":20,"taken":5})"), window(R"({"received":10,"limit":20,"closed":4})"),
       "window: stdin closed at 4, taken 5"},
      {6, window(R"({"received":10,"limit":20,"closed":4})"), window(R"({"received":10,"limit":20,"closed":5})"),
       "window: stdin closed at 5, taken 4"},
      {6, window(R"({"received":10,"limit":20,"closed":4})"), window(R"({"received":10,"limit":20,"closed":3})"),
       "window: stdin closed at 3, taken 4"},
      {3, "", exit_with(R"(,"stdin":11)"), "exit: stdin has 11 bytes, sent 10"},
      {3, "", exit_with(R"(,"stdin":"7")"), "exit: stdin must be an integer from 0 to 9007199254740991"},
      {3, window(R"({"received":10,"limit":20,"taken":5})"), exit_with(R"(,"stdin":4)"), "exit: stdin has 4 bytes, taken 5"},
      {3, window(R"({"received":10,"limit":20,"closed":4})"), exit_with(R"(,"stdin":5)"), "exit: stdin has 5 bytes, taken 4"},
  };
  for (const auto& each : cases) {
    INFO(each.before << " " << each.payload);
    auto client = client_that_sent(10);
    if (!each.before.empty()) (void)expect<Acknowledged>(client, 6, each.before);
    CHECK(fault(client, each.channel, each.payload) == each.reason);
  }
  const struct {
    std::string payload, reason;
  } resumed[] = {
      {R"({"type":"resumed","stdin":{"received":10,"limit":20,"closed":12}})", "resumed: stdin: closed is 12, received 10"},
      {R"({"type":"resumed","stdin":{"received":11,"limit":20,"closed":5}})", "resumed: stdin received 11, held are 0 to 10"},
  };
  for (const auto& each : resumed) {
    INFO(each.payload);
    auto client = client_that_sent(10);
    client.on_reconnected();
    (void)next(client);
    CHECK(fault(client, 8, each.payload) == each.reason);
  }
  ExecClientStream starting(request(true));
  (void)next(starting);
  CHECK(fault(starting, 3,
              std::string(R"({"type":"started","id":")") + kId +
                  R"(","pid":7,"attached":true,"received":{"stdin":5},"taken":{"stdin":6}})") ==
        "started: taken: stdin is 6, received 5");
}
