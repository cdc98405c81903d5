// The exec stream's machines against literal messages, taken from docs/exec-stream.md and not from our encoders.
#include "exec_support.hpp"
#include "protocol/exec_messages.hpp"
#include "protocol/signals.hpp"

#include <array>
#include <map>

using namespace exec_test;

namespace {

FirstMessage first(int channel, const std::string& payload) {
  return parse_first_message(static_cast<std::uint8_t>(channel), payload);
}

std::string first_fault(int channel, const std::string& payload) {
  const auto message = first(channel, payload);
  if (!std::holds_alternative<ProtocolError>(message)) return "(no fault)";
  return std::get<ProtocolError>(message).reason;
}

StartRequest first_start(const std::string& payload) {
  auto message = first(5, payload);
  if (const auto* error = std::get_if<ProtocolError>(&message)) FAIL(error->reason);
  return std::get<StartRequest>(message);
}

const std::string kHead = std::string(R"({"type":"start","id":")") + kId + R"(","sandboxId":"sb-1")";

}  // namespace

// ---- start ----

TEST_CASE("a start says everything about the process", "[exec-stream][P7][P9]") {
  StartRequest start = request(true);
  start.command = {"sh", "-c", "echo \"\u00e4\""};
  start.env = {{"A", "1"}};
  start.cwd = "/w";
  start.tty = true;
  start.tty_width = 80;
  start.tty_height = 24;
  start.timeout_ms = 5000;
  start.grace_ms = 100;
  start.drain_ms = 700;
  start.stdout_limit = 1000;
  start.stderr_limit = 2000;
  ExecClientStream client(start);
  const Message message = next(client);
  CHECK(message.channel == 5);
  CHECK(message.json() ==
        Json::parse(kHead + R"(,"command":["sh","-c","echo \"\u00e4\""],"env":{"A":"1"},"cwd":"/w","stdin":true,"tty":true,
    "width":80,"height":24,"timeoutMs":5000,"graceMs":100,"drainMs":700,"window":{"stdout":1000,"stderr":2000}})"));
  CHECK(quiet(client));

  const StartRequest back = first_start(message.payload);
  CHECK(back.id == kId);
  CHECK(back.sandbox_id == "sb-1");
  CHECK(back.command == start.command);
  CHECK(back.env == start.env);
  CHECK(back.cwd == "/w");
  CHECK(back.use_stdin);
  CHECK(back.tty);
  CHECK(back.tty_width == 80);
  CHECK(back.tty_height == 24);
  CHECK(back.timeout_ms == 5000);
  CHECK(back.grace_ms == 100);
  CHECK(back.drain_ms == 700);
  CHECK(back.stdout_limit == 1000);
  CHECK(back.stderr_limit == 2000);
}

TEST_CASE("a start without the optional fields has the documented defaults", "[exec-stream]") {
  const StartRequest start = first_start(kHead + R"(,"command":["true"],"cwd":null,"futureField":{"x":1}})");
  CHECK(start.command == std::vector<std::string>{"true"});
  CHECK(start.env.empty());
  CHECK(start.cwd.empty());
  CHECK(!start.use_stdin);
  CHECK(!start.tty);
  CHECK(start.timeout_ms == 0);
  CHECK(start.grace_ms == 10'000);
  CHECK(start.stdout_limit == 1048576);
  CHECK(start.stderr_limit == 1048576);
  CHECK(start.attempt == 0);
}

TEST_CASE("arguments, environment and paths that are not UTF-8 pass without loss", "[exec-stream]") {
  StartRequest start = request();
  start.command = {"cat", "\xff\xfe", "plain"};
  start.env = {{"A", "\x80"}};
  start.cwd = "/\xc3\x28";
  ExecClientStream client(start);
  Message message = next(client);
  CHECK(message.json()["command"] == Json::parse(R"(["cat",{"base64":"//4="},"plain"])"));
  CHECK(message.json()["env"] == Json::parse(R"({"A":{"base64":"gA=="}})"));
  CHECK(message.json()["cwd"] == Json::parse(R"({"base64":"L8Mo"})"));
  StartRequest back = first_start(message.payload);
  CHECK(back.command == start.command);
  CHECK(back.env == start.env);
  CHECK(back.cwd == start.cwd);

  start.env = {{"\xff", "v"}, {"B", "w"}};
  ExecClientStream other(start);
  message = next(other);
  CHECK(message.json()["env"] == Json::parse(R"([["B","w"],[{"base64":"/w=="},"v"]])"));
  CHECK(first_start(message.payload).env == start.env);
}

TEST_CASE("a bad first message is refused by the name of what is wrong", "[exec-stream][P10]") {
  CHECK(first_fault(5, kHead + R"(,"command":["a","b\u0000c"]})") == "start: command[1] holds a NUL");
  CHECK(first_fault(5, kHead + R"(,"command":[{"base64":"AA=="}]})") == "start: command[0] holds a NUL");
  CHECK(first_fault(5, kHead + R"(,"command":[{"base64":"!"}]})") == "start: command[0]: base64 is malformed");
  CHECK(first_fault(5, kHead + R"(,"command":[7]})") == "start: command[0] must be a string or {\"base64\": ...}");
  CHECK(first_fault(5, kHead + R"(,"command":"ls"})") == "start: command must be an array");
  CHECK(first_fault(5, kHead + R"(,"env":{"A":"\u0000"}})") == "start: env[\"A\"] holds a NUL");
  CHECK(first_fault(5, kHead + R"(,"env":7})") == "start: env must be an object or an array");
  CHECK(first_fault(5, kHead + R"(,"env":[["A"]]})") == "start: env[0] must be [name, value]");
  CHECK(first_fault(5, kHead + R"(,"cwd":"/\u0000"})") == "start: cwd holds a NUL");
  CHECK(first_fault(5, kHead + R"(,"stdin":1})") == "start: stdin must be true or false");
  CHECK(first_fault(5, kHead + R"(,"timeoutMs":-1})") == "start: timeoutMs must be an integer from 0 to 9007199254740991");
  CHECK(first_fault(5, kHead + R"(,"timeoutMs":1.5})") == "start: timeoutMs must be an integer from 0 to 9007199254740991");
  CHECK(first_fault(5, kHead + R"(,"timeoutMs":"1"})") == "start: timeoutMs must be an integer from 0 to 9007199254740991");
  CHECK(first_fault(5, kHead + R"(,"timeoutMs":9007199254740992})") ==
        "start: timeoutMs must be an integer from 0 to 9007199254740991");
  CHECK(first_fault(5, kHead + R"(,"width":65536})") == "start: width must be an integer from 0 to 65535");
  CHECK(first_fault(5, kHead + R"(,"window":{"stdout":8388609}})") == "start: window: stdout must be an integer from 0 to 8388608");
  CHECK(first_fault(5, R"({"type":"start"})") == "start: id must be a UUID");
  CHECK(first_fault(5, R"({"type":"start","id":"../x"})") == "start: id must be a UUID");
  CHECK(first_fault(5, R"({"type":"begin"})") == "start: unknown type \"begin\"");
  CHECK(first_fault(5, R"({"type":7})") == "start: type must be a string");
  CHECK(first_fault(5, R"({})") == "start: type is missing");
  CHECK(first_fault(5, "[]") == "start: not a JSON object");
  CHECK(first_fault(5, "{") == "start: not JSON");
  CHECK(first_fault(5, "") == "start: not JSON");
  CHECK(first_fault(5, std::string(300'000, '[')) == "start: nested too deeply");
  CHECK(first_fault(0, "x") == "stdin: no process is under way; expected start or resume");
  CHECK(first_fault(9, "x") == "channel 9 is unknown");
  CHECK(first_fault(255, std::string(1, '\0')) == "close: no process is under way; expected start or resume");
  const auto big = first(5, std::string(4 * 1024 * 1024 + 1, ' '));
  CHECK(std::get<ProtocolError>(big).code == CloseCode::too_big);
  CHECK(first_fault(8, kHead.substr(0, 8) + R"("resume","id":"a"})") == "resume: stdout is missing");
}

TEST_CASE("what cannot be a process is an invalid argument that names its field", "[exec-stream][EX-1][EX-2]") {
  const auto field = [](const StartRequest& start) {
    const auto error = validate(start);
    if (!error) return std::string("(valid)");
    CHECK(error->code == ErrorCode::invalid_argument);
    return error->metadata.at("field");
  };
  StartRequest start = request();
  CHECK(field(start) == "(valid)");
  start.command.clear();
  CHECK(field(start) == "command");
  start.command = {""};
  CHECK(field(start) == "command[0]");
  start.command = {"a", std::string("b\0", 2)};
  CHECK(field(start) == "command[1]");
  start = request();
  start.cwd = "relative";
  CHECK(field(start) == "cwd");
  start.cwd = "/ok";
  start.env = {{"A=B", "1"}};
  CHECK(field(start) == "env[\"A=B\"]");
  start.env = {{"", "1"}};
  CHECK(field(start) == "env[\"\"]");
  start.env = {{"A", std::string(1, '\0')}};
  CHECK(field(start) == "env[\"A\"]");
  start = request();
  start.tty_width = 3;
  CHECK(field(start) == "width");
  start = request();
  start.id = "";
  CHECK(field(start) == "id");
  start = request();
  start.command.push_back(std::string(kMaxStartPayload, 'x'));
  CHECK(field(start) == "command");
}

TEST_CASE("payload limits per channel", "[exec-stream][P10]") {
  CHECK(max_payload(0) == 65536);
  CHECK(max_payload(1) == 65536);
  CHECK(max_payload(2) == 65536);
  CHECK(max_payload(3) == 65536);
  CHECK(max_payload(5) == 4194304);
  CHECK(max_payload(6) == 65536);
  CHECK(max_payload(255) == 1);
  CHECK(max_payload(9) == 0);
}

// ---- a whole process, client side ----

TEST_CASE("a short process costs four messages", "[exec-stream][P9]") {
  ExecClientStream client(request());
  ExecServerStream server(first_start(next(client).payload));
  server.hold_ends(true);
  CHECK(quiet(server));
  server.on_started(7);
  const Message started = next(server);
  CHECK(started.channel == 3);
  CHECK(started.json() ==
        Json::parse(std::string(R"({"type":"started","id":")") + kId + R"(","pid":7,"attached":false,"window":{"stdin":0}})"));
  CHECK(expect<Started>(client, 3, started.payload).pid == 7);
  CHECK(quiet(client));
  server.outbound(Channel::std_out).finish();
  CHECK(quiet(server));
  server.outbound(Channel::std_err).finish();
  CHECK(quiet(server));
  ExitStatus status = exited(0);
  status.start_time_ms = 5;
  status.end_time_ms = 6;
  server.on_exited(status);
  const Message exit = next(server);
  CHECK(exit.channel == 3);
  CHECK(exit.json() ==
        Json::parse(R"({"type":"exit","outcome":"exited","code":0,"startTimeMs":5,"endTimeMs":6,"stdout":0,"stderr":0})"));
  const Exited event = expect<Exited>(client, 3, exit.payload);
  CHECK(event.status.code == 0);
  CHECK(event.status.end_time_ms == 6);
  CHECK(client.inbound(Channel::std_out).ended());
  CHECK(quiet(client));
  CHECK(!client.idle());
  client.release();
  const Message release = next(client, false);
  CHECK(release.channel == 6);
  CHECK(release.payload ==
        R"({"type":"window","stdout":{"received":0,"limit":1048576},"stderr":{"received":0,"limit":1048576},"release":true})");
  CHECK(!client.idle());
  client.on_sent();
  CHECK(client.idle());
  (void)expect<Released>(server, 6, release.payload);
  CHECK(server.released());
  CHECK(quiet(server));
  CHECK(quiet(client));
}

TEST_CASE("output reaches the client in order, the exit after it", "[exec-stream][P1][EX-17]") {
  auto client = running_client();
  CHECK(expect<Data>(client, 1, "one").bytes == "one");
  CHECK(expect<Data>(client, 2, "two").stream == Channel::std_err);
  CHECK(std::holds_alternative<Nothing>(client.on_message(1, "")));
  CHECK(expect<EndOfStream>(client, 255, "\x01").stream == Channel::std_out);
  CHECK(std::holds_alternative<Nothing>(client.on_message(255, "\x01")));
  const auto status =
      expect<Exited>(client, 3,
                     R"({"type":"exit","outcome":"signaled","signal":"SIGKILL","signalNumber":9,"stdout":3,"stderr":3,"new":[]})")
          .status;
  CHECK(status.outcome == ExitStatus::Outcome::signaled);
  CHECK(status.signal == 9);
  CHECK(!status.code);
  CHECK(client.exited());
}

TEST_CASE("an exit whose totals do not match is no exit", "[exec-stream][EX-9]") {
  auto client = running_client();
  (void)expect<Data>(client, 1, "abc");
  CHECK(fault(client, 3, R"({"type":"exit","outcome":"exited","code":0,"stdout":4,"stderr":0})") ==
        "exit: stdout has 4 bytes, received 3");
  CHECK(!client.exited());
  auto other = running_client();
  CHECK(fault(other, 3, R"({"type":"exit","outcome":"exited","code":0,"stdout":0})") == "exit: stderr is missing");
}

TEST_CASE("a missing exit status is an error, never 0", "[exec-stream][EX-11]") {
  auto a = running_client();
  CHECK(fault(a, 3, R"({"type":"exit","outcome":"exited","stdout":0,"stderr":0})") == "exit: code is missing");
  auto b = running_client();
  CHECK(fault(b, 3, R"({"type":"exit","outcome":"signaled","stdout":0,"stderr":0})") == "exit: signal is missing");
  auto c = running_client();
  CHECK(fault(c, 3, R"({"type":"exit","outcome":"evaporated","stdout":0,"stderr":0})") ==
        "exit: outcome is unknown: \"evaporated\"");
  auto d = running_client();
  CHECK(fault(d, 3, R"({"type":"exit","stdout":0,"stderr":0})") == "exit: outcome is unknown: \"\"");
  auto e = running_client();
  CHECK(expect<Exited>(e, 3, R"({"type":"exit","outcome":"lost","stdout":0,"stderr":0})").status.outcome ==
        ExitStatus::Outcome::lost);
}

TEST_CASE("a process that never ran exits without having started", "[exec-stream]") {
  ExecClientStream client(request());
  (void)next(client);
  const auto status =
      expect<Exited>(client, 3,
                     R"({"type":"exit","outcome":"failed","error":{"errno":"ENOENT","what":"program","message":"no such file"},
                                        "stdout":0,"stderr":0})")
          .status;
  CHECK(status.outcome == ExitStatus::Outcome::failed);
  CHECK(status.error_name == "ENOENT");
  CHECK(status.error_what == "program");
  CHECK(status.message == "no such file");

  ExecServerStream server(request());
  ExitStatus failed;
  failed.outcome = ExitStatus::Outcome::failed;
  failed.error_name = "EACCES";
  failed.error_what = "cwd";
  failed.message = "m";
  server.on_exited(failed);
  CHECK(next(server).json() ==
        Json::parse(
            R"({"type":"exit","outcome":"failed","error":{"errno":"EACCES","what":"cwd","message":"m"},"stdout":0,"stderr":0})"));
}

TEST_CASE("what an exit says of its reason and of what was left open", "[exec-stream][EX-18][EX-19]") {
  const auto read = [](const std::string& members) {
    const std::string payload = R"({"type":"exit","outcome":"exited","code":0,"stdout":0,"stderr":0)" + members + "}";
    return std::get<ExitMessage>(decode_status(payload)).status;
  };
  CHECK(read("").reason == ExitStatus::Reason::none);
  CHECK_FALSE(read("").stdout_open);
  CHECK_FALSE(read("").written);
  for (const auto& [name, reason] :
       std::map<std::string, ExitStatus::Reason>{{"timeout", ExitStatus::Reason::timeout},
                                                 {"sandbox_stopped", ExitStatus::Reason::sandbox_stopped},
                                                 {"lifetime", ExitStatus::Reason::lifetime},
                                                 {"out_of_memory", ExitStatus::Reason::out_of_memory},
                                                 {"main_ended", ExitStatus::Reason::main_ended},
                                                 {"gateway_shutdown", ExitStatus::Reason::gateway_shutdown},
                                                 {"of a newer version", ExitStatus::Reason::other}}) {
    CHECK(read(R"(,"reason":")" + name + R"(")").reason == reason);
  }
  const ExitStatus open = read(R"(,"open":["stderr","something new"],"written":{"stdout":7,"stderr":8},"groupGone":true)");
  CHECK_FALSE(open.stdout_open);
  CHECK(open.stderr_open);
  CHECK(open.written == std::array<std::uint64_t, 2>{7, 8});
  CHECK(open.group_gone);
  for (const char* bad :
       {R"(,"open":"stdout")", R"(,"open":[1])", R"(,"reason":7)", R"(,"written":{"stdout":1})", R"(,"groupGone":1)"})
    CHECK_THROWS_AS(read(bad), Fault);
}

TEST_CASE("exit statuses are written as documented", "[exec-stream][EX-16]") {
  const auto written = [](const ExitStatus& status) {
    auto server = running_server();
    server.on_exited(status);
    Json json = next(server).json();
    json.erase("stdout");
    json.erase("stderr");
    return json;
  };
  ExitStatus status;
  status.outcome = ExitStatus::Outcome::signaled;
  status.signal = 9;
  CHECK(written(status) == Json::parse(R"({"type":"exit","outcome":"signaled","signal":"SIGKILL","signalNumber":9})"));
  status.signal = 36;
  CHECK(written(status) == Json::parse(R"({"type":"exit","outcome":"signaled","signal":"SIGRTMIN+2","signalNumber":36})"));
  status.outcome = ExitStatus::Outcome::timed_out;
  status.signal = 15;
  CHECK(written(status) == Json::parse(R"({"type":"exit","outcome":"timed_out","signal":"SIGTERM","signalNumber":15})"));
  status.reason = ExitStatus::Reason::timeout;
  CHECK(written(status) ==
        Json::parse(R"({"type":"exit","outcome":"timed_out","signal":"SIGTERM","signalNumber":15,"reason":"timeout"})"));
  status = exited(3);
  status.stdout_open = true;
  CHECK(written(status) == Json::parse(R"({"type":"exit","outcome":"exited","code":3,"open":["stdout"]})"));
  status.stderr_open = true;
  CHECK(written(status) == Json::parse(R"({"type":"exit","outcome":"exited","code":3,"open":["stdout","stderr"]})"));
  status = exited(3);
  status.outcome = ExitStatus::Outcome::cancelled;
  CHECK(written(status) == Json::parse(R"({"type":"exit","outcome":"cancelled","code":3})"));
  status = {};
  status.outcome = ExitStatus::Outcome::lost;
  status.message = "the sandbox ended";
  CHECK(written(status) == Json::parse(R"({"type":"exit","outcome":"lost","error":{"message":"the sandbox ended"}})"));
}

TEST_CASE("a refusal carries code, reason, metadata and delay, and is released like an exit", "[exec-stream][ER-2]") {
  ExecServerStream server(request(true));
  StatusError error{ErrorCode::not_found, "no sandbox sb-1", "CWSANDBOX_SANDBOX_NOT_FOUND", {{"sandboxId", "sb-1"}}, 1500};
  server.on_refused(error);
  const Message message = next(server);
  CHECK(message.channel == 3);
  CHECK(message.json() ==
        Json::parse(R"({"type":"error","code":"not_found","message":"no sandbox sb-1","reason":"CWSANDBOX_SANDBOX_NOT_FOUND",
    "metadata":{"sandboxId":"sb-1"},"retryDelayMs":1500})"));
  // What the client had sent ahead means nothing now, whatever it says.
  CHECK(std::holds_alternative<Nothing>(server.on_message(0, std::string(65536, 'x'))));
  CHECK(std::holds_alternative<Nothing>(server.on_message(255, std::string(1, '\0'))));
  CHECK(std::holds_alternative<Nothing>(server.on_message(7, R"({"type":"cancel"})")));
  CHECK(std::holds_alternative<Nothing>(server.on_message(6, R"({"type":"window","stdout":{"received":9,"limit":9}})")));
  CHECK(quiet(server));

  ExecClientStream client(request(true));
  (void)next(client);
  client.std_in().push("sent ahead");
  CHECK(next(client).channel == 0);
  const Refused refused = expect<Refused>(client, 3, message.payload);
  CHECK(refused.error.code == ErrorCode::not_found);
  CHECK(refused.error.reason == "CWSANDBOX_SANDBOX_NOT_FOUND");
  CHECK(refused.error.metadata.at("sandboxId") == "sb-1");
  CHECK(refused.error.retry_delay_ms == 1500);
  CHECK(quiet(client));
  client.release();
  (void)expect<Released>(server, 6, next(client).payload);
  CHECK(client.idle());
  CHECK(server.idle());

  ExecClientStream other(request(true));
  (void)next(other);
  // A code of a later version, say.
  CHECK(expect<Refused>(other, 3, R"({"type":"error","code":"out_of_cheese"})").error.code == ErrorCode::unknown);
}

// ---- stdin ----

TEST_CASE("stdin goes ahead of started within the initial window", "[exec-stream][P9]") {
  ExecClientStream client(request(true));
  CHECK(next(client).channel == 5);
  client.std_in().push(std::string(50'000, 'a'));
  client.std_in().push(std::string(50'000, 'b'));
  const Message one = next(client);
  CHECK(one.channel == 0);
  CHECK(one.payload == std::string(50'000, 'a'));
  CHECK(next(client).payload == std::string(15'536, 'b'));
  CHECK(quiet(client));
  CHECK(client.std_in().room() == 0);
  (void)expect<Started>(client, 3, kStarted);
  CHECK(next(client).payload == std::string(34'464, 'b'));
  client.std_in().finish();
  const Message end = next(client);
  CHECK(end.channel == 255);
  CHECK(end.payload == std::string(1, '\0'));
  CHECK(quiet(client));
}

TEST_CASE("half-close: output goes on after the end of stdin", "[exec-stream][P5][IO-6]") {
  auto server = running_server(true);
  CHECK(expect<Data>(server, 0, "pear\napple\n").bytes == "pear\napple\n");
  CHECK(expect<EndOfStream>(server, 255, std::string(1, '\0')).stream == Channel::std_in);
  CHECK(std::holds_alternative<Nothing>(server.on_message(255, std::string(1, '\0'))));
  server.on_stdin_consumed(11);
  server.on_stdin_taken(11);
  const Message ack = next(server);
  CHECK(ack.channel == 6);
  CHECK(ack.json()["stdin"]["received"] == 11);
  server.outbound(Channel::std_out).push("apple\npear\n");
  const Message out = next(server);
  CHECK(out.channel == 1);
  CHECK(out.payload == "apple\npear\n");
  CHECK(fault(server, 0, "more") == "stdin: data after its end");
}

TEST_CASE("windows for stdin carry absolute offsets at half a window", "[exec-stream][P2]") {
  ExecServerStream server(request(true), 100'000);
  server.on_started(7);
  CHECK(next(server).json()["window"] == Json::parse(R"({"stdin":100000})"));
  (void)expect<Data>(server, 0, std::string(60'000, 'x'));
  CHECK(quiet(server));
  server.on_stdin_consumed(49'999);
  CHECK(quiet(server));
  server.on_stdin_consumed(1);
  const Message word = next(server);
  CHECK(word.channel == 6);
  CHECK(word.payload == R"({"type":"window","stdin":{"received":60000,"limit":150000,"taken":0}})");
  CHECK(quiet(server));
  CHECK(fault(server, 0, std::string(65'536, 'x')) == "(no fault)");
  CHECK(fault(server, 0, std::string(24'465, 'x')) == "stdin: data up to 150001, limit is 150000");
}

TEST_CASE("stdin that nobody reads any more does not hold the client up", "[exec-stream][IO-9]") {
  ExecServerStream server(request(true), 100'000);
  server.on_started(7);
  (void)next(server);
  (void)expect<Data>(server, 0, std::string(60'000, 'x'));
  server.on_stdin_closed();
  CHECK(next(server).payload == R"({"type":"window","stdin":{"received":60000,"limit":160000,"closed":0}})");
  CHECK(std::holds_alternative<Nothing>(server.on_message(0, std::string(60'000, 'x'))));
  CHECK(next(server).payload == R"({"type":"window","stdin":{"received":120000,"limit":220000,"closed":0}})");
}

TEST_CASE("flush: the server tells as soon as the process has what was asked for", "[exec-stream][SW-18]") {
  auto client = running_client(true);
  auto server = running_server(true);
  client.std_in().push("12345");
  client.request_flush();
  const Message asked = next(client);
  CHECK(asked.channel == 6);
  CHECK(asked.payload == R"({"type":"window","flush":5})");
  CHECK(std::holds_alternative<Nothing>(server.on_message(6, asked.payload)));
  CHECK(quiet(server));
  const Message data = next(client);
  (void)expect<Data>(server, 0, data.payload);
  CHECK(server.stdin_awaited());
  server.on_stdin_consumed(5);
  server.on_stdin_taken(5);
  CHECK(!server.stdin_awaited());
  const Message word = next(server);
  CHECK(word.payload == R"({"type":"window","stdin":{"received":5,"limit":1048581}})");
  CHECK(quiet(server));
  const Acknowledged acknowledged = expect<Acknowledged>(client, 6, word.payload);
  CHECK(acknowledged.stream == Channel::std_in);
  CHECK(acknowledged.offset == 5);
  CHECK(client.stdin_taken() == 5);
  client.request_flush();  // all is there already
  CHECK(quiet(client));
}

TEST_CASE("a process that did not ask for stdin gets none", "[exec-stream][IO-5]") {
  auto server = running_server(false);
  CHECK(std::holds_alternative<Nothing>(server.on_message(255, std::string(1, '\0'))));
  CHECK(fault(server, 0, "x") == "stdin: the start did not ask for it");
  auto client = running_client(false);
  client.std_in().finish();
  CHECK(quiet(client));
}

// ---- output windows ----

TEST_CASE("the client grants output at half a window, in absolute offsets", "[exec-stream][P2]") {
  StartRequest start = request();
  start.stdout_limit = 1000;
  start.stderr_limit = 1000;
  ExecClientStream client(start);
  (void)next(client);
  (void)expect<Started>(client, 3, kStarted);
  (void)expect<Data>(client, 1, std::string(1000, 'x'));
  client.on_consumed(Channel::std_out, 499);
  CHECK(quiet(client));
  client.on_consumed(Channel::std_out, 1);
  CHECK(next(client).payload == R"({"type":"window","stdout":{"received":1000,"limit":1500}})");
  (void)expect<Data>(client, 1, std::string(500, 'x'));
  (void)expect<Data>(client, 2, std::string(800, 'x'));
  client.on_consumed(Channel::std_out, 1000);
  client.on_consumed(Channel::std_err, 700);
  CHECK(next(client).payload ==
        R"({"type":"window","stdout":{"received":1500,"limit":2500},"stderr":{"received":800,"limit":1700}})");
  CHECK(quiet(client));
  CHECK(fault(client, 1, std::string(1001, 'x')) == "stdout: data up to 2501, limit is 2500");
}

TEST_CASE("the server sends no farther than the limit, and streams are independent", "[exec-stream][P2][P4]") {
  StartRequest start = request();
  start.stdout_limit = 10;
  start.stderr_limit = 10;
  ExecServerStream server(start);
  server.on_started(1);
  (void)next(server);
  OutboundStream& out = server.outbound(Channel::std_out);
  OutboundStream& err = server.outbound(Channel::std_err);
  out.push("0123456789abcdef");
  CHECK(next(server).payload == "0123456789");
  CHECK(quiet(server));
  CHECK(out.room() == 0);
  err.push("err");
  const Message message = next(server);
  CHECK(message.channel == 2);
  CHECK(message.payload == "err");
  const auto acknowledged = expect<Acknowledged>(server, 6, R"({"type":"window","stdout":{"received":10,"limit":14}})");
  CHECK(acknowledged.stream == Channel::std_out);
  CHECK(acknowledged.offset == 10);
  CHECK(next(server).payload == "abcd");
  CHECK(std::holds_alternative<Nothing>(
      server.on_message(6, R"({"type":"window","stdout":{"received":4,"limit":9}})")));  // a late one
  CHECK(out.acknowledged() == 10);
  CHECK(out.limit() == 14);
}

TEST_CASE("outputs take turns", "[exec-stream][P4]") {
  auto server = running_server();
  for (int i = 0; i < 3; ++i) {
    server.outbound(Channel::std_out).push(std::string(50'000, 'o'));
    server.outbound(Channel::std_err).push(std::string(50'000, 'e'));
  }
  std::string order;
  for (int i = 0; i < 6; ++i) order += static_cast<char>('0' + next(server).channel);
  CHECK(order == "121212");
}

TEST_CASE("an explicit end is sent when a stream ends before the process", "[exec-stream][P5]") {
  auto server = running_server();
  server.outbound(Channel::std_out).push("x");
  server.outbound(Channel::std_out).finish();
  CHECK(next(server).channel == 1);
  const Message end = next(server);
  CHECK(end.channel == 255);
  CHECK(end.payload == "\x01");
  CHECK(quiet(server));
  server.outbound(Channel::std_err).finish();
  CHECK(next(server).payload == "\x02");
  server.on_exited(exited(0));
  CHECK(next(server).json()["type"] == "exit");
}

TEST_CASE("control passes while data is stuck", "[exec-stream][P3]") {
  StartRequest start = request(true);
  start.stdout_limit = 4;
  ExecServerStream server(start, 65'536);
  server.on_started(1);
  (void)next(server);
  ExecClientStream client(start);
  (void)next(client);
  (void)expect<Started>(client, 3, std::string(R"({"type":"started","id":")") + kId + R"(","pid":1,"window":{"stdin":65536}})");
  // stdin: the server's window is full and nobody reads
  client.std_in().push(std::string(200'000, 'x'));
  while (const auto data = next(client).payload.size()) CHECK(data <= 65'536);
  CHECK(client.std_in().room() == 0);
  client.request_signal("SIGINT");
  client.request_resize(80, 24);
  client.request_cancel(250);
  const Message cancel = next(client);
  CHECK(cancel.channel == 7);
  CHECK(cancel.json() == Json::parse(R"({"type":"cancel","graceMs":250})"));
  const Message signal = next(client);
  CHECK(signal.channel == 7);
  CHECK(signal.json() == Json::parse(R"({"type":"signal","signal":"SIGINT","seq":1})"));
  const Message resize = next(client);
  CHECK(resize.channel == 4);
  CHECK(resize.json() == Json::parse(R"({"type":"resize","width":80,"height":24})"));
  CHECK(quiet(client));
  const auto got = expect<SignalRequest>(server, 7, signal.payload);
  CHECK(got.name == "SIGINT");
  CHECK(got.number == 2);
  CHECK(expect<CancelRequest>(server, 7, cancel.payload).grace_ms == 250);
  CHECK(expect<ResizeRequest>(server, 4, resize.payload).height == 24);
  // stdout: the client's window is full, nobody reads, and the process has ended. Its status is known at once all the same.
  server.outbound(Channel::std_out).push("stuck output");
  CHECK(next(server).payload == "stuc");
  CHECK(quiet(server));
  server.on_ended(exited(5));
  const Message ended = next(server);
  CHECK(ended.channel == 3);
  CHECK(ended.json() == Json::parse(R"({"type":"ended","outcome":"exited","code":5})"));
  CHECK(quiet(server));
  (void)expect<Data>(client, 1, "stuc");
  CHECK(std::holds_alternative<Nothing>(client.on_message(3, ended.payload)));
  REQUIRE(client.ended());
  CHECK(client.ended()->code == 5);
  CHECK(!client.exited());
  // and the exit itself still comes last
  server.on_exited(exited(5));
  client.on_consumed(Channel::std_out, 4);
  (void)expect<Acknowledged>(server, 6, next(client).payload);
  CHECK(next(server).payload == "k ou");
}

TEST_CASE("control goes before data that could be sent", "[exec-stream][P3]") {
  auto client = running_client(true);
  client.std_in().push(std::string(100'000, 'x'));
  CHECK(next(client).channel == 0);
  client.request_signal("TERM");
  CHECK(next(client).channel == 7);
  CHECK(next(client).channel == 0);
}

// ---- signals ----

TEST_CASE("signals are named, checked and not piled up", "[exec-stream][P8]") {
  auto client = running_client();
  CHECK_THROWS_AS(client.request_signal("SIGNOSUCH"), std::invalid_argument);
  CHECK_THROWS_AS(client.request_signal("0"), std::invalid_argument);
  CHECK_THROWS_AS(client.request_signal("-9"), std::invalid_argument);
  for (int i = 0; i < 100'000; ++i) client.request_signal(i % 2 == 0 ? "INT" : "15");
  CHECK(next(client).json()["signal"] == "SIGINT");
  CHECK(next(client).json()["signal"] == "SIGTERM");
  CHECK(quiet(client));
  auto server = running_server();
  CHECK(expect<SignalRequest>(server, 7, R"({"type":"signal","signal":9})").name == "SIGKILL");
  CHECK(expect<SignalRequest>(server, 7, R"({"type":"signal","signal":"USR1"})").number == 10);
  CHECK(expect<SignalRequest>(server, 7, R"({"type":"signal","signal":"SIGHUP","seq":4})").number == 1);
  CHECK(std::holds_alternative<Nothing>(server.on_message(7, R"({"type":"signal","signal":"SIGHUP","seq":4})")));
  CHECK(!expect<CancelRequest>(server, 7, R"({"type":"cancel"})").grace_ms);
  CHECK(fault(server, 7, R"({"type":"signal","signal":"SIGFOO"})") == "signal: signal is unknown: \"SIGFOO\"");
  for (const auto& [payload, reason] : std::vector<std::pair<std::string, std::string>>{
           {R"({"type":"signal"})", "signal: signal is missing"},
           {R"({"type":"signal","signal":0})", "signal: signal is unknown: \"0\""},
           {R"({"type":"signal","signal":-9})", "signal: signal is unknown: \"-9\""},
           {R"({"type":"signal","signal":9.5})", "signal: signal must be a name or a number"},
           {R"({"type":"kill"})", "signal: unknown type \"kill\""},
           {R"({"type":"cancel","graceMs":-1})", "cancel: graceMs must be an integer from 0 to 9007199254740991"}}) {
    auto other = running_server();
    CHECK(fault(other, 7, payload) == reason);
  }
}

TEST_CASE("signal names", "[exec-stream]") {
  CHECK(signal_name(9) == "SIGKILL");
  CHECK(signal_name(31) == "SIGSYS");
  CHECK(signal_name(32).empty());
  CHECK(signal_name(34) == "SIGRTMIN");
  CHECK(signal_name(64) == "SIGRTMIN+30");
  CHECK(signal_name(65).empty());
  CHECK(signal_name(0).empty());
  CHECK(signal_name(-1).empty());
  for (int i = 1; i <= 64; ++i) {
    if (!signal_name(i).empty()) CHECK(signal_number(signal_name(i)) == i);
  }
  CHECK(signal_number("INT") == 2);
  CHECK(!signal_number(""));
  CHECK(!signal_number("SIG"));
  CHECK(!signal_number("SIGRTMIN+-1"));
  CHECK(!signal_number("SIGRTMIN+31"));
  CHECK(!signal_number("99999999999999999999"));
}

// ---- faults ----

TEST_CASE("the server refuses what a client may not send, by name", "[exec-stream][P10]") {
  const std::vector<std::tuple<int, std::string, std::string>> cases = {
      {1, "x", "stdout: not for a client to send"},
      {2, "x", "stderr: not for a client to send"},
      {3, "{}", "status: not for a client to send"},
      {5, kHead + "}", "start: a process is under way on this connection"},
      {8, "{}", "resume: a process is under way on this connection"},
      {9, "", "channel 9 is unknown"},
      {254, "x", "channel 254 is unknown"},
      {255, "", "close: the payload must be one byte, the stream"},
      {255, "\x01\x01", "close: the payload must be one byte, the stream"},
      {255, "\x01", "close: stdout is not for a client to end"},
      {255, "\x05", "close: start is no stream"},
      {255, "\x77", "close: channel 119 is no stream"},
      {0, std::string(65'537, 'x'), "stdin: 65537 bytes, at most 65536"},
      {6, "", "window: not JSON"},
      {6, "7", "window: not a JSON object"},
      {6, R"({"type":"wind\u0000ow"})", "window: unknown type \"wind?ow\""},
      {6, R"({"type":"window","stdout":7})", "window: stdout must be an object"},
      {6, R"({"type":"window","stdout":{"limit":1}})", "window: stdout: received is missing"},
      {6, R"({"type":"window","stdout":{"received":0}})", "window: stdout: limit is missing"},
      {6, R"({"type":"window","stdout":{"received":1,"limit":2}})", "window: stdout received 1, sent 0"},
      {6, R"({"type":"window","stdout":{"received":0,"limit":8388609}})",
       "window: stdout: limit is more than 8388608 beyond received"},
      {6, R"({"type":"window","stderr":{"received":0,"limit":1e3}})",
       "window: stderr: limit must be an integer from 0 to 9007199254740991"},
      {6, R"({"type":"window","stderr":{"received":-1,"limit":0}})",
       "window: stderr: received must be an integer from 0 to 9007199254740991"},
      {6, R"({"type":"window","release":1})", "window: release must be true or false"},
      {6, R"({"type":"window","release":true})", "window: release before the exit"},
      {4, R"({"type":"resize","width":0,"height":1})", "resize: width must be at least 1"},
      {4, R"({"type":"resize","width":1})", "resize: height is missing"},
      {4, R"({"type":"resize","width":1,"height":65536})", "resize: height must be an integer from 0 to 65535"},
  };
  for (const auto& [channel, payload, reason] : cases) {
    auto server = running_server(true);
    CHECK(fault(server, channel, payload) == reason);
  }
}

TEST_CASE("the client refuses what a server may not send, by name", "[exec-stream][P10]") {
  const std::vector<std::tuple<int, std::string, std::string>> cases = {
      {0, "x", "stdin: not for a server to send"},
      {4, "{}", "resize: not for a server to send"},
      {5, "{}", "start: not for a server to send"},
      {7, "{}", "signal: not for a server to send"},
      {9, "", "channel 9 is unknown"},
      {3, kStarted, "started: not expected"},
      {3, R"({"type":"paused"})", "status: unknown type \"paused\""},
      {3, R"({"type":"error"})", "error: code is missing"},
      {8, R"({"type":"resumed","stdin":{"received":0,"limit":0}})", "resumed: not expected"},
      {8, R"({"type":"resume"})", "resume: unknown type \"resume\""},
      {255, std::string(1, '\0'), "close: stdin is not for a server to end"},
      {1, std::string(65'537, 'x'), "stdout: 65537 bytes, at most 65536"},
      {6, R"({"type":"window","stdin":{"received":1,"limit":2}})", "window: stdin received 1, sent 0"},
      {3, std::string(65'537, ' '), "status: 65537 bytes, at most 65536"},
  };
  for (const auto& [channel, payload, reason] : cases) {
    auto client = running_client(true);
    CHECK(fault(client, channel, payload) == reason);
  }
  ExecClientStream early(request());
  (void)next(early);
  CHECK(fault(early, 1, "x") == "stdout: message before started");
  ExecClientStream other(request());
  (void)next(other);
  CHECK(fault(other, 3, R"({"type":"started","id":"another"})") == "started: id is another process's");
  ExecClientStream wide(request());
  (void)next(wide);
  CHECK(fault(wide, 3, std::string(R"({"type":"started","id":")") + kId + R"(","window":{"stdin":8388609}})") ==
        "started: window: stdin is more than 8388608 beyond received");
  auto ended = running_client();
  (void)expect<EndOfStream>(ended, 255, "\x01");
  CHECK(fault(ended, 1, "x") == "stdout: data after its end");
  auto over = running_client();
  (void)expect<Exited>(over, 3, R"({"type":"exit","outcome":"exited","code":0,"stdout":0,"stderr":0})");
  CHECK(fault(over, 1, "x") == "stdout: message after the exit");
}

TEST_CASE("after the exit the server takes what was under way, until the release", "[exec-stream]") {
  auto server = running_server(true);
  server.on_exited(exited(0));
  CHECK(next(server).json()["type"] == "exit");
  CHECK(std::holds_alternative<Nothing>(server.on_message(0, std::string(65'536, 'x'))));
  CHECK(std::holds_alternative<Nothing>(server.on_message(255, std::string(1, '\0'))));
  CHECK(std::holds_alternative<Nothing>(server.on_message(7, R"({"type":"signal","signal":"SIGINT"})")));
  CHECK(std::holds_alternative<Nothing>(server.on_message(7, R"({"type":"cancel"})")));
  CHECK(std::holds_alternative<Nothing>(server.on_message(4, R"({"type":"resize","width":1,"height":1})")));
  CHECK(std::holds_alternative<Nothing>(server.on_message(6, R"({"type":"window","flush":1})")));
  CHECK(quiet(server));  // the exit is the server's last word
  (void)expect<Released>(server, 6, R"({"type":"window","release":true})");
  CHECK(fault(server, 0, "x") == "stdin: message after the release");
}

// ---- memory in flight ----

TEST_CASE("an acknowledgement that comes while the write is in flight frees nothing in use", "[exec-stream][P10]") {
  auto server = running_server();
  OutboundStream& out = server.outbound(Channel::std_out);
  std::string chunk(65'536, 'a');
  const char* storage = chunk.data();
  out.push(std::move(chunk));
  const auto message = server.next_message();
  REQUIRE(message);
  CHECK(message->body.data() == storage);  // no copy
  (void)expect<Acknowledged>(server, 6, R"({"type":"window","stdout":{"received":65536,"limit":200000}})");
  CHECK(out.buffered() == 65'536);
  out.push("b");
  out.push(std::string(70'000, 'c'));
  CHECK(message->body == std::string(65'536, 'a'));
  out.abandon();
  CHECK(message->body == std::string(65'536, 'a'));
  CHECK(!server.on_reconnected(65'536, 0, true));
  CHECK(message->body == std::string(65'536, 'a'));
  CHECK(quiet(server));  // the old write is still in flight
  server.on_sent();
  CHECK(out.buffered() == 0);
  CHECK(next(server).json()["type"] == "resumed");
}

TEST_CASE("freed storage can be used again", "[exec-stream]") {
  OutboundStream out(1 << 20);
  CHECK(out.recycle().capacity() < 100);
  out.push(std::string(65'536, 'a'));
  (void)out.take(65'536);
  out.on_sent();
  CHECK(out.on_window(65'536, 2 << 20));
  CHECK(out.recycle().capacity() >= 65'536);
  CHECK(out.recycle().capacity() < 100);
}

TEST_CASE("small chunks and oversized storage cost memory in proportion to their bytes", "[exec-stream][P2]") {
  OutboundStream out(1 << 20);
  std::string all;
  for (int i = 0; i < 10'000; ++i) {
    std::string chunk;
    chunk.reserve(65'536);
    chunk = std::to_string(i) + "\n";
    all += chunk;
    out.push(std::move(chunk));
  }
  std::string got;
  int messages = 0;
  while (out.has_data_to_send()) {
    got += out.take(65'536);
    out.on_sent();
    ++messages;
  }
  CHECK(got == all);
  CHECK(messages <= 2);
}

TEST_CASE("bytes pushed while a write of the same chunk is in flight do not move it", "[exec-stream]") {
  OutboundStream out(1 << 20);
  out.push("first");
  const std::string_view in_flight = out.take(65'536);
  for (int i = 0; i < 1000; ++i) out.push_copy("more");
  CHECK(in_flight == "first");
  out.on_sent();
  std::string rest;
  while (out.has_data_to_send()) {
    rest += out.take(100);
    out.on_sent();
  }
  CHECK(rest.size() == 4000);
}

TEST_CASE("offsets: older words are harmless, impossible ones are refused", "[exec-stream][P10]") {
  OutboundStream out(10);
  out.push("0123456789");
  (void)out.take(6);
  out.on_sent();
  CHECK(out.on_window(4, 20));
  CHECK(out.on_window(2, 12));
  CHECK(out.acknowledged() == 4);
  CHECK(out.limit() == 20);
  CHECK(!out.on_window(7, 30));
  CHECK(out.limit() == 20);
  CHECK(!out.rewind(3));  // acknowledged: gone
  CHECK(!out.rewind(7));  // never sent
  CHECK(out.rewind(5));
  CHECK(out.take(100) == "56789");
  out.on_sent();
  out.finish();
  CHECK(out.has_end_to_send());
  out.mark_end_sent();
  CHECK(!out.all_acknowledged());
  CHECK(out.rewind(10));
  CHECK(out.has_end_to_send());
  out.mark_end_sent();
  CHECK(out.all_acknowledged());
  CHECK(out.buffered() == 0);
}

// ---- reconnecting ----

TEST_CASE("a start repeated after a lost answer attaches", "[exec-stream][P7]") {
  ExecClientStream client(request(true));
  (void)next(client);
  client.std_in().push("hello world");
  CHECK(next(client).payload == "hello world");
  // the server took the start and 5 bytes, then the connection broke
  ExecServerStream server(request(true));
  server.on_started(7);
  (void)next(server);
  (void)expect<Data>(server, 0, "hello");
  server.on_stdin_taken(2);

  client.on_reconnected();
  const Message again = next(client);
  CHECK(again.channel == 5);
  CHECK(again.json()["id"] == kId);
  CHECK(again.json()["attempt"] == 1);
  CHECK(again.json()["command"] == Json::parse(R"(["cat"])"));
  CHECK(quiet(client));  // stdin waits: only the server knows where it is
  CHECK(!server.on_reconnected(0, 0, false));
  const Message started = next(server);
  CHECK(started.json() ==
        Json::parse(
            std::string(R"({"type":"started","id":")") + kId +
            R"(","pid":7,"attached":true,"window":{"stdin":1048576},"received":{"stdin":5},"taken":{"stdin":2},"signals":0})"));
  CHECK(expect<Started>(client, 3, started.payload).attached);
  CHECK(client.stdin_taken() == 2);
  const Message rest = next(client);
  CHECK(rest.channel == 0);
  CHECK(rest.payload == " world");
}

TEST_CASE("a start repeated before the process has started waits for it", "[exec-stream][P7]") {
  ExecServerStream server(request());
  CHECK(!server.on_reconnected(0, 0, false));
  CHECK(quiet(server));
  server.on_started(9);
  CHECK(next(server).json()["attached"] == true);
  ExecServerStream other(request());
  const auto error = other.on_reconnected(0, 0, true);
  REQUIRE(error);
  CHECK(error->code == ErrorCode::failed_precondition);
}

TEST_CASE("a resume goes on from the exact byte, both ways", "[exec-stream][P6]") {
  auto client = running_client(true);
  auto server = running_server(true);
  (void)expect<Data>(client, 1, "0123");
  (void)expect<Data>(client, 2, "err");
  server.outbound(Channel::std_out).push("0123456789");
  server.outbound(Channel::std_err).push("err");
  server.outbound(Channel::std_err).finish();
  while (next(server).channel != -1) {
  }
  client.std_in().push("abcdef");
  client.std_in().finish();
  client.request_signal("INT");
  while (next(client).channel != -1) {
  }
  (void)expect<Data>(server, 0, "abc");

  client.on_reconnected();
  client.request_signal("TERM");
  const Message resume = next(client);
  CHECK(resume.channel == 8);
  CHECK(resume.json() == Json::parse(std::string(R"({"type":"resume","id":")") + kId + R"(","sandboxId":"sb-1","attempt":1,
    "stdout":{"received":4,"limit":1048576},"stderr":{"received":3,"limit":1048576}})"));
  CHECK(quiet(client));
  const auto parsed = std::get<ResumeRequest>(first(8, resume.payload));
  CHECK(parsed.id == kId);
  CHECK(parsed.sandbox_id == "sb-1");
  CHECK(parsed.stdout_received == 4);
  CHECK(parsed.stderr_received == 3);
  CHECK(parsed.attempt == 1);
  CHECK(!server.on_reconnected(parsed));
  const Message resumed = next(server);
  CHECK(resumed.channel == 8);
  CHECK(resumed.json() == Json::parse(R"({"type":"resumed","stdin":{"received":3,"limit":1048576,"taken":0}})"));
  const Message rest = next(server);
  CHECK(rest.channel == 1);
  CHECK(rest.payload == "456789");
  CHECK(next(server).payload == "\x02");  // the end, told again
  CHECK(expect<Resumed>(client, 8, resumed.payload).stdin_received == 3);
  CHECK(next(client).json()["seq"] == 1);
  CHECK(next(client).json()["seq"] == 2);
  CHECK(next(client).payload == "def");
  CHECK(next(client).channel == 255);
}

TEST_CASE("a resume does not repeat signals that were taken", "[exec-stream][P6]") {
  auto client = running_client();
  client.request_signal("INT");
  client.request_signal("TERM");
  (void)next(client);
  (void)next(client);
  client.on_reconnected();
  (void)next(client);
  (void)expect<Resumed>(client, 8, R"({"type":"resumed","stdin":{"received":0,"limit":0},"signals":1})");
  CHECK(next(client).json() == Json::parse(R"({"type":"signal","signal":"SIGTERM","seq":2})"));
  CHECK(quiet(client));
}

TEST_CASE("a resume after the exit brings the exit again, and the release", "[exec-stream][P6]") {
  auto client = running_client();
  auto server = running_server();
  server.on_exited(exited(4));
  const Message exit = next(server);
  CHECK(expect<Exited>(client, 3, exit.payload).status.code == 4);
  client.release();
  client.on_reconnected();
  const auto parsed = std::get<ResumeRequest>(first(8, next(client).payload));
  CHECK(quiet(client));
  CHECK(!server.on_reconnected(parsed));
  CHECK(std::holds_alternative<Resumed>(client.on_message(8, next(server).payload)));
  CHECK(quiet(client));
  CHECK(std::holds_alternative<Nothing>(client.on_message(3, next(server).payload)));  // not a second Exited
  (void)expect<Released>(server, 6, next(client).payload);
  CHECK(client.idle());
}

TEST_CASE("a resume from bytes that are gone is refused and changes nothing", "[exec-stream][P6]") {
  auto server = running_server();
  server.outbound(Channel::std_out).push("0123456789");
  (void)next(server);
  (void)expect<Acknowledged>(server, 6, R"({"type":"window","stdout":{"received":8,"limit":100}})");
  const auto gone = server.on_reconnected(7, 0, true);
  REQUIRE(gone);
  CHECK(gone->code == ErrorCode::data_loss);
  CHECK(gone->message == "stdout: cannot go on from byte 7; held are 8 to 10");
  CHECK(server.on_reconnected(11, 0, true)->code == ErrorCode::data_loss);
  CHECK(server.on_reconnected(10, 1, true)->code == ErrorCode::data_loss);
  CHECK(quiet(server));
  CHECK(!server.on_reconnected(9, 0, true));
}

TEST_CASE("a client refuses a resume that its own bytes contradict", "[exec-stream][P6]") {
  auto client = running_client(true);
  client.std_in().push("abc");
  (void)next(client);
  client.on_reconnected();
  (void)next(client);
  CHECK(fault(client, 8, R"({"type":"resumed","stdin":{"received":4,"limit":9}})") == "resumed: stdin received 4, held are 0 to 3");
  client.on_reconnected();
  CHECK(next(client).json()["attempt"] == 2);
  CHECK(fault(client, 1, "x") == "stdout: message before resumed");
}

TEST_CASE("a process that somebody else started is taken over", "[exec-stream][TS-14]") {
  ResumeRequest wanted;
  wanted.id = kId;
  wanted.sandbox_id = "sb-1";
  wanted.stdout_received = 4;
  wanted.stdout_limit = 104;
  wanted.stderr_limit = 100;
  wanted.attempt = 1795307400000;
  ExecClientStream client(wanted);
  client.request_signal("INT");
  CHECK(next(client).json() == Json::parse(std::string(R"({"type":"resume","id":")") + kId + R"(","sandboxId":"sb-1",
    "attempt":1795307400000,"stdout":{"received":4,"limit":104},"stderr":{"received":0,"limit":100}})"));
  CHECK(quiet(client));
  CHECK(client.std_in().room() == 0);
  (void)expect<Resumed>(client, 8, R"({"type":"resumed","stdin":{"received":7,"limit":20},"signals":3})");
  // Its first signal and byte follow on those of whoever had it before.
  CHECK(next(client).json()["seq"] == 4);
  CHECK(client.std_in().room() == 13);
  client.std_in().push("abc");
  CHECK(next(client).payload == "abc");
  (void)expect<Data>(client, 1, "xy");
  client.on_reconnected();
  const Message resume = next(client);
  CHECK(resume.json()["attempt"] == 1795307400001);
  CHECK(resume.json()["stdout"]["received"] == 6);
  (void)expect<Resumed>(client, 8, R"({"type":"resumed","stdin":{"received":8,"limit":20},"signals":3})");
  CHECK(next(client).json()["seq"] == 4);
  CHECK(next(client).payload == "bc");
  (void)expect<Exited>(client, 3, R"({"type":"exit","outcome":"exited","code":0,"stdout":6,"stderr":0})");
}

TEST_CASE("what is still held is said when a resume is refused", "[exec-stream][TS-14]") {
  auto server = running_server();
  server.outbound(Channel::std_out).push("0123456789");
  (void)next(server);
  (void)expect<Acknowledged>(server, 6, R"({"type":"window","stdout":{"received":8,"limit":100}})");
  ResumeRequest request;
  request.stderr_received = 1;
  request.stdout_received = 9;
  const auto refused = server.refuses(request);
  REQUIRE(refused);
  CHECK(refused->reason == kReplayGap);
  CHECK(refused->metadata ==
        std::map<std::string, std::string>{{"stdout_from", "8"}, {"stdout_to", "10"}, {"stderr_from", "0"}, {"stderr_to", "0"}});
  request.stderr_received = 0;
  CHECK_FALSE(server.refuses(request));
}

TEST_CASE("whoever takes a process over may ask what it is", "[exec-stream][TS-18]") {
  StartRequest start;
  start.id = kId;
  start.sandbox_id = "sb-1";
  start.command = {"sh", "-c", "echo \xff", ""};
  ResumeRequest wanted;
  wanted.id = kId;
  wanted.sandbox_id = "sb-1";
  wanted.describe = true;
  ExecClientStream client(wanted);
  const Message asked = next(client);
  CHECK(asked.json()["describe"] == true);

  const auto answer = [&](ExecServerStream& server, bool described) {
    auto request = std::get<ResumeRequest>(parse_first_message(8, asked.payload));
    request.describe = described;
    REQUIRE_FALSE(server.on_reconnected(request));
    return next(server);
  };
  ExecServerStream server(start);
  server.on_started(42);
  (void)next(server);
  CHECK_FALSE(answer(server, false).json().contains("command"));
  const Message told = answer(server, true);
  CHECK(told.json()["pid"] == 42);
  CHECK(told.json()["command"].size() == 4);
  INFO(told.payload);
  const auto resumed = expect<Resumed>(client, 8, told.payload);
  CHECK(resumed.pid == 42);
  CHECK(resumed.command == start.command);
  // The same client again knows it.
  client.on_reconnected();
  CHECK_FALSE(next(client).json().contains("describe"));

  // One that is too long to be told, as it is or as it is written, is left out; the rest is told.
  for (const auto& argument : {std::string(kMaxToldCommand, 'x'), std::string(kMaxToldCommand - 100, '\x01')}) {
    start.command = {"echo", argument};
    ExecServerStream other(start);
    other.on_started(43);
    (void)next(other);
    const Message part = answer(other, true);
    CHECK(part.payload.size() < kMaxControlPayload);
    CHECK(part.json()["pid"] == 43);
    CHECK_FALSE(part.json().contains("command"));
  }
  // An old server says nothing of it.
  ExecClientStream patient(wanted);
  (void)next(patient);
  const auto old = expect<Resumed>(patient, 8, R"({"type":"resumed","stdin":{"received":0,"limit":20}})");
  CHECK_FALSE(old.pid.has_value());
  CHECK(old.command.empty());
  ExecClientStream strict(wanted);
  (void)next(strict);
  CHECK(fault(strict, 8, R"({"type":"resumed","stdin":{"received":0,"limit":20},"command":[7]})").find("resumed: command[0]") == 0);
}
