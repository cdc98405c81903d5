// Files over real sockets, in real sandboxes; a fake runner only where a file must change while it is read.
#include "gateway_support.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <numeric>
#include <random>

using namespace gateway_test;
using Catch::Matchers::Contains;

namespace {

bool has(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

std::string every_byte(std::size_t size) {
  std::string out(size, '\0');
  std::mt19937 random(42);
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

std::string run(const Server& server, const std::string& id, const std::string& script) {
  const Answer answer = server.call("Exec", {{"sandboxId", id}, {"command", {"sh", "-c", script}}});
  if (answer.status != 200) throw std::runtime_error(answer.body);
  return base64_decode(answer.json().value("stdout", ""));
}

void check_error(const Answer& answer, const std::string& code, const std::string& reason, const std::string& error = "",
                 const std::string& path = "") {
  INFO(answer.body);
  CHECK(answer.json().value("code", "") == code);
  const auto info = detail_strings(answer.json(), "ErrorInfo");
  CHECK(has(info, reason));
  if (!error.empty()) CHECK(has(info, error));
  if (!path.empty()) CHECK(has(info, path));
}

// A runner whose one file is longer than what can be read of it, and lies elsewhere.
class ClosedSource final : public runner::ByteSource {
 public:
  std::size_t try_read(asio::mutable_buffer, boost::system::error_code& ec) override {
    ec = asio::error::eof;
    return 0;
  }
  void async_wait(runner::IoHandler) override {}
  void close() noexcept override {}
};

class ShrunkFile final : public runner::FileReader {
 public:
  ShrunkFile() {
    info_.type = runner::FileType::regular;
    info_.size = 1000;
    info_.mode = 0644;
  }
  const runner::FileInfo& info() const noexcept override { return info_; }
  asio::awaitable<std::size_t> read(std::uint64_t offset, asio::mutable_buffer into) override {
    const std::size_t n = offset < 400 ? std::min<std::size_t>(into.size(), 400 - offset) : 0;
    std::fill_n(static_cast<char*>(into.data()), n, 'x');
    co_return n;
  }

 private:
  runner::FileInfo info_;
};

class ShrunkFiles final : public runner::Files {
 public:
  asio::awaitable<std::unique_ptr<runner::FileReader>> open(std::string) override { co_return std::make_unique<ShrunkFile>(); }
  asio::awaitable<std::unique_ptr<runner::FileWriter>> create(runner::FileWriteSpec spec) override {
    throw runner::FileFailed(ENOSPC, spec.path, "the disk is full");
    co_return nullptr;
  }
  asio::awaitable<runner::FileInfo> stat(std::string path, bool) override {
    throw runner::FileFailed(EIO, path, "the disk is broken");
    co_return runner::FileInfo();
  }
  asio::awaitable<std::unique_ptr<runner::DirectoryReader>> list(std::string path) override {
    throw runner::FileFailed(ENAMETOOLONG, path, "too long");
    co_return nullptr;
  }
  asio::awaitable<void> make_directory(std::string path, std::uint32_t, bool) override {
    throw runner::FileFailed(EROFS, path, "read-only");
    co_return;
  }
  asio::awaitable<void> remove(std::string, bool) override {
    throw runner::RunnerError(runner::ErrorCode::unavailable, "CWSANDBOX_RUNNER_UNAVAILABLE", "the sandbox has gone");
    co_return;
  }
  asio::awaitable<void> rename(std::string, std::string) override {
    throw std::runtime_error("secret detail");
    co_return;
  }
};

class FakeSandbox final : public runner::Sandbox {
 public:
  runner::ByteSource& main_stdout() noexcept override { return out_; }
  runner::ByteSource& main_stderr() noexcept override { return err_; }
  runner::Files& files() noexcept override { return files_; }
  asio::awaitable<std::unique_ptr<runner::Process>> start(runner::ProcessSpec) override {
    throw runner::RunnerError(runner::ErrorCode::unavailable, "CWSANDBOX_RUNNER_UNAVAILABLE", "no processes here");
    co_return nullptr;
  }
  void on_exit(std::function<void(const runner::ExitInfo&)>) override {}
  asio::awaitable<void> stop(std::chrono::milliseconds) override { co_return; }

 private:
  ClosedSource out_, err_;
  ShrunkFiles files_;
};

class FakeRunner final : public runner::Runner {
 public:
  std::string_view name() const noexcept override { return "fake"; }
  asio::awaitable<std::unique_ptr<runner::Sandbox>> create(runner::SandboxSpec) override {
    co_return std::make_unique<FakeSandbox>();
  }
};

Server::MakeRunner fake() {
  return [](const asio::any_io_executor&) { return std::make_unique<FakeRunner>(); };
}

}  // namespace

TEST_CASE("a file written is the file read, whatever its bytes and size", "[gateway][files][FI-1][FI-3]") {
  Server server;
  const std::string id = server.sandbox();
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{65'536}, std::size_t{3'000'001}}) {
    const std::string content = every_byte(size);
    const Answer put = server.file("PUT", id, "/tmp/a file", content);
    INFO(put.body);
    REQUIRE(put.status == 200);
    CHECK(put.body == "{}");
    const Answer got = server.file("GET", id, "/tmp/a file");
    REQUIRE(got.status == 200);
    CHECK(got.headers.at("content-type") == "application/octet-stream");
    CHECK(got.headers.at("cwsandbox-file-size") == std::to_string(size));
    CHECK(got.headers.at("cwsandbox-file-mode") == "0644");
    CHECK_THAT(got.headers.at("cwsandbox-file-modified"), Contains("T") && Contains("Z"));
    CHECK((got.body == content));
  }
  REQUIRE(server.file("PUT", id, "/tmp/a file", "x", {}, "&mode=0750").status == 200);
  CHECK(server.file("GET", id, "/tmp/a file").headers.at("cwsandbox-file-mode") == "0750");
  REQUIRE(server.file("PUT", id, "/tmp/a file", "y").status == 200);
  CHECK(server.file("GET", id, "/tmp/a file").headers.at("cwsandbox-file-mode") == "0750");
  CHECK(server.file("PUT", id, "/tmp/new/er/file", "deep").status == 404);
  CHECK(server.file("PUT", id, "/tmp/new/er/file", "deep", {}, "&parents=true").status == 200);
  CHECK(run(server, id, "cat /tmp/new/er/file") == "deep");
  const std::string odd = "/tmp/not\xff utf\n8 & = %41 \xe2\x82\xac";
  CHECK(server.file("PUT", id, odd, "odd").status == 200);
  CHECK(server.file("GET", id, odd).body == "odd");
}

TEST_CASE("64 MiB go in and out, with a length and in chunks", "[gateway][files][FI-3]") {
  Server server;
  const std::string id = server.sandbox();
  const std::string content = every_byte(64 << 20);
  REQUIRE(server.file("PUT", id, "/tmp/big", content).status == 200);
  CHECK((server.file("GET", id, "/tmp/big").body == content));

  Socket socket(server.address());
  socket.write("PUT /v1/files?sandbox=" + id +
               "&path=/tmp/chunked HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " + kToken +
               "\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (std::size_t at = 0; at < content.size(); at += 1 << 20) socket.write("100000\r\n" + content.substr(at, 1 << 20) + "\r\n");
  socket.write("0\r\n\r\n");
  CHECK_THAT(socket.read_until("\r\n\r\n"), Contains(" 200 "));
  CHECK(run(server, id, "cmp /tmp/big /tmp/chunked && echo same") == "same\n");
}

TEST_CASE("a part of a file", "[gateway][files]") {
  Server server;
  const std::string id = server.sandbox();
  const std::string content = every_byte(10'000);
  REQUIRE(server.file("PUT", id, "/tmp/f", content).status == 200);
  REQUIRE(server.file("PUT", id, "/tmp/empty", "").status == 200);
  struct Case {
    std::string range;
    std::size_t from, length;
  };
  for (const Case& c :
       {Case{"bytes=0-0", 0, 1}, Case{"bytes=5-9", 5, 5}, Case{"bytes=9999-", 9999, 1}, Case{"bytes=100-99999", 100, 9900},
        Case{"bytes=-1", 9999, 1}, Case{"bytes=-99999", 0, 10'000}, Case{"bytes=0-", 0, 10'000}}) {
    INFO(c.range);
    const Answer got = server.file("GET", id, "/tmp/f", "", {{"Range", c.range}});
    CHECK(got.status == 206);
    CHECK((got.body == content.substr(c.from, c.length)));
    CHECK(got.headers.at("content-range") ==
          "bytes " + std::to_string(c.from) + "-" + std::to_string(c.from + c.length - 1) + "/10000");
    CHECK(got.headers.at("cwsandbox-file-size") == "10000");
  }
  for (const std::string range : {"bytes=10000-", "bytes=-0", "bytes=5-4", "bytes=", "bytes=a-b", "bytes=0-1,3-4", "lines=1-2",
                                  "bytes=-", "bytes=99999999999999999999-"}) {
    INFO(range);
    const Answer got = server.file("GET", id, "/tmp/f", "", {{"Range", range}});
    CHECK(got.status == 416);
    CHECK(got.json()["code"] == "out_of_range");
    CHECK(got.headers.at("content-range") == "bytes */10000");
  }
  CHECK(server.file("GET", id, "/tmp/empty", "", {{"Range", "bytes=0-"}}).status == 416);
}

TEST_CASE("a write that is cut short leaves the old file and nothing else", "[gateway][files][FI-6]") {
  Server server;
  const std::string id = server.sandbox();
  run(server, id, "mkdir /tmp/d; printf old > /tmp/d/f");
  const std::string head =
      "PUT /v1/files?sandbox=" + id + "&path=/tmp/d/f HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + kToken + "\r\n";
  for (const bool chunked : {false, true}) {
    const std::size_t before = server.log().size();
    Socket socket(server.address());
    if (chunked) {
      socket.write(head + "Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + std::string(1000, 'n') + "\r\n");
    } else {
      socket.write(head + "Content-Length: 2000\r\n\r\n" + std::string(1000, 'n'));
    }
    // Its temporary file is there, or has no name; the old one still answers.
    CHECK(run(server, id, "cat /tmp/d/f") == "old");
    socket.shutdown();
    CHECK(eventually([&] { return server.log().find("PUT /v1/files", before) != std::string::npos; }));
    CHECK(eventually([&] { return run(server, id, "ls -A /tmp/d; cat /tmp/d/f") == "f\nold"; }));
  }
}

TEST_CASE("a client that waits for 100 Continue is told at once what is wrong", "[gateway][files]") {
  Server server;
  const std::string id = server.sandbox();
  const auto head = [&](const std::string& path) {
    return "PUT /v1/files?sandbox=" + id + "&path=" + path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + kToken +
           "\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
  };
  Socket good(server.address());
  good.write(head("/tmp/hello"));
  CHECK_THAT(good.read_until("\r\n\r\n"), Contains(" 100 "));
  good.write("hello");
  CHECK_THAT(good.read_until("\r\n\r\n"), Contains(" 200 "));
  CHECK(run(server, id, "cat /tmp/hello") == "hello");
  Socket bad(server.address());
  bad.write(head("/nowhere/hello"));
  CHECK_THAT(bad.read_until("\r\n\r\n"), Contains(" 404 "));
}

TEST_CASE("what the sandbox's system refuses has a code, a reason and a name", "[gateway][files][FI-2]") {
  Server server;
  const std::string id = server.sandbox();
  run(server, id,
      "mkdir -p /tmp/d/sub; mkfifo /tmp/fifo; ln -s /tmp/loop /tmp/loop; ln -s /etc/shadow /tmp/shadow; echo x > /tmp/f");
  const Answer missing = server.file("GET", id, "/tmp/none");
  CHECK(missing.status == 404);
  check_error(missing, "not_found", "CWSANDBOX_FILE_NOT_FOUND", "ENOENT", "/tmp/none");
  CHECK(has(detail_strings(missing.json(), "ErrorInfo"), id));
  check_error(server.file("GET", id, "/tmp/d"), "failed_precondition", "CWSANDBOX_FILE_IS_DIRECTORY", "EISDIR", "/tmp/d");
  check_error(server.file("GET", id, "/tmp/fifo"), "failed_precondition", "CWSANDBOX_FILE_IO_FAILED", "EINVAL");
  check_error(server.file("GET", id, "/dev/null"), "failed_precondition", "CWSANDBOX_FILE_IO_FAILED", "EINVAL");
  check_error(server.file("GET", id, "/tmp/loop"), "failed_precondition", "CWSANDBOX_FILE_IO_FAILED", "ELOOP");
  check_error(server.file("GET", id, "/tmp/f/g"), "failed_precondition", "CWSANDBOX_FILE_IO_FAILED", "ENOTDIR");
  check_error(server.file("PUT", id, "/tmp/d", "x"), "failed_precondition", "CWSANDBOX_FILE_IS_DIRECTORY", "EISDIR");
  check_error(server.file("GET", id, "/" + std::string(5000, 'n')), "failed_precondition", "CWSANDBOX_FILE_IO_FAILED",
              "ENAMETOOLONG");
  CHECK(server.file("GET", id, "/tmp/shadow").status != 200);
  check_error(server.file_call("MakeDirectory", {{"sandboxId", id}, {"path", "/tmp/d"}}), "already_exists",
              "CWSANDBOX_FILE_IO_FAILED", "EEXIST");
  check_error(server.file_call("Remove", {{"sandboxId", id}, {"path", "/tmp/d"}}), "failed_precondition",
              "CWSANDBOX_FILE_IO_FAILED", "ENOTEMPTY");
  const Answer read_only = server.file("PUT", id, "/usr/x", "x");
  CHECK(read_only.status == 403);
  check_error(read_only, "permission_denied", "CWSANDBOX_FILE_PERMISSION_DENIED");
}

TEST_CASE("errors that a disk here does not have", "[gateway][files][FI-4]") {
  Server server({}, fake());
  const std::string id = server.sandbox();
  // The announced length is not reached: the connection is cut, and nobody takes it for the whole file.
  const Answer cut = server.file("GET", id, "/f");
  CHECK(cut.status == 200);
  CHECK(cut.headers.at("content-length") == "1000");
  CHECK(cut.body.size() == 400);
  CHECK(server.file("GET", id, "/f", "", {{"Range", "bytes=100-199"}}).body == std::string(100, 'x'));
  const Answer full = server.file("PUT", id, "/f", "x");
  CHECK(full.status == 429);
  check_error(full, "resource_exhausted", "CWSANDBOX_FILE_IO_FAILED", "ENOSPC");
  check_error(server.file_call("Stat", {{"sandboxId", id}, {"path", "/f"}}), "internal", "CWSANDBOX_FILE_IO_FAILED", "EIO");
  check_error(server.file_call("MakeDirectory", {{"sandboxId", id}, {"path", "/f"}}), "permission_denied",
              "CWSANDBOX_FILE_PERMISSION_DENIED", "EROFS");
  check_error(server.file_call("Remove", {{"sandboxId", id}, {"path", "/f"}}), "unavailable", "CWSANDBOX_RUNNER_UNAVAILABLE");
  const Answer internal = server.file_call("Rename", {{"sandboxId", id}, {"from", "/f"}, {"to", "/g"}});
  CHECK(internal.status == 500);
  CHECK_THAT(internal.body, !Contains("secret"));
  StreamCall list(server.address(), "cwsandbox.v1.FileService/List", {{"sandboxId", id}, {"path", "/f"}});
  CHECK(!list.next());
  CHECK(list.end["error"]["code"] == "failed_precondition");
}

TEST_CASE("a watch says that it stands, that it lives, and what happens", "[gateway][files][FI-16][FI-20]") {
  Server server([](auto& options) {
    options.log_keep_alive = std::chrono::milliseconds(20);
    options.max_watches_per_sandbox = 2;
    options.max_watches_per_owner = 3;
  });
  const std::string id = server.sandbox(), other = server.sandbox();
  const auto watch = [&](const std::string& sandbox, const std::map<std::string, std::string>& headers = {}) {
    return StreamCall(server.address(), "cwsandbox.v1.FileService/Watch", {{"sandboxId", sandbox}, {"path", "/tmp"}}, headers);
  };
  StreamCall call = watch(id);
  for (int i = 0; i < 3; ++i) {
    const auto message = call.next();
    REQUIRE(message);
    CHECK(*message == Json::object());
  }
  run(server, id, "mkdir /tmp/d; mv /tmp/d /tmp/e");
  Json events = Json::array();
  while (events.size() < 2) {
    const auto message = call.next();
    REQUIRE(message);
    for (const Json& event : message->value("events", Json::array())) events.push_back(event);
  }
  CHECK(events == Json{{{"kind", "FILE_EVENT_KIND_CREATED"}, {"name", "d"}, {"directory", true}},
                       {{"kind", "FILE_EVENT_KIND_RENAMED"}, {"name", "e"}, {"oldName", "d"}, {"directory", true}}});

  StreamCall second = watch(id), elsewhere = watch(other);
  REQUIRE(second.next());
  REQUIRE(elsewhere.next());
  const auto refused = [&](const std::string& sandbox) {
    StreamCall one = watch(sandbox);
    one.rest();
    return one.end["error"].value("code", "") + ": " + one.end["error"].value("message", "");
  };
  CHECK(refused(id) == "resource_exhausted: the sandbox has at most 2 watches of files at one time");
  CHECK(refused(other) ==
        "resource_exhausted: one owner may have at most 3 watches of files at one time (--max-watches-per-owner)");
  second.cut();
  CHECK(eventually([&] {
    StreamCall again = watch(other);
    return again.next().has_value();
  }));

  // A client that is given up makes room, whenever that is noticed: until then it counts.
  StreamCall timed = [&] {
    for (;;) {
      StreamCall one = watch(other, {{"Connect-Timeout-Ms", "300"}});
      one.rest();
      if (one.end["error"].value("code", "") != "resource_exhausted") return one;
    }
  }();
  CHECK(timed.end["error"]["code"] == "deadline_exceeded");

  server.call("DeleteSandbox", {{"sandboxId", id}});
  call.rest();
  CHECK(call.end["error"]["code"] == "failed_precondition");
  for (const Json& request :
       {Json{{"path", "/tmp"}}, Json{{"sandboxId", other}}, Json{{"sandboxId", other}, {"pathBytes", "AA=="}}}) {
    StreamCall bad(server.address(), "cwsandbox.v1.FileService/Watch", request);
    bad.rest();
    CHECK(bad.end["error"]["code"] == "invalid_argument");
  }
  StreamCall unknown = watch("sb-unknown");
  unknown.rest();
  CHECK(unknown.end["error"]["code"] == "not_found");
}

TEST_CASE("stat, list, make, rename, remove", "[gateway][files][FI-8]") {
  Server server;
  const std::string id = server.sandbox();
  const auto call = [&](const std::string& method, Json body) {
    body["sandboxId"] = id;
    const Answer answer = server.file_call(method, body);
    INFO(method << " " << answer.body);
    CHECK(answer.status == 200);
    return answer.json();
  };
  CHECK(call("MakeDirectory", {{"path", "/tmp/d/e"}, {"parents", true}}) == Json::object());
  CHECK(call("MakeDirectory", {{"path", "/tmp/d/e"}, {"parents", true}}) == Json::object());
  REQUIRE(server.file("PUT", id, "/tmp/d/f", "12345").status == 200);
  run(server, id, "ln -s f /tmp/d/link; cd /tmp/d/e; seq -f name%g 1 300 | xargs touch; touch \"$(printf 'b\\377d')\"");
  const Json file = call("Stat", {{"path", "/tmp/d/f"}});
  CHECK(file["name"] == "f");
  CHECK(file["type"] == "FILE_TYPE_REGULAR");
  CHECK(file["size"] == "5");
  CHECK(file["mode"] == 0644);
  CHECK(file.contains("modifyTime"));
  const Json link = call("Stat", {{"path", "/tmp/d/link"}});
  CHECK(link["type"] == "FILE_TYPE_SYMLINK");
  CHECK(link["linkTarget"] == "f");
  CHECK(call("Stat", {{"path", "/tmp/d/link"}, {"followSymlinks", true}})["type"] == "FILE_TYPE_REGULAR");
  CHECK(call("Stat", {{"pathBytes", base64_encode("/tmp/d/e/b\xff"
                                                  "d")}})["nameBytes"] == base64_encode("b\xff"
                                                                                        "d"));

  StreamCall list(server.address(), "cwsandbox.v1.FileService/List", {{"sandboxId", id}, {"path", "/tmp/d/e"}});
  std::vector<std::string> names;
  std::size_t messages = 0;
  for (const Json& message : list.rest()) {
    ++messages;
    for (const Json& entry : message["files"])
      names.push_back(entry.contains("name") ? entry["name"].get<std::string>()
                                             : base64_decode(entry["nameBytes"].get<std::string>()));
  }
  CHECK(list.end == Json::object());
  CHECK(messages > 1);
  CHECK(names.size() == 301);
  CHECK(has(names, "name300"));
  CHECK(has(names,
            "b\xff"
            "d"));

  call("Rename", {{"from", "/tmp/d/f"}, {"to", "/tmp/d/g"}});
  CHECK(run(server, id, "cat /tmp/d/g") == "12345");
  call("Remove", {{"path", "/tmp/d/link"}});
  CHECK(run(server, id, "ls /tmp/d") == "e\ng\n");
  call("Remove", {{"path", "/tmp/d"}, {"recursive", true}});
  CHECK(server.file_call("Remove", {{"sandboxId", id}, {"path", "/tmp/d"}}).status == 404);
  CHECK(call("Remove", {{"path", "/tmp/d"}, {"allowMissing", true}}) == Json::object());
}

TEST_CASE("small files in one message", "[gateway][files][FI-1][FI-2]") {
  Server server;
  const std::string id = server.sandbox();
  const std::string content = every_byte(1 << 20);
  const Answer written = server.call("WriteFile", {{"sandboxId", id}, {"path", "/tmp/f"}, {"content", base64_encode(content)}});
  INFO(written.body);
  CHECK(written.status == 200);
  const Answer read = server.call("ReadFile", {{"sandboxId", id}, {"path", "/tmp/f"}});
  REQUIRE(read.status == 200);
  CHECK((base64_decode(read.json()["content"].get<std::string>()) == content));
  CHECK(server.call("WriteFile", {{"sandboxId", id}, {"path", "/tmp/e"}}).status == 200);
  CHECK(server.call("ReadFile", {{"sandboxId", id}, {"path", "/tmp/e"}}).json().value("content", "").empty());
  CHECK_THAT(base64_decode(server.call("ReadFile", {{"sandboxId", id}, {"path", "/proc/meminfo"}}).json().value("content", "")),
             Contains("MemTotal:"));
  run(server, id, "printf x >> /tmp/f");
  const Answer large = server.call("ReadFile", {{"sandboxId", id}, {"path", "/tmp/f"}});
  check_error(large, "resource_exhausted", "CWSANDBOX_FILE_TOO_LARGE", "EFBIG", "/tmp/f");
  check_error(server.call("ReadFile", {{"sandboxId", id}, {"path", "/tmp/none"}}), "not_found", "CWSANDBOX_FILE_NOT_FOUND");
  CHECK(server.call("ReadFile", {{"sandboxId", id}, {"path", "/tmp/f"}, {"container", "other"}}).status == 400);
}

TEST_CASE("requests about files that make no sense", "[gateway][files][ER-4]") {
  Server server;
  const std::string id = server.sandbox();
  const auto get = [&](const std::string& query, const std::string& token = kToken, const std::string& method = "GET") {
    return http(server.address(), method, "/v1/files" + query, {{"Authorization", "Bearer " + token}}, "");
  };
  CHECK(get("?sandbox=" + id + "&path=/etc/passwd").status == 200);
  CHECK(get("?sandbox=" + id + "&path=/etc/passwd", "wrong").status == 401);
  CHECK(get("?sandbox=" + id + "&path=/etc/passwd", kToken, "POST").status == 405);
  CHECK(get("?sandbox=sb-nope&path=/etc/passwd").status == 404);
  struct Case {
    std::string query, method, field;
  };
  for (const Case& c :
       {Case{"", "GET", "sandbox"}, Case{"?path=/x", "GET", "sandbox"}, Case{"?sandbox=" + id, "GET", "path"},
        Case{"?sandbox=" + id + "&path=%2", "GET", "path"}, Case{"?sandbox=" + id + "&path=%zz", "GET", "path"},
        Case{"?sandbox=" + id + "&path=a%00b", "GET", "path"}, Case{"?sandbox=" + id + "&path=/a&path=/b", "GET", "path"},
        Case{"?sandbox=" + id + "&path=/a&mode=0644", "GET", "mode"}, Case{"?sandbox=" + id + "&path=/a&mode=999", "PUT", "mode"},
        Case{"?sandbox=" + id + "&path=/a&mode=77777", "PUT", "mode"},
        Case{"?sandbox=" + id + "&path=/a&parents=yes", "PUT", "parents"},
        Case{"?sandbox=" + id + "&path=/a&colour=red", "PUT", "colour"}}) {
    INFO(c.method << " " << c.query);
    const Answer answer = get(c.query, kToken, c.method);
    CHECK(answer.status == 400);
    CHECK(answer.json()["code"] == "invalid_argument");
    CHECK(has(detail_strings(answer.json(), "BadRequest"), c.field));
  }
  CHECK(server.file_call("Chmod", Json::object()).status == 501);
  CHECK(server.file_call("Stat", {{"sandboxId", id}}).status == 400);
  CHECK(server.file_call("Stat", {{"path", "/x"}}).status == 400);
  CHECK(server.file_call("Rename", {{"sandboxId", id}, {"from", "/x"}}).status == 400);
  server.call("DeleteSandbox", {{"sandboxId", id}});
  server.wait_state(id, "STATE_TERMINATED");
  const Answer stopped = server.file("GET", id, "/etc/passwd");
  CHECK(stopped.status == 400);
  check_error(stopped, "failed_precondition", "CWSANDBOX_SANDBOX_NOT_RUNNING");
  CHECK_THAT(server.log(), !Contains("passwd") && !Contains(kToken));
}

TEST_CASE("a sandbox is created with files, which are there before its main command", "[gateway][files]") {
  Server server;
  const std::string content = every_byte(1'000'000);
  const Json files = {{{"path", "/tmp/in/a/script"}, {"content", base64_encode("echo from a file")}},
                      {{"path", "/tmp/data"}, {"content", base64_encode(content)}}};
  const Json spec = {{"containers", {{{"command", "/bin/sh"}, {"args", {"/tmp/in/a/script"}}, {"files", files}}}}};
  const Answer made = server.call("CreateSandbox", {{"sandbox", {{"spec", spec}}}});
  REQUIRE(made.status == 200);
  CHECK(made.json()["spec"]["containers"][0]["files"][0]["path"] == "/tmp/in/a/script");
  CHECK(!made.json()["spec"]["containers"][0]["files"][0].contains("content"));
  const std::string id = made.json()["sandboxId"];
  CHECK(server.wait_state(id, "STATE_COMPLETED") == "STATE_COMPLETED");
  std::string out;
  StreamCall logs = server.logs({{"sandboxId", id}});
  for (const Json& entry : logs.rest()) out += base64_decode(entry.value("data", ""));
  CHECK(out == "from a file\n");

  const Json stays = {{"containers", {{{"files", files}}}}};
  const std::string other = server.sandbox(stays);
  CHECK((server.file("GET", other, "/tmp/data").body == content));
}
