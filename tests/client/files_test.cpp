// Files of a sandbox: real ones where they can show it, a scripted server for faults and for servers that know less.
#include "scripted_server.hpp"
#include "support.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include <sys/stat.h>
#include <unistd.h>

using namespace support;
using namespace cwsandbox;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

/// Bytes that no two places share.
std::string noise(std::size_t size) {
  std::string bytes(size, '\0');
  std::uint32_t x = 2463534242U;
  for (char& c : bytes) {
    x ^= x << 13U, x ^= x >> 17U, x ^= x << 5U;
    c = static_cast<char>(x);
  }
  return bytes;
}

/// The error of a file that an operation ends with.
template <typename T>
SandboxFileError file_error(const task<T>& operation) {
  try {
    static_cast<void>(operation.result(60s));
  } catch (const SandboxFileError& error) {
    return error;
  }
  throw std::runtime_error("no SandboxFileError came");
}

std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

/// A server that has a sandbox, and else only what the test gives it.
struct Scripted {
  ScriptedServer server;
  Client client{server.options().with_retry_budget(5s)};
  Sandbox sandbox;
  Scripted() {
    server.reply("CreateSandbox", ScriptedServer::sandbox("sb-1", "STATE_RUNNING"));
    server.reply("DeleteSandbox", json::object());
    sandbox = Sandbox::run(client);
    sandbox.release();  // the server goes first
  }
};

}  // namespace

TEST_CASE("the lines of a file, from wherever it is read", "[FI-13][SR-17]") {
  const Daemon daemon;
  const auto sandbox = Sandbox::run(Client(daemon.options()));
  std::string content;
  for (int i = 0; i < 100'000; ++i) content += "line " + std::to_string(i) + "\n";
  content += "no feed";
  sandbox.write_file("/tmp/lines", content).result();
  std::string joined;
  std::string_view feed;
  for (const auto line : sandbox.read_lines("/tmp/lines")) joined.append(std::exchange(feed, "\n")).append(line);
  CHECK((joined == content));
  const auto lines = sandbox.read_lines("/tmp/lines", cwsandbox::ReadFileOptions().with_offset(7));
  CHECK(lines.next().result() == "line 1");
  const auto stream = sandbox.read_file_stream("/tmp/lines", cwsandbox::ReadFileOptions().with_offset(7));
  CHECK(stream.offset() == 7);
  CHECK(stream.next_line().result() == "line 1");
  CHECK(stream.offset() == 14);
  CHECK_THROWS_AS(sandbox.read_lines("/tmp/lines", cwsandbox::ReadFileOptions(), 3).next().result(), std::length_error);
  CHECK_THROWS_AS(sandbox.read_lines("/tmp/none").next().result(), cwsandbox::SandboxFileError);
}

TEST_CASE("text and bytes come back as they were written, and the sandbox starts by itself", "[FI-1]") {
  const auto sandbox = Sandbox::run();
  sandbox.write_file("/tmp/text", "pear\napple\n").result();
  CHECK(sandbox.read_file("/tmp/text").result() == "pear\napple\n");
  CHECK(say(sandbox, "sort /tmp/text") == "apple\npear\n");
  sandbox.write_file("/tmp/empty", "").result();
  CHECK(sandbox.read_file("/tmp/empty").result().empty());
  // Around the sizes where another way is taken.
  for (const std::size_t size : {1UL, 262'143UL, 262'144UL, 262'145UL, 1'048'576UL, 1'048'577UL, 5'000'003UL}) {
    CAPTURE(size);
    const auto bytes = noise(size);
    sandbox.write_file("/tmp/bytes", bytes).result();
    const auto back = sandbox.read_file("/tmp/bytes").result();
    CHECK((back == bytes));
    CHECK(say(sandbox, "wc -c < /tmp/bytes") == std::to_string(size) + "\n");
  }
  CHECK(sandbox.exec_stats().failures == 0);
}

TEST_CASE("a missing file: path, reason, metadata", "[FI-2]") {
  const auto& sandbox = shared_sandbox();
  sandbox.start().result();
  const auto check = [&](const SandboxFileError& error, const std::string& path) {
    CAPTURE(error.what());
    CHECK(error.path() == path);
    CHECK(error.reason() == "CWSANDBOX_FILE_NOT_FOUND");
    CHECK(error.code() == "not_found");
    CHECK(error.error_name() == "ENOENT");
    CHECK(error.metadata().at("filepath") == path);
    CHECK(error.metadata().at("sandbox_id") == sandbox.sandbox_id());
    CHECK(std::string(error.what()).find(path) != std::string::npos);
  };
  check(file_error(sandbox.read_file("/tmp/none/such")), "/tmp/none/such");
  check(file_error(sandbox.read_file("/tmp/none", ReadFileOptions().with_offset(3))), "/tmp/none");
  check(file_error(sandbox.read_file_stream("/tmp/none").next()), "/tmp/none");
  check(file_error(sandbox.stat_file("/tmp/none")), "/tmp/none");
  check(file_error(sandbox.list_files("/tmp/none")), "/tmp/none");
  check(file_error(sandbox.remove_file("/tmp/none")), "/tmp/none");
  check(file_error(sandbox.rename_file("/tmp/none", "/tmp/other")), "/tmp/none");
  check(file_error(sandbox.write_file("/tmp/none/such", "x")), "/tmp/none/such");
  check(file_error(sandbox.write_file("/tmp/none/such", "x", WriteFileOptions().with_mode(0600))), "/tmp/none/such");
  const TemporaryDirectory folder;
  check(file_error(sandbox.download_file("/tmp/none", folder / "x")), "/tmp/none");
  CHECK(folder.entries() == 0);

  CHECK(file_error(sandbox.read_file("/tmp")).reason() == "CWSANDBOX_FILE_IS_DIRECTORY");
  CHECK(file_error(sandbox.write_file("/usr/x", "x")).reason() != "");
  CHECK(file_error(sandbox.read_file("/tmp/" + std::string(5000, 'a'))).error_name() == "ENAMETOOLONG");
}

TEST_CASE("what cannot be a path is refused by the call", "[FI-2]") {
  const auto& sandbox = shared_sandbox();
  const std::string nul("a\0b", 3);
  CHECK_THROWS_AS(sandbox.read_file(""), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.read_file(nul), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.write_file("", ""), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.write_file("/tmp/x", "", WriteFileOptions().with_mode(010000)), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.read_file_stream(nul), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.write_file_stream(nul), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.download_file("/tmp/x", ""), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.upload_file("", "/tmp/x"), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.stat_file(nul), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.list_files(""), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.make_directory(""), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.make_directory("/tmp/x", false, 010000), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.remove_file(""), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.rename_file("/tmp/x", ""), std::invalid_argument);
}

TEST_CASE("ranges", "[FI-1]") {
  const auto& sandbox = shared_sandbox();
  sandbox.write_file("/tmp/range", "0123456789").result();
  const auto read = [&](ReadFileOptions options) { return sandbox.read_file("/tmp/range", std::move(options)).result(); };
  CHECK(read(ReadFileOptions().with_offset(7)) == "789");
  CHECK(read(ReadFileOptions().with_length(3)) == "012");
  CHECK(read(ReadFileOptions().with_offset(2).with_length(3)) == "234");
  CHECK(read(ReadFileOptions().with_offset(8).with_length(100)) == "89");
  CHECK(read(ReadFileOptions().with_offset(2).with_length(UINT64_MAX)) == "23456789");
  CHECK(read(ReadFileOptions().with_offset(10)).empty());
  CHECK(read(ReadFileOptions().with_offset(UINT64_MAX)).empty());
  CHECK(read(ReadFileOptions().with_length(0)).empty());
  CHECK(sandbox.read_file_stream("/tmp/range", ReadFileOptions().with_offset(4).with_length(2)).read_all().result() == "45");
  sandbox.write_file("/tmp/range-empty", "").result();
  CHECK(sandbox.read_file("/tmp/range-empty", ReadFileOptions().with_offset(0).with_length(5)).result().empty());
}

TEST_CASE("a large file streams through both ways in constant memory", "[FI-3][SW-3]") {
  const auto sandbox = Sandbox::run();
  constexpr std::size_t kSize = 192 * 1024 * 1024;
  const auto block = noise(1'000'003);
  sandbox.start().result();
  sandbox.write_file("/tmp/warm", block).result();
  CHECK((sandbox.read_file("/tmp/warm").result() == block));
  const auto memory = [] {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
      if (line.rfind("VmRSS:", 0) == 0) return std::stoul(line.substr(6)) * 1024;
    return 0UL;
  };
  const auto before = memory();
  std::size_t most = before;
  auto out = sandbox.write_file_stream("/tmp/large");
  for (std::size_t sent = 0; sent < kSize;) {
    const auto n = std::min(block.size(), kSize - sent);
    out.writer.write(std::string_view(block).substr(0, n)).result();
    sent += n;
    most = std::max(most, memory());
  }
  out.writer.close().result();
  out.done.result(60s);
  const auto in = sandbox.read_file_stream("/tmp/large");
  std::size_t got = 0;
  bool right = true;
  for (const auto& chunk : in) {
    CHECK(chunk.size() <= 256 * 1024);
    for (std::size_t i = 0; i < chunk.size();) {
      const auto at = (got + i) % block.size();
      const auto n = std::min(block.size() - at, chunk.size() - i);
      right = right && std::string_view(chunk).substr(i, n) == std::string_view(block).substr(at, n);
      i += n;
    }
    got += chunk.size();
    most = std::max(most, memory());
  }
  CHECK(right);
  CHECK(got == kSize);
  // Client and gateway are in this process, both; without sanitizers it is far less.
  CHECK(most - before < kSize / 3);
}

TEST_CASE("a reader that is slow holds the transfer up, and closing it ends that", "[FI-3][SR-6]") {
  const auto sandbox = Sandbox::run();
  sandbox.exec(shell("head -c 300000000 /dev/zero > /tmp/large")).wait();
  std::atomic<std::uint64_t> done{0}, total{0};
  const auto progress = [&](std::uint64_t now, std::optional<std::uint64_t> all) {
    done = now;
    total = all.value_or(0);
  };
  const auto in = sandbox.read_file_stream("/tmp/large", ReadFileOptions().with_progress(progress));
  REQUIRE(in.next().result());
  CHECK(total == 300'000'000);
  // What is under way stops growing although nobody has said stop.
  std::uint64_t seen = 0;
  CHECK(eventually([&] {
    const auto now = done.load();
    std::this_thread::sleep_for(100ms);
    seen = done.load();
    return seen == now;
  }));
  CHECK(seen < 10'000'000);
  in.close();
  CHECK_FALSE(in.next().result());
  // The sandbox is as good as before, and so is its connection.
  CHECK(sandbox.read_file("/tmp/large", ReadFileOptions().with_length(3)).result() == std::string(3, '\0'));
  {
    const auto dropped = sandbox.read_file_stream("/tmp/large");
    REQUIRE(dropped.next().result());
  }
  CHECK(say(sandbox, "echo fine") == "fine\n");
}

TEST_CASE("a write takes its name at the end, or never was", "[FI-6]") {
  const auto sandbox = Sandbox::run();
  sandbox.make_directory("/tmp/d").result();
  const std::string path = "/tmp/d/file";
  sandbox.write_file(path, "old").result();
  const auto names = [&] { return say(sandbox, "ls -A /tmp/d"); };

  auto out = sandbox.write_file_stream(path);
  out.writer.write(noise(3'000'000)).result();
  CHECK(sandbox.read_file(path).result() == "old");
  SECTION("closed") {
    out.writer.close().result();
    out.done.result(30s);
    CHECK((sandbox.read_file(path).result() == noise(3'000'000)));
    CHECK_THROWS_AS(out.writer.write("more"), SandboxExecutionError);
  }
  SECTION("cancelled") {
    CHECK(out.done.cancel());
    CHECK_THROWS_AS(out.done.result(30s), CancelledError);
    CHECK(eventually([&] { return names() == "file\n"; }));
    CHECK(sandbox.read_file(path).result() == "old");
    CHECK_THROWS_AS(out.writer.write("more"), SandboxExecutionError);
  }
  SECTION("dropped") {
    const auto done = out.done;
    out = FileWriteStream(StreamWriter(std::make_shared<ByteChannel>()), done);
    CHECK_THROWS_AS(done.result(30s), CancelledError);
    CHECK(eventually([&] { return names() == "file\n"; }));
    CHECK(sandbox.read_file(path).result() == "old");
  }
  CHECK(eventually([&] { return names() == "file\n"; }));
}

TEST_CASE("a write that is cancelled leaves what was there", "[FI-6][OR-7]") {
  const auto sandbox = Sandbox::run();
  sandbox.make_directory("/tmp/d").result();
  sandbox.write_file("/tmp/d/file", "old").result();
  const auto cancel_at = [](std::shared_ptr<task<void>> write) {
    return [write](std::uint64_t done, std::optional<std::uint64_t>) {
      if (done >= 2'000'000) write->cancel();
    };
  };
  auto write = std::make_shared<task<void>>();
  std::mutex started;  // the function may be called before the task is known
  SECTION("a string") {
    const std::lock_guard lock(started);
    *write = sandbox.write_file("/tmp/d/file", std::string(100'000'000, 'x'),
                                WriteFileOptions().with_progress([&, inner = cancel_at(write)](auto done, auto total) {
                                  const std::lock_guard known(started);
                                  inner(done, total);
                                }));
  }
  SECTION("cancelled at once") {
    *write = sandbox.write_file("/tmp/d/file", std::string(100'000'000, 'x'));
    CHECK(write->cancel());
  }
  CHECK_THROWS_AS(write->result(30s), CancelledError);
  CHECK(eventually([&] { return say(sandbox, "ls -A /tmp/d") == "file\n"; }));
  CHECK(sandbox.read_file("/tmp/d/file").result() == "old");
}

TEST_CASE("list, stat, mkdir, remove, rename", "[FI-8]") {
  const auto sandbox = Sandbox::run();
  sandbox.make_directory("/tmp/a/b/c", true).result();
  sandbox.make_directory("/tmp/a/b/c", true).result();  // there already
  CHECK(file_error(sandbox.make_directory("/tmp/a/b/c")).code() == "already_exists");
  CHECK(file_error(sandbox.make_directory("/tmp/x/y")).reason() == "CWSANDBOX_FILE_NOT_FOUND");
  sandbox.make_directory("/tmp/a/private", false, 0700).result();
  const auto earlier = std::chrono::system_clock::now() - 60s;
  sandbox.write_file("/tmp/a/file", "12345", WriteFileOptions().with_mode(0640)).result();
  sandbox.exec(shell("ln -s file /tmp/a/link; mkfifo /tmp/a/pipe")).wait();

  const auto file = sandbox.stat_file("/tmp/a/file").result();
  CHECK(file.path == "/tmp/a/file");
  CHECK(file.name == "file");
  CHECK(file.type == FileType::regular);
  CHECK(file.size == 5);
  CHECK(file.mode == 0640);
  REQUIRE(file.modified);
  CHECK(*file.modified > earlier);
  const auto link = sandbox.stat_file("/tmp/a/link").result();
  CHECK(link.type == FileType::symlink);
  CHECK(link.link_target == "file");
  CHECK(sandbox.stat_file("/tmp/a/private/").result().mode == 0700);
  CHECK(sandbox.stat_file("/").result().type == FileType::directory);

  auto all = sandbox.list_files("/tmp/a").result();
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  std::string text;
  for (const auto& one : all) text += one.path + " " + std::string(to_string(one.type)) + "\n";
  CHECK(text == "/tmp/a/b directory\n/tmp/a/file regular\n/tmp/a/link symlink\n/tmp/a/pipe fifo\n/tmp/a/private directory\n");
  CHECK(file_error(sandbox.list_files("/tmp/a/file")).error_name() == "ENOTDIR");
  CHECK(sandbox.list_files("/tmp/a/b/c").result().empty());

  sandbox.rename_file("/tmp/a/file", "/tmp/a/b/moved").result();
  CHECK(sandbox.read_file("/tmp/a/b/moved").result() == "12345");
  sandbox.remove_file("/tmp/a/link").result();
  sandbox.remove_file("/tmp/a/link", false, true).result();
  CHECK(file_error(sandbox.remove_file("/tmp/a/link")).reason() == "CWSANDBOX_FILE_NOT_FOUND");
  CHECK(file_error(sandbox.remove_file("/tmp/a")).error_name() == "ENOTEMPTY");
  sandbox.remove_file("/tmp/a", true).result();
  CHECK(say(sandbox, "ls -A /tmp | grep -c '^a$'") == "0\n");

  sandbox.write_file("/tmp/p/q/r", "deep", WriteFileOptions().with_make_parents()).result();
  CHECK(sandbox.read_file("/tmp/p/q/r").result() == "deep");
}

TEST_CASE("names that are not UTF-8, or hold what a URL does not", "[FI-1][FI-8]") {
  const auto sandbox = Sandbox::run();
  sandbox.make_directory("/tmp/n").result();
  for (const std::string& name : {std::string("caf\xe9"), std::string("a b&c=%41?#+\\\"\n"), std::string("\xc3\xa9t\xc3\xa9")}) {
    const std::string path = "/tmp/n/" + name;
    sandbox.write_file(path, "x" + name).result();
    CHECK(sandbox.read_file(path).result() == "x" + name);
    CHECK(sandbox.stat_file(path).result().name == name);
    const auto found = sandbox.list_files("/tmp/n").result();
    REQUIRE(found.size() == 1);
    CHECK(found[0].name == name);
    CHECK(found[0].path == path);
    sandbox.rename_file(path, path + "2").result();
    sandbox.remove_file(path + "2").result();
  }
}

TEST_CASE("a directory of many entries is listed whole", "[FI-8]") {
  const auto& sandbox = shared_sandbox();
  sandbox.exec(shell("mkdir /tmp/many && cd /tmp/many && seq 1 5000 | xargs touch")).wait();
  const auto found = sandbox.list_files("/tmp/many/").result();
  CHECK(found.size() == 5000);
  CHECK(std::all_of(found.begin(), found.end(), [](const auto& one) { return one.path == "/tmp/many/" + one.name; }));
}

TEST_CASE("copies from and to this machine, with progress", "[FI-3][FI-9]") {
  const auto sandbox = Sandbox::run();
  const TemporaryDirectory folder;
  const auto bytes = noise(40'000'000);
  std::ofstream(folder / "in", std::ios::binary) << bytes;
  fs::permissions(folder / "in", fs::perms(0750));
  std::vector<std::uint64_t> seen;  // the loop's thread has finished with it when the task is done
  std::optional<std::uint64_t> total;
  const auto progress = [&](std::uint64_t done, std::optional<std::uint64_t> all) {
    seen.push_back(done);
    total = all;
  };
  const auto check_progress = [&] {
    REQUIRE_FALSE(seen.empty());
    CHECK(std::is_sorted(seen.begin(), seen.end()));
    CHECK(seen.size() > 3);
    CHECK(seen.back() == bytes.size());
    CHECK(total == bytes.size());
    seen.clear();
  };
  sandbox.upload_file(folder / "in", "/tmp/copy", WriteFileOptions().with_progress(progress)).result();
  check_progress();
  CHECK(sandbox.stat_file("/tmp/copy").result().mode == 0750);
  CHECK(say(sandbox, "wc -c < /tmp/copy") == "40000000\n");
  sandbox.download_file("/tmp/copy", folder / "out", ReadFileOptions().with_progress(progress)).result();
  check_progress();
  CHECK((slurp(folder / "out") == bytes));
  CHECK((fs::status(folder / "out").permissions() & fs::perms(0700)) == fs::perms(0700));

  // What is there keeps its permissions, and a symlink stays one.
  fs::permissions(folder / "out", fs::perms(0600));
  fs::create_symlink("out", folder / "link");
  sandbox.write_file("/tmp/small", "small").result();
  sandbox.download_file("/tmp/small", folder / "link").result();
  CHECK(slurp(folder / "out") == "small");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(fs::status(folder / "out").permissions() == fs::perms(0600));
  CHECK(folder.entries() == 3);

  sandbox.write_file("/tmp/counted", noise(3'000'000), WriteFileOptions().with_progress(progress)).result();
  CHECK(seen.back() == 3'000'000);
  seen.clear();
  CHECK(sandbox.read_file("/tmp/counted", ReadFileOptions().with_progress(progress)).result().size() == 3'000'000);
  CHECK(seen.back() == 3'000'000);

  // What the function throws ends the transfer.
  const auto stop = [](std::uint64_t, std::optional<std::uint64_t>) { throw std::range_error("enough"); };
  CHECK_THROWS_AS(sandbox.download_file("/tmp/copy", folder / "never", ReadFileOptions().with_progress(stop)).result(),
                  std::range_error);
  CHECK_THROWS_AS(sandbox.upload_file(folder / "in", "/tmp/never", WriteFileOptions().with_progress(stop)).result(),
                  std::range_error);
  CHECK(folder.entries() == 3);
  CHECK(eventually([&] { return say(sandbox, "ls -A /tmp | grep -c never") == "0\n"; }));
}

TEST_CASE("what goes wrong on this side is the file system's error", "[FI-6]") {
  const auto& sandbox = shared_sandbox();
  const TemporaryDirectory folder;
  sandbox.write_file("/tmp/here", "x").result();
  CHECK_THROWS_AS(sandbox.upload_file(folder / "none", "/tmp/none").result(), fs::filesystem_error);
  CHECK_THROWS_AS(sandbox.upload_file(folder.path(), "/tmp/none").result(), fs::filesystem_error);
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  CHECK_THROWS_AS(sandbox.upload_file(folder / "fifo", "/tmp/none").result(30s), fs::filesystem_error);
  CHECK_THROWS_AS(sandbox.download_file("/tmp/here", folder / "fifo").result(30s), fs::filesystem_error);
  CHECK_THROWS_AS(sandbox.download_file("/tmp/here", folder.path()).result(), fs::filesystem_error);
  CHECK_THROWS_AS(sandbox.download_file("/tmp/here", folder / "no/such").result(), fs::filesystem_error);
  CHECK(folder.entries() == 1);
}

TEST_CASE("a download that is cancelled leaves nothing", "[FI-6][OR-7]") {
  const auto sandbox = Sandbox::run();
  const TemporaryDirectory folder;
  sandbox.exec(shell("head -c 300000000 /dev/zero > /tmp/large")).wait();
  auto copy = std::make_shared<task<void>>();
  std::mutex started;
  {
    const std::lock_guard lock(started);
    *copy = sandbox.download_file("/tmp/large", folder / "out", ReadFileOptions().with_progress([&](auto, auto) {
      const std::lock_guard known(started);
      copy->cancel();
    }));
  }
  CHECK_THROWS_AS(copy->result(30s), CancelledError);
  CHECK(eventually([&] { return folder.entries() == 0; }));
}

TEST_CASE("many transfers at once", "[FI-1][FI-3]") {
  const auto sandbox = Sandbox::run();
  std::vector<task<void>> writes;
  for (int i = 0; i < 40; ++i)
    writes.push_back(sandbox.write_file("/tmp/f" + std::to_string(i), noise(static_cast<std::size_t>(i) * 50'021)));
  for (const auto& one : writes) one.result(60s);
  std::vector<task<std::string>> reads;
  for (int i = 0; i < 40; ++i) reads.push_back(sandbox.read_file("/tmp/f" + std::to_string(i)));
  for (std::size_t i = 0; i < 40; ++i) CHECK((reads[i].result(60s) == noise(i * 50'021)));
}

TEST_CASE("files from an executor of the caller's, which then has nothing left to do", "[FI-1][SR-10]") {
  boost::asio::io_context context;
  std::string text;
  std::exception_ptr failed;
  {
    const auto work = [](Client client, std::string& out) -> boost::asio::awaitable<void> {
      auto sandbox = Sandbox::run(client);
      co_await sandbox.write_file("/tmp/x", "hello");
      auto stream = sandbox.write_file_stream("/tmp/y");
      co_await stream.writer.write("there");
      co_await stream.writer.close();
      co_await stream.done;
      out = co_await sandbox.read_file("/tmp/x");
      auto in = sandbox.read_file_stream("/tmp/y");
      while (auto chunk = co_await in.next()) out += *chunk;
    };
    boost::asio::co_spawn(context, work(Client(context.get_executor()), text), [&](std::exception_ptr error) { failed = error; });
  }
  context.run();
  if (failed) std::rethrow_exception(failed);
  CHECK(text == "hellothere");
}

TEST_CASE("fewer bytes than announced are an error, never a shorter file", "[FI-4]") {
  Scripted scripted;
  ScriptedServer::Answer cut;
  cut.content_type = "application/octet-stream";
  cut.body = std::string(1000, 'x');
  cut.missing = 500;
  scripted.server.reply_each("/v1/files", {cut});
  scripted.server.reply_each("ReadFile", {ScriptedServer::error("failed_precondition", "large", "CWSANDBOX_FILE_TOO_LARGE")});
  const auto check = [](const SandboxFileError& error) {
    CAPTURE(error.what());
    CHECK(error.reason() == "CWSANDBOX_FILE_TRUNCATED");
    CHECK(error.path() == "/tmp/x");
    CHECK(std::string(error.what()).find("1000 of 1500") != std::string::npos);
  };
  const TemporaryDirectory folder;
  check(file_error(scripted.sandbox.read_file("/tmp/x")));
  check(file_error(scripted.sandbox.download_file("/tmp/x", folder / "x")));
  check(file_error(scripted.sandbox.read_file_stream("/tmp/x").read_all()));
  CHECK(folder.entries() == 0);
  CHECK(scripted.server.count("/v1/files") == 3);  // once bytes have come, nothing is asked for again
}

TEST_CASE("a read that has not begun is tried again, a write whose source can be", "[FI-1][RT-1]") {
  Scripted scripted;
  ScriptedServer::Answer content, done;
  content.body = "content";
  done.body = "{}";
  const auto busy = ScriptedServer::error("unavailable", "busy", "", 1ms);
  scripted.server.reply_each("/v1/files", {busy, content, busy, done, busy, done});
  CHECK(scripted.sandbox.read_file_stream("/tmp/x").read_all().result() == "content");
  CHECK(scripted.server.count("/v1/files") == 2);
  const auto bytes = noise(600'000);
  scripted.sandbox.write_file("/tmp/x", bytes).result();
  auto requests = scripted.server.requests("/v1/files");
  REQUIRE(requests.size() == 4);
  CHECK((requests[3].body == bytes));
  CHECK(requests[3].method == "PUT");
  CHECK(requests[3].target == "/v1/files?sandbox=sb-1&path=/tmp/x");
  CHECK(requests[3].header("expect") == "100-continue");
  const TemporaryDirectory folder;
  std::ofstream(folder / "in", std::ios::binary) << bytes;
  fs::permissions(folder / "in", fs::perms(0644));
  scripted.sandbox.upload_file(folder / "in", "/tmp/\xff", WriteFileOptions().with_make_parents()).result();
  requests = scripted.server.requests("/v1/files");
  REQUIRE(requests.size() == 6);
  CHECK((requests[5].body == bytes));
  CHECK(requests[5].target == "/v1/files?sandbox=sb-1&path=/tmp/%FF&mode=644&parents=true");
}

TEST_CASE("small files are written with the published call, and read with it where there are no bodies", "[FI-1]") {
  Scripted scripted;
  scripted.server.reply("WriteFile", json::object());
  scripted.server.reply("ReadFile", {{"content", "aGVsbG8="}});
  scripted.sandbox.write_file("/tmp/x", "hello").result();
  const auto written = scripted.server.requests("WriteFile").at(0).json();
  CHECK(written == json{{"sandboxId", "sb-1"}, {"path", "/tmp/x"}, {"content", "aGVsbG8="}});
  CHECK(scripted.server.count("/v1/files") == 0);
  // That is found out once.
  for (int i = 0; i < 3; ++i) CHECK(scripted.sandbox.read_file("/tmp/x").result() == "hello");
  CHECK(scripted.server.count("/v1/files") == 1);
  CHECK(scripted.server.count("ReadFile") == 3);
}

TEST_CASE("one sandbox without bodies for files keeps no other from them", "[FI-1][FI-2]") {
  Scripted scripted;
  ScriptedServer::Answer small, content;
  small.body = R"({"content":"aGVsbG8="})";
  content.content_type = "application/octet-stream";
  content.body = "larger than ReadFile takes";
  scripted.server.reply_each("/v1/files", {ScriptedServer::error("unimplemented", "not in this one"), content});
  scripted.server.reply_each("ReadFile",
                             {small, ScriptedServer::error("failed_precondition", "large", "CWSANDBOX_FILE_TOO_LARGE")});
  CHECK(scripted.sandbox.read_file("/tmp/x").result() == "hello");
  CHECK(scripted.sandbox.read_file("/tmp/y").result() == content.body);
}

TEST_CASE("a server without bodies for files: what fits goes over the published calls, and the rest is said", "[FI-1][FI-2]") {
  Scripted scripted;
  std::mutex mutex;
  std::string stored;
  scripted.server.on("WriteFile", [&](const ScriptedServer::Request& request) {
    const std::lock_guard lock(mutex);
    stored = request.json().at("content");
    return ScriptedServer::ok(json::object());
  });
  scripted.server.on("ReadFile", [&](const ScriptedServer::Request&) {
    const std::lock_guard lock(mutex);
    return ScriptedServer::ok({{"content", stored}});
  });
  const auto& sandbox = scripted.sandbox;
  const TemporaryDirectory folder;
  const auto bytes = noise(1'000'000);
  sandbox.write_file("/tmp/x", bytes).result();
  CHECK((sandbox.read_file("/tmp/x").result() == bytes));
  CHECK((sandbox.read_file_stream("/tmp/x").read_all().result() == bytes));
  CHECK((sandbox.read_file("/tmp/x", ReadFileOptions().with_offset(10).with_length(5)).result() == bytes.substr(10, 5)));
  sandbox.download_file("/tmp/x", folder / "x").result();
  CHECK((slurp(folder / "x") == bytes));
  sandbox.write_file("/tmp/x", "gone").result();
  sandbox.upload_file(folder / "x", "/tmp/x").result();
  CHECK((sandbox.read_file("/tmp/x").result() == bytes));
  auto out = sandbox.write_file_stream("/tmp/x");
  out.writer.write("one, ").result();
  out.writer.write("two").result();
  out.writer.close().result();
  out.done.result(30s);
  CHECK(sandbox.read_file("/tmp/x").result() == "one, two");

  const auto says = [](const SandboxFileError& error, const std::string& what) {
    CAPTURE(error.what());
    CHECK(error.code() == "unimplemented");
    CHECK(std::string(error.what()).find(what) != std::string::npos);
  };
  says(file_error(sandbox.write_file("/tmp/x", std::string(9'000'000, 'x'))), "larger than 8388608");
  says(file_error(sandbox.write_file("/tmp/x", "x", WriteFileOptions().with_mode(0600))), "permission bits");
  says(file_error(sandbox.write_file("/tmp/x", "x", WriteFileOptions().with_make_parents())), "directories above");
  says(file_error(sandbox.write_file("/tmp/\xff", "x")), "UTF-8");
  says(file_error(sandbox.read_file("/tmp/\xff")), "UTF-8");
  says(file_error(sandbox.stat_file("/tmp/x")), "cwsandbox.v1.FileService");
  says(file_error(sandbox.list_files("/tmp")), "cwsandbox.v1.FileService");
  says(file_error(sandbox.remove_file("/tmp/x")), "cwsandbox.v1.FileService");
  says(file_error(sandbox.rename_file("/tmp/x", "/tmp/y")), "cwsandbox.v1.FileService");
  says(file_error(sandbox.make_directory("/tmp/x")), "cwsandbox.v1.FileService");
}

TEST_CASE("what may have been done is not done again", "[FI-8][RT-1]") {
  Scripted scripted;
  ScriptedServer::Answer lost;
  lost.hang_up = true;
  for (const char* method : {"Remove", "Rename", "MakeDirectory"})
    scripted.server.reply_each(std::string("/cwsandbox.v1.FileService/") + method, {lost});
  CHECK_THROWS_AS(scripted.sandbox.remove_file("/tmp/x").result(), SandboxUnavailableError);
  CHECK_THROWS_AS(scripted.sandbox.rename_file("/tmp/x", "/tmp/y").result(), SandboxUnavailableError);
  CHECK_THROWS_AS(scripted.sandbox.make_directory("/tmp/x").result(), SandboxUnavailableError);
  // A kept connection that turns out to be closed is no attempt: nobody has read the request.
  for (const char* method : {"Remove", "Rename", "MakeDirectory"})
    CHECK(scripted.server.count(std::string("/cwsandbox.v1.FileService/") + method) <= 2);
}

TEST_CASE("appending leaves what is there, in every way of writing", "[FI-14]") {
  const Daemon daemon;
  const auto sandbox = Sandbox::run(Client(daemon.options()));
  const auto append = WriteFileOptions().with_append();
  sandbox.write_file("/tmp/log", "first\n", append).result();
  sandbox.write_file("/tmp/log", "second\n", append).result();
  const auto stream = sandbox.write_file_stream("/tmp/log", append);
  stream.writer.writeline("third").result();
  stream.writer.flush().result();
  // At once, and others may write in between.
  CHECK(eventually([&] { return sandbox.read_file("/tmp/log").result() == "first\nsecond\nthird\n"; }));
  sandbox.exec(shell("echo fourth >> /tmp/log")).result();
  stream.writer.writeline("fifth").result();
  stream.writer.close().result();
  stream.done.result();
  const TemporaryDirectory folder;
  const auto large = noise(3'000'000);
  std::ofstream(folder / "large", std::ios::binary) << large;
  sandbox.upload_file(folder / "large", "/tmp/log", append).result();
  CHECK((sandbox.read_file("/tmp/log").result() == "first\nsecond\nthird\nfourth\nfifth\n" + large));
  CHECK(say(sandbox, "stat -c %a /tmp/log") == "644\n");
  // One that is given up leaves what it had written.
  {
    const auto given_up = sandbox.write_file_stream("/tmp/other", append);
    given_up.writer.write("half").result();
    given_up.writer.flush().result();
    CHECK(eventually([&] { return sandbox.read_file("/tmp/other").result() == "half"; }));
    given_up.done.cancel();
  }
  CHECK(sandbox.read_file("/tmp/other").result() == "half");
  CHECK(file_error(sandbox.write_file("/tmp", "x", append)).error_name() == "EISDIR");
  CHECK(file_error(sandbox.write_file("/dev/null", "x", append)).error_name() == "EINVAL");
  CHECK_THROWS_AS(sandbox.write_file("/tmp/x", "x", WriteFileOptions().with_append().with_modified({})), std::invalid_argument);
}

TEST_CASE("what may have been appended is not sent again, nor in another way", "[FI-14][RT-1]") {
  Scripted scripted;
  const auto append = WriteFileOptions().with_append();
  ScriptedServer::Answer done, gone;
  done.body = "{}";
  gone.hang_up = true;
  scripted.server.reply("WriteFile", json::object());
  scripted.server.reply_each("/v1/files", {ScriptedServer::error("unavailable", "busy", "", 1ms), gone, done});
  CHECK_THROWS_AS(scripted.sandbox.write_file("/tmp/x", "once", append).result(60s), SandboxUnavailableError);
  CHECK(scripted.server.count("/v1/files") == 1);
  CHECK_THROWS_AS(scripted.sandbox.write_file("/tmp/x", "once", append).result(60s), SandboxUnavailableError);
  CHECK(scripted.server.count("/v1/files") == 2);
  scripted.sandbox.write_file("/tmp/x", "once", append).result(60s);
  CHECK(scripted.server.requests("/v1/files").back().target.find("&append=true") != std::string::npos);
  // A server that only has WriteFile would replace the file.
  scripted.server.reply_each("/v1/files", {ScriptedServer::error("unimplemented", "what?")});
  CHECK(file_error(scripted.sandbox.write_file("/tmp/x", "once", append)).code() == "unimplemented");
  CHECK(scripted.server.count("WriteFile") == 0);
}
