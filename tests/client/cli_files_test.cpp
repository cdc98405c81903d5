// cwsandbox cp, logs, ls, get, stop and delete against a real gateway, and what they print: the JSON field by field, as docs/cli.md
// has it.
#include "cli_support.hpp"

#include <nlohmann/json.hpp>

#include <set>

#include <sys/stat.h>
#include <unistd.h>

using namespace support;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

std::set<std::string> keys(const json& object) {
  std::set<std::string> names;
  for (const auto& item : object.items()) names.insert(item.key());
  return names;
}
std::string big() {
  std::string text;
  for (int i = 0; i < 3'000'000; ++i) text += static_cast<char>(i * 31 + i / 256);
  return text;
}

}  // namespace

TEST_CASE("cp: files both ways, through pipes, from sandbox to sandbox", "[CL-1]") {
  const Place place;
  const std::string content = big();
  write(place.here("a"), content);
  ::chmod(place.here("a").c_str(), 0750);
  CHECK(code(place.cli({"cp", place.here("a"), place.there("/tmp")})) == 0);  // into the directory
  CHECK((place.sandbox.read_file("/tmp/a").result() == content));
  CHECK(place.sandbox.stat_file("/tmp/a").result().mode == 0750);
  CHECK(code(place.cli({"cp", place.there("/tmp/a"), place.here("b")})) == 0);
  CHECK((read(place.here("b")) == content));
  CHECK((fs::status(place.here("b")).permissions() & fs::perms::owner_all) == fs::perms::owner_all);
  CHECK((place.cli({"cp", place.there("/tmp/a"), "-"}).out == content));
  CHECK(code(place.cli({"cp", "-", place.there("/tmp/c")}, content)) == 0);
  CHECK((place.sandbox.read_file("/tmp/c").result() == content));
  const auto across = place.cli({"cp", "--output", "json", place.there("/tmp/a"), place.there("/tmp/d")});
  CHECK(code(across) == 0);
  CHECK((place.sandbox.read_file("/tmp/d").result() == content));
  CHECK(place.sandbox.stat_file("/tmp/d").result().mode == 0750);
  CHECK(json::parse(across.out) == json({{"source", place.there("/tmp/a")},
                                         {"destination", place.there("/tmp/d")},
                                         {"files", 1},
                                         {"bytes", content.size()},
                                         {"skipped", 0}}));
  CHECK(across.err == "");
}

TEST_CASE("cp -r: directories both ways, with their modes; what cannot be copied is said", "[CL-1]") {
  const Place place;
  fs::create_directories(place.here("d/e/f"));
  for (int i = 0; i < 30; ++i) write(place.here("d/e/" + std::to_string(i)), std::string(static_cast<std::size_t>(i) * 1000, 'x'));
  write(place.here("d/run"), "#!/bin/sh\n");
  ::chmod(place.here("d/run").c_str(), 0755);
  ::chmod(place.here("d/e/f").c_str(), 0500);
  fs::create_symlink("run", place.here("d/link"));
  CHECK(code(place.cli({"cp", place.here("d"), place.there("/tmp")})) == 125);
  const auto up = place.cli({"cp", "-r", place.here("d"), place.there("/tmp")});
  CHECK(up.err == "");
  CHECK(code(up) == 0);
  CHECK(code(place.cli({"cp", place.there("/tmp/d"), place.here("x")})) == 125);
  const auto down = place.cli({"cp", "-r", place.there("/tmp/d"), place.here("back")});
  CHECK(down.err == "");
  CHECK(code(down) == 0);
  for (int i = 0; i < 30; ++i) CHECK(read(place.here("back/e/" + std::to_string(i))).size() == static_cast<std::size_t>(i) * 1000);
  CHECK((fs::status(place.here("back/run")).permissions() & fs::perms::owner_exec) != fs::perms::none);
  CHECK(read(place.here("back/link")) == "#!/bin/sh\n");
  CHECK_FALSE(fs::is_symlink(place.here("back/link")));
  CHECK(fs::is_directory(place.here("back/e/f")));

  place.sandbox.exec({"sh", "-c", "mkfifo /tmp/d/fifo; ln -s / /tmp/d/root"}).result();
  const auto some = place.cli({"cp", "-r", "--output", "json", place.there("/tmp/d"), place.here("some")});
  CHECK(code(some) == 125);
  CHECK(json::parse(some.out).at("skipped") == 2);
  CHECK(json::parse(some.out).at("files") == 32);
  CHECK(some.err.find("/tmp/d/fifo: not copied") != std::string::npos);
  CHECK_FALSE(fs::exists(place.here("some/root")));
}

TEST_CASE("cp: errors leave nothing half done", "[CL-1]") {
  const Place place;
  write(place.here("a"), "new");
  write(place.here("keep"), "old");
  const auto missing = place.cli({"cp", place.there("/no/such"), place.here("keep")});
  CHECK(code(missing) == 125);
  CHECK(missing.err.find("/no/such") != std::string::npos);
  CHECK(read(place.here("keep")) == "old");
  CHECK(code(place.cli({"cp", place.here("none"), place.there("/tmp/x")})) == 125);
  CHECK(code(place.cli({"cp", place.here("a"), place.there("/no/such/x")})) == 125);
  CHECK(code(place.cli({"cp", place.here("a"), place.here("b")})) == 125);
  CHECK(code(place.cli({"cp", place.here("a"), place.id + ":relative"})) == 125);
  CHECK(code(place.cli({"cp", place.here("a"), ":/x"})) == 125);
  CHECK(code(place.cli({"cp", "-r", "-", place.there("/tmp/x")})) == 125);
  CHECK(code(place.cli({"cp", place.here("a"), "sb-unknown:/tmp/x"})) == 125);
  CHECK(place.sandbox.list_files("/tmp").result().empty());
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator(place.here(""))) count += entry.exists() ? 1U : 0U;
  CHECK(count == 2);
}

TEST_CASE("what others call their sandboxes does not act on a terminal", "[CL-1]") {
  // A control sequence introducer of eight bits, DEL, a right-to-left override, an isolate, a mark, a line separator; "é" is
  // harmless.
  const std::string tag =
      "a\xc2\x9b"
      "31m\x7f\xe2\x80\xae\xe2\x81\xa6\xe2\x80\x8f\xe2\x80\xa8\xd8\x9c\xc3\xa9";
  const Place place(cwsandbox::SandboxOptions().with_tag(tag));
  place.sandbox.wait().result();
  const std::string shown = "a?31m??????\xc3\xa9";
  CHECK(place.cli({"ls"}).out.find(shown) != std::string::npos);
  CHECK(place.cli({"get", place.id}).out.find(shown) != std::string::npos);
  const std::string text = place.cli({"get", place.id, "--output", "json"}).out;
  CHECK(json::parse(text).at("tags") == json::array({tag}));
  for (const char* escaped : {"\\u009b", "\\u007f", "\\u202e", "\\u2066", "\\u200f", "\\u2028", "\\u061c", "\xc3\xa9"}) {
    INFO(escaped);
    CHECK(text.find(escaped) != std::string::npos);
  }
  CHECK(text.find("\xc2\x9b") == std::string::npos);
  // A text of its own that is no UTF-8: the bytes of C1 alone.
  const auto wrong = place.cli({"get",
                                "\x9b"
                                "31m\xe2\x80\xae"});
  CHECK(wrong.err.find('\x9b') == std::string::npos);
  CHECK(wrong.err.find("\xe2\x80\xae") == std::string::npos);
}

TEST_CASE("ls, get, stop and delete; the JSON field by field", "[CL-1]") {
  const Place place(cwsandbox::SandboxOptions().with_tag("one").with_tag("t\033[31mwo"));
  place.sandbox.wait().result();
  CHECK(place.cli({"ls", "--output", "ids"}).out == place.id + "\n");
  CHECK(place.cli({"ls", "--status", "running", "--output", "ids"}).out == place.id + "\n");
  CHECK(place.cli({"ls", "--status", "paused", "--output", "ids"}).out == "");
  CHECK(place.cli({"ls", "--tag", "one", "--tag", "none", "--output", "ids"}).out == "");
  CHECK(place.cli({"ls"}).out.find('\033') == std::string::npos);
  CHECK(code(place.cli({"ls", "--status", "nonsense"})) == 125);

  const auto one = json::parse(place.cli({"get", place.id, "--output", "json"}).out);
  CHECK(json::parse(place.cli({"ls", "--output", "json"}).out) == json::array({one}));
  CHECK(keys(one) == std::set<std::string>{"sandbox_id", "status", "status_reason", "returncode", "image", "command", "tags",
                                           "created_at", "started_at", "ended_at", "runner_id", "runner_group_id"});
  CHECK(one.at("sandbox_id") == place.id);
  CHECK(one.at("status") == "running");
  CHECK(one.at("status_reason").is_string());
  CHECK(one.at("returncode").is_null());
  CHECK(one.at("image").is_string());
  CHECK(one.at("command").is_array());
  CHECK(one.at("tags") == json::array({"one", "t\033[31mwo"}));
  for (const char* name : {"created_at", "started_at"}) {
    const auto time = one.at(name).get<std::string>();
    CHECK(time.size() == 27);
    CHECK(time.back() == 'Z');
  }
  CHECK(one.at("ended_at").is_null());
  CHECK(one.at("runner_id").is_string());
  CHECK(one.at("runner_group_id").is_string());
  CHECK(place.cli({"get", place.id}).out.rfind("ID          " + place.id + "\nStatus      running\n", 0) == 0);

  const auto unknown = place.cli({"get", "sb-unknown", "--output", "json"});
  CHECK(code(unknown) == 125);
  CHECK(unknown.out == "");
  const auto error = json::parse(unknown.err).at("error");
  CHECK(keys(error) == std::set<std::string>{"code", "reason", "message", "metadata", "retry_delay_ms"});
  CHECK(error.at("code") == "not_found");
  CHECK(error.at("reason") == "CWSANDBOX_SANDBOX_NOT_FOUND");
  CHECK(error.at("message").get<std::string>().find("sb-unknown") != std::string::npos);
  CHECK(error.at("metadata").is_object());
  CHECK(error.at("retry_delay_ms").is_null());
  CHECK(json::parse(place.cli({"ls", "--output=json", "--frobnicate"}).err).at("error").at("code") == "invalid_argument");

  CHECK(code(place.cli({"delete", "sb-unknown"})) == 125);
  CHECK(code(place.cli({"delete", "--missing-ok", "sb-unknown"})) == 0);
  const auto stopped = place.cli({"stop", "--grace", "1", "--output", "json", place.id, "sb-unknown"});
  CHECK(code(stopped) == 125);
  CHECK(json::parse(stopped.out) ==
        json::array({{{"sandbox_id", place.id}, {"ok", true}}, {{"sandbox_id", "sb-unknown"}, {"ok", false}}}));
  CHECK(json::parse(stopped.err).at("error").at("code") == "not_found");
  CHECK(place.cli({"ls", "--output", "ids"}).out == "");
  CHECK(place.cli({"ls", "--all", "--output", "ids"}).out == place.id + "\n");

  const auto second = Sandbox::run(place.client);
  second.wait().result();
  CHECK(code(place.cli({"delete", *second.sandbox_id()})) == 0);
}

TEST_CASE("logs: what was written, its end, since when, with times, as JSON", "[CL-1]") {
  const Place place(cwsandbox::SandboxOptions().with_command(shell("echo one; echo two; printf three")));
  static_cast<void>(place.sandbox.wait_until_complete().result(60s));
  CHECK(place.cli({"logs", place.id}).out == "one\ntwo\nthree\n");
  CHECK(place.cli({"logs", "-f", place.id}).out == "one\ntwo\nthree\n");
  CHECK(place.cli({"logs", "--tail", "2", place.id}).out == "two\nthree\n");
  CHECK(place.cli({"logs", "--since", "1h30m", place.id}).out == "one\ntwo\nthree\n");
  CHECK(place.cli({"logs", "--since", "2001-01-31T12:00:00Z", place.id}).out == "one\ntwo\nthree\n");
  CHECK(place.cli({"logs", "--since", "2099-01-31T12:00:00.5+01:00", place.id}).out == "");
  const auto timed = place.cli({"logs", "--timestamps", place.id}).out;
  CHECK(timed.substr(4, 1) == "-");
  CHECK(timed.substr(26, 5) == "Z one");
  const auto lines = place.cli({"logs", "--output", "json", "--timestamps", "--tail", "1", place.id}).out;
  const auto line = json::parse(lines);
  CHECK(keys(line) == std::set<std::string>{"type", "timestamp", "text"});
  CHECK(line.at("type") == "line");
  CHECK(line.at("text") == "three");
  CHECK(line.at("timestamp").get<std::string>().size() == 27);
  CHECK(json::parse(place.cli({"logs", "--output", "json", "--tail", "1", place.id}).out).at("timestamp").is_null());
  for (const char* wrong :
       {"yesterday", "5x", "-5s", "2026-01-31", "2026-13-31T12:00:00Z", "2026-01-31T12:00:00", "99999999999999999999d"})
    CHECK(code(place.cli({"logs", "--since", wrong, place.id})) == 125);
  CHECK(code(place.cli({"logs", "--tail", "0", place.id})) == 125);
  CHECK(code(place.cli({"logs", "sb-unknown"})) == 125);
}

TEST_CASE("every command's help shows an example; no option takes a secret; completion is valid", "[CL-1]") {
  const Place place;
  for (const char* command : {"run", "exec", "sh", "logs", "ls", "get", "stop", "delete", "cp", "completion"}) {
    const auto help = place.cli({command, "--help"});
    CHECK(code(help) == 0);
    CHECK(help.out.find("Example:\n  ") != std::string::npos);
    CHECK(help.out.find("key") == std::string::npos);
  }
  CHECK(code(place.cli({"--help"})) == 0);
  CHECK(code(place.cli({"--api-key", "x", "ls"})) == 125);
  CHECK(code(place.cli({"completion", "tcsh"})) == 125);
  CHECK(place.cli({"completion", "zsh"}).out.rfind("#compdef cwsandbox\n", 0) == 0);

  // As bash would call it: commands, options, and the ids of sandboxes that are there.
  const std::string script =
      "PATH=${CWSANDBOX_CLI%/*}:$PATH; source <(cwsandbox completion bash); "
      "try() { COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _cwsandbox; echo \"${COMPREPLY[*]}\"; }; "
      "try cwsandbox s; try cwsandbox stop ''; try cwsandbox ls --status f; try cwsandbox logs --t; try cwsandbox ls -o ''";
  const auto completed = run_program({"/bin/bash", "-c", script}, "",
                                     {"CWSANDBOX_BASE_URL=" + place.daemon.url(), "CWSANDBOX_API_KEY=" + place.daemon.token()});
  CHECK(completed.err == "");
  CHECK(completed.out == "sh stop\n" + place.id + "\nfailed\n--tail --timestamps\ntable json ids\n");
}
