// Copies of files that change on the way or say nothing true of their size, and what a copy keeps.
#include "cli_support.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace support;
using cwsandbox::FileInfo;
using cwsandbox::ReadFileOptions;
using cwsandbox::SandboxFileError;
using cwsandbox::WriteFileOptions;
namespace fs = std::filesystem;

namespace {

/// More than is sent between two calls of a progress function.
constexpr std::size_t kLarge = 20'000'000;

}  // namespace

TEST_CASE("an upload sends what the local file gives, whatever its size is said to be", "[FI-10]") {
  const auto sandbox = Sandbox::run();
  for (const std::string name : {"/proc/version", "/proc/kallsyms", "/sys/kernel/mm/transparent_hugepage/enabled"}) {
    const auto content = read(name);
    if (content.empty()) continue;  // not on this machine
    INFO(name);
    sandbox.upload_file(name, "/tmp/copy").result(60s);
    CHECK((sandbox.read_file("/tmp/copy").result() == content));
  }
}

TEST_CASE("a local file that changes while it is sent: whole as it was when it was opened, or an error", "[FI-10]") {
  const auto sandbox = Sandbox::run();
  const TemporaryDirectory folder;
  const std::string content(kLarge, 'x');
  write(folder / "file", content);
  sandbox.write_file("/tmp/copy", "before").result();
  bool once = false;
  SECTION("one that grows") {
    const auto grow = [&](std::uint64_t, std::optional<std::uint64_t>) {
      if (!std::exchange(once, true)) std::ofstream(folder / "file", std::ios::app) << "more";
    };
    sandbox.upload_file(folder / "file", "/tmp/copy", WriteFileOptions().with_progress(grow)).result(60s);
    CHECK((sandbox.read_file("/tmp/copy").result() == content));
  }
  SECTION("one that shrinks") {
    const auto shrink = [&](std::uint64_t, std::optional<std::uint64_t>) {
      if (!std::exchange(once, true)) REQUIRE(::truncate((folder / "file").c_str(), 9'000'000) == 0);
    };
    try {
      sandbox.upload_file(folder / "file", "/tmp/copy", WriteFileOptions().with_progress(shrink)).result(60s);
      FAIL("it went well");
    } catch (const fs::filesystem_error& error) {
      CHECK(error.code().value() == EIO);
      CHECK(std::string(error.what()).find("shrunk") != std::string::npos);
    }
    CHECK(sandbox.read_file("/tmp/copy").result() == "before");
    CHECK(say(sandbox, "ls -A /tmp") == "copy\n");
  }
}

TEST_CASE("a file of the sandbox that says nothing of its size is read as it is, by every way", "[FI-10]") {
  const auto sandbox = Sandbox::run();
  const TemporaryDirectory folder;
  const auto content = say(sandbox, "cat /proc/filesystems");
  REQUIRE_FALSE(content.empty());
  CHECK(sandbox.read_file("/proc/filesystems").result() == content);
  CHECK(sandbox.read_file_stream("/proc/filesystems").read_all().result() == content);
  CHECK(sandbox.read_file("/proc/filesystems", ReadFileOptions().with_offset(3).with_length(5)).result() == content.substr(3, 5));
  sandbox.download_file("/proc/filesystems", folder / "copy").result();
  CHECK(read(folder / "copy") == content);
}

TEST_CASE("a file that may not be written is replaced by whoever may write its directory, by every way", "[FI-11]") {
  const auto sandbox = Sandbox::run();
  const TemporaryDirectory folder;
  say(sandbox, "cd /tmp; echo old > ro; chmod 444 ro; mkdir shut; echo old > shut/rw; chmod 666 shut/rw; chmod 555 shut");
  write(folder / "local", "uploaded");
  sandbox.write_file("/tmp/ro", "rpc").result();
  CHECK(say(sandbox, "cat /tmp/ro; stat -c %a /tmp/ro") == "rpc444\n");
  sandbox.write_file("/tmp/ro", "body", WriteFileOptions().with_mode(0400)).result();
  CHECK(say(sandbox, "cat /tmp/ro; stat -c %a /tmp/ro") == "body400\n");
  sandbox.upload_file(folder / "local", "/tmp/ro").result();
  CHECK(say(sandbox, "cat /tmp/ro") == "uploaded");
  try {
    sandbox.write_file("/tmp/shut/rw", "new").result();
    FAIL("it went well");
  } catch (const SandboxFileError& error) {
    CHECK(error.error_name() == "EACCES");
  }
  // On this side as well.
  write(folder / "ro", "old");
  ::chmod((folder / "ro").c_str(), 0444);
  sandbox.download_file("/tmp/ro", folder / "ro").result();
  CHECK(read(folder / "ro") == "uploaded");
}

TEST_CASE("a file may be given a time, and a download may keep it", "[FI-12]") {
  const auto sandbox = Sandbox::run();
  const TemporaryDirectory folder;
  const auto time =
      std::chrono::system_clock::time_point(std::chrono::seconds(981'173'106)) + std::chrono::nanoseconds(123'456'789);
  write(folder / "in", "content");
  sandbox.upload_file(folder / "in", "/tmp/up", WriteFileOptions().with_modified(time).with_mode(0666)).result();
  CHECK(sandbox.stat_file("/tmp/up").result().modified == time);
  sandbox.write_file("/tmp/written", "content", WriteFileOptions().with_modified(time)).result();
  CHECK(sandbox.stat_file("/tmp/written").result().modified == time);
  auto out = sandbox.write_file_stream("/tmp/streamed", WriteFileOptions().with_modified(time));
  out.writer.write("content").result();
  out.writer.close().result();
  out.done.result();
  CHECK(say(sandbox, "stat -c %Y /tmp/streamed") == "981173106\n");

  write(folder / "out", "old");
  ::chmod((folder / "out").c_str(), 0600);
  sandbox.download_file("/tmp/up", folder / "out", ReadFileOptions().with_preserve()).result();
  struct stat status{};
  REQUIRE(::stat((folder / "out").c_str(), &status) == 0);
  CHECK(status.st_mtim.tv_sec == 981'173'106);
  CHECK(status.st_mtim.tv_nsec == 123'456'789);
  CHECK((status.st_mode & 0777) == 0666);
  sandbox.download_file("/tmp/up", folder / "plain").result();
  REQUIRE(::stat((folder / "plain").c_str(), &status) == 0);
  CHECK(status.st_mtim.tv_sec != 981'173'106);
}
