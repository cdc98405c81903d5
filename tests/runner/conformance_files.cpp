// What every runner must do with files and with what the main command writes.
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cerrno>
#include <random>
#include <set>

#include "conformance.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

using runner::DirectoryReader;
using runner::FileEvent;
using runner::FileFailed;
using runner::FileInfo;
using runner::FileReader;
using runner::Files;
using runner::FileType;
using runner::FileWatch;
using runner::FileWriter;
using runner::FileWriteSpec;
using runner::Runner;
using runner::RunnerError;
using runner::Sandbox;
using runner::SandboxSpec;

namespace {

asio::awaitable<std::string> read_file(Files& files, std::string path, std::size_t step = 64 << 10) {
  const std::unique_ptr<FileReader> reader = co_await files.open(std::move(path));
  std::string text;
  std::string part(step, '\0');
  for (;;) {
    const asio::mutable_buffer into(part.data(), part.size());
    const std::size_t n = co_await reader->read(text.size(), into);
    if (n == 0) co_return text;
    text.append(part, 0, n);
  }
}

asio::awaitable<void> put(FileWriter& writer, std::string_view content) {
  const asio::const_buffer from(content.data(), content.size());
  co_await writer.write(from);
}

asio::awaitable<void> write_file(Files& files, FileWriteSpec spec, std::string content) {
  const std::unique_ptr<FileWriter> writer = co_await files.create(std::move(spec));
  co_await put(*writer, content);
  co_await writer->commit();
}

FileWriteSpec to(std::string path) {
  FileWriteSpec spec;
  spec.path = std::move(path);
  return spec;
}

// The errno that it fails with; 0 when it does not.
template <class T>
asio::awaitable<int> error_of(asio::awaitable<T> work) {
  try {
    static_cast<void>(co_await std::move(work));
  } catch (const FileFailed& error) {
    REQUIRE(!error.path().empty());
    co_return error.error();
  }
  co_return 0;
}

template <>
asio::awaitable<int> error_of(asio::awaitable<void> work) {
  try {
    co_await std::move(work);
  } catch (const FileFailed& error) {
    REQUIRE(!error.path().empty());
    co_return error.error();
  }
  co_return 0;
}

asio::awaitable<std::string> code_of(asio::awaitable<std::string> work) {
  try {
    co_await std::move(work);
  } catch (const RunnerError& error) {
    co_return std::string(base::to_string(error.code()));
  }
  co_return std::string("done");
}

asio::awaitable<std::vector<FileInfo>> list_all(Files& files, std::string path, std::size_t limit = 100) {
  const std::unique_ptr<DirectoryReader> reader = co_await files.list(std::move(path));
  std::vector<FileInfo> all;
  for (;;) {
    std::vector<FileInfo> some = co_await reader->next(limit);
    if (some.empty()) co_return all;
    REQUIRE(some.size() <= limit);
    for (FileInfo& info : some) all.push_back(std::move(info));
  }
}

std::string noise(std::size_t size) {
  std::string data(size, '\0');
  std::mt19937_64 random(5);
  for (char& c : data) c = static_cast<char>(random());
  return data;
}

// ---- The main command ----

asio::awaitable<void> main_output(Runner& runner) {
  SandboxSpec spec = sandbox_spec();
  spec.command = sh("echo out; echo err >&2; printf 'last words'; exit 3");
  auto sandbox = co_await runner.create(spec);
  const runner::ExitInfo exit = co_await wait_exit(*sandbox);
  REQUIRE(exit.value == 3);
  // Only now: what was written just before the end is there.
  const std::string out = co_await read_all(sandbox->main_stdout());
  const std::string err = co_await read_all(sandbox->main_stderr());
  REQUIRE(out == "out\nlast words");
  REQUIRE(err == "err\n");
}

asio::awaitable<void> main_output_unread(Runner& runner) {
  SandboxSpec spec = sandbox_spec();
  spec.command = sh("head -c 1000000 /dev/zero; echo done >&2");
  auto sandbox = co_await runner.create(spec);
  const std::string out = co_await read_all(sandbox->main_stdout());
  REQUIRE(out.size() == 1000000);
  const std::string err = co_await read_all(sandbox->main_stderr());
  REQUIRE(err == "done\n");
}

asio::awaitable<void> initial_files(Runner& runner) {
  SandboxSpec spec = sandbox_spec();
  spec.command = sh("cat /workspace/in/deep/file; stat -c %a /workspace/in/deep/file; cat /tmp/empty");
  std::string all;
  for (int i = 1; i < 256; ++i) all += static_cast<char>(i);
  spec.files.push_back({"/workspace/in/deep/file", "content\n"});
  spec.files.push_back({"/tmp/empty", ""});
  spec.files.push_back({"/tmp/bytes", all + std::string(1, '\0') + noise(3 << 20)});
  auto sandbox = co_await runner.create(spec);
  const std::string out = co_await read_all(sandbox->main_stdout());
  REQUIRE(out == "content\n644\n");

  spec.command = sandbox_spec().command;
  sandbox = co_await runner.create(spec);
  const std::string bytes = co_await read_file(sandbox->files(), "/tmp/bytes");
  REQUIRE((bytes == spec.files[2].content));
  const Outcome owner = co_await exec_sh(*sandbox, "test -O /tmp/bytes -a -O /workspace/in/deep && echo mine");
  REQUIRE(owner.out == "mine\n");
}

asio::awaitable<void> initial_files_fail(Runner& runner) {
  SandboxSpec spec = sandbox_spec();
  spec.files.push_back({"/tmp/good", "x"});
  spec.files.push_back({"/usr/not/here", "x"});
  std::string path;
  try {
    auto sandbox = co_await runner.create(spec);
  } catch (const FileFailed& error) {
    path = error.path();
    REQUIRE(std::string(error.what()).find("/usr/not/here") != std::string::npos);
  }
  REQUIRE(path == "/usr/not/here");
  std::string code;
  spec.files.back().path = "relative";
  try {
    auto sandbox = co_await runner.create(spec);
  } catch (const RunnerError& error) {
    code = base::to_string(error.code());
  }
  REQUIRE(code == "invalid_argument");
}

// ---- Reading and writing ----

asio::awaitable<void> round_trip(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  std::string data;
  for (int i = 0; i < 256; ++i) data += static_cast<char>(i);
  data += noise(5 << 20);
  co_await write_file(files, to("bytes"), data);  // in the working directory
  std::string back = co_await read_file(files, "/workspace/bytes");
  REQUIRE((back == data));
  back = co_await read_file(files, "./../workspace/bytes", 10 << 20);
  REQUIRE((back == data));
  co_await write_file(files, to("/tmp/empty"), "");
  back = co_await read_file(files, "/tmp/empty");
  REQUIRE(back.empty());
  const std::unique_ptr<FileReader> reader = co_await files.open("bytes");
  REQUIRE(reader->info().size == data.size());
  REQUIRE(reader->info().mode == 0644);
  REQUIRE(reader->info().type == FileType::regular);
  REQUIRE(reader->info().name == "bytes");
  std::string part(10, '\0');
  const asio::mutable_buffer into(part.data(), part.size());
  std::size_t n = co_await reader->read(100, into);
  REQUIRE(n == 10);
  REQUIRE((part == data.substr(100, 10)));
  n = co_await reader->read(data.size(), into);
  REQUIRE(n == 0);
  n = co_await reader->read(~std::uint64_t{0}, into);
  REQUIRE(n == 0);
  const Outcome seen = co_await exec_sh(*sandbox, "test -O bytes && wc -c < bytes");
  REQUIRE(seen.out == std::to_string(data.size()) + "\n");
}

asio::awaitable<void> atomic_write(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  const Outcome made = co_await exec_sh(*sandbox, "mkdir /tmp/d; echo old > /tmp/d/file; chmod 640 /tmp/d/file");
  {
    const std::unique_ptr<FileWriter> writer = co_await files.create(to("/tmp/d/file"));
    co_await put(*writer, "half");
    const std::string old = co_await read_file(files, "/tmp/d/file");
    REQUIRE(old == "old\n");
    const Outcome names = co_await exec_sh(*sandbox, "ls -A /tmp/d | wc -l");
    REQUIRE((names.out == "1\n" || names.out == "2\n"));  // without a name, or with a temporary one
  }
  // Given up: no trace of it. The next operation comes after its end.
  std::vector<FileInfo> entries = co_await list_all(files, "/tmp/d");
  REQUIRE(entries.size() == 1);
  std::string text = co_await read_file(files, "/tmp/d/file");
  REQUIRE(text == "old\n");

  const std::unique_ptr<FileReader> before = co_await files.open("/tmp/d/file");
  co_await write_file(files, to("/tmp/d/file"), "new");
  text = co_await read_file(files, "/tmp/d/file");
  REQUIRE(text == "new");
  std::string part(10, '\0');
  const asio::mutable_buffer into(part.data(), part.size());
  const std::size_t n = co_await before->read(0, into);
  REQUIRE(part.substr(0, n) == "old\n");
  FileInfo info = co_await files.stat("/tmp/d/file", false);
  REQUIRE(info.mode == 0640);  // kept
  FileWriteSpec with_mode = to("/tmp/d/file");
  with_mode.mode = 0755;
  co_await write_file(files, with_mode, "#!/bin/sh\necho run\n");
  const Outcome run = co_await exec_sh(*sandbox, "/tmp/d/file");
  REQUIRE(run.out == "run\n");
  entries = co_await list_all(files, "/tmp/d");
  REQUIRE(entries.size() == 1);

  int error = co_await error_of(files.create(to("/tmp/d/no/such/file")));
  REQUIRE(error == ENOENT);
  FileWriteSpec with_parents = to("/tmp/d/a/b/c/file");
  with_parents.make_parents = true;
  co_await write_file(files, with_parents, "deep");
  text = co_await read_file(files, "/tmp/d/a/b/c/file");
  REQUIRE(text == "deep");
  info = co_await files.stat("/tmp/d/a/b", false);
  REQUIRE(info.mode == 0755);

  // Its directory vanishes while it is written.
  const std::unique_ptr<FileWriter> writer = co_await files.create(to("/tmp/d/a/x"));
  co_await files.remove("/tmp/d/a", true);
  co_await put(*writer, "x");
  error = co_await error_of(writer->commit());
  REQUIRE(error == ENOENT);
}

asio::awaitable<void> what_is_no_file(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  const Outcome made = co_await exec_sh(
      *sandbox,
      "cd /tmp; mkfifo fifo; mkdir dir; ln -s fifo to-fifo; ln -s loop loop; echo x > ro; chmod 444 ro; mkdir no; chmod 0 no");
  REQUIRE(made.exit.value == 0);
  struct Case {
    const char* path;
    int open, create;
  };
  const Case cases[] = {
      {"/tmp/fifo", EINVAL, EINVAL},
      {"/tmp/to-fifo", EINVAL, EINVAL},
      {"/tmp/dir", EISDIR, EISDIR},
      {"/tmp/dir/", EISDIR, EISDIR},
      {"/tmp/none/", ENOENT, ENOTDIR},
      {"/tmp/ro/", ENOTDIR, ENOTDIR},
      {"/tmp/to-fifo/", ENOTDIR, ENOTDIR},
      {"/", EISDIR, EISDIR},
      {".", EISDIR, EISDIR},
      {"/dev/null", EINVAL, EINVAL},
      {"/dev/zero", EINVAL, EINVAL},
      {"/dev/tty", EINVAL, EINVAL},
      {"/tmp/loop", ELOOP, ELOOP},
      {"/tmp/none", ENOENT, 0},
      {"/tmp/none/x", ENOENT, ENOENT},
      {"/etc/passwd/x", ENOTDIR, ENOTDIR},
      {"/tmp/ro", 0, 0},
      {"/tmp/no/x", EACCES, EACCES},
      {"/usr/new", ENOENT, EROFS},
      {"/etc/passwd", 0, EROFS},
  };
  for (const Case& one : cases) {
    INFO(one.path);
    int error = co_await error_of(files.open(one.path));
    REQUIRE(error == one.open);
    error = co_await error_of(files.create(to(one.path)));
    REQUIRE(error == one.create);
  }
  int error = co_await error_of(files.list("/tmp/fifo"));
  REQUIRE(error == ENOTDIR);
  error = co_await error_of(files.list("/tmp/ro"));
  REQUIRE(error == ENOTDIR);
  // A directory that came where the file was to be.
  const std::unique_ptr<FileWriter> writer = co_await files.create(to("/tmp/later"));
  co_await files.make_directory("/tmp/later", 0755, false);
  error = co_await error_of(writer->commit());
  REQUIRE(error == EISDIR);
  const Outcome left = co_await exec_sh(*sandbox, "ls -A /tmp | grep cwsandbox");
  REQUIRE(left.out.empty());
}

// It is the directory that is written, not the file that bears the name.
asio::awaitable<void> replacing(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  const Outcome made = co_await exec_sh(
      *sandbox,
      "mkdir /tmp/r; cd /tmp/r; mkdir shut open; echo old > ro; chmod 444 ro; echo old > none; chmod 0 none; echo old > open/ro;"
      "chmod 444 open/ro; ln -s open/ro link; echo old > shut/rw; chmod 666 shut/rw; ln -s shut/rw into; chmod 555 shut");
  REQUIRE(made.exit.value == 0);
  for (int twice = 0; twice < 2; ++twice) {
    co_await write_file(files, to("/tmp/r/ro"), "new");
    co_await write_file(files, to("/tmp/r/none"), "new");
    co_await write_file(files, to("/tmp/r/link"), "new");
  }
  const Outcome seen = co_await exec_sh(
      *sandbox, "cd /tmp/r; stat -c '%a %n' ro none open/ro; chmod 400 none; cat ro none open/ro; test -L link && echo stays");
  REQUIRE(seen.out == "444 ro\n0 none\n444 open/ro\nnewnewnewstays\n");
  // Where the directory may not be written, the file may not be replaced, whatever its own bits say; also behind a symlink.
  int error = co_await error_of(files.create(to("/tmp/r/shut/rw")));
  REQUIRE(error == EACCES);
  error = co_await error_of(files.create(to("/tmp/r/into")));
  REQUIRE(error == EACCES);
  const Outcome kept = co_await exec_sh(*sandbox, "cat /tmp/r/shut/rw; ls -A /tmp/r /tmp/r/open /tmp/r/shut | grep -c cwsandbox");
  REQUIRE(kept.out == "old\n0\n");
  // One's own file in a sticky directory.
  const Outcome sticky = co_await exec_sh(*sandbox, "mkdir /tmp/s; chmod 1777 /tmp/s; echo old > /tmp/s/mine");
  REQUIRE(sticky.exit.value == 0);
  co_await write_file(files, to("/tmp/s/mine"), "new");
}

asio::awaitable<void> given_times(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  using std::chrono::system_clock;
  // Before 1970, to the nanosecond, and after what 32 bits can count.
  for (const std::int64_t nanoseconds : {std::int64_t{-1'500'000'001}, std::int64_t{0}, std::int64_t{981'173'106'123'456'789},
                                         std::int64_t{4'500'000'000'000'000'001}}) {
    FileWriteSpec spec = to("/tmp/timed");
    spec.mode = 0400;
    spec.modified =
        system_clock::time_point(std::chrono::duration_cast<system_clock::duration>(std::chrono::nanoseconds(nanoseconds)));
    co_await write_file(files, spec, "content");
    const FileInfo info = co_await files.stat("/tmp/timed", false);
    REQUIRE(info.modified == *spec.modified);
    REQUIRE(info.mode == 0400);
  }
  const Outcome seen = co_await exec_sh(*sandbox, "stat -c %Y /tmp/timed");
  REQUIRE(seen.out == "4500000000\n");
}

// Their size says nothing of what they give.
asio::awaitable<void> made_while_read(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  const Outcome found = co_await exec_sh(*sandbox,
                                         "echo /proc/version; echo /proc/filesystems; for f in "
                                         "/sys/kernel/mm/transparent_hugepage/enabled /sys/fs/cgroup/cgroup.controllers "
                                         "/sys/fs/cgroup/memory/memory.limit_in_bytes; do [ -r $f ] && echo $f; done; true");
  std::size_t looked = 0;
  for (std::size_t at = 0; at < found.out.size();) {
    const std::string path = found.out.substr(at, found.out.find('\n', at) - at);
    at += path.size() + 1;
    INFO(path);
    const Outcome cat = co_await exec_sh(*sandbox, "cat " + path);
    const std::unique_ptr<FileReader> reader = co_await files.open(path);
    REQUIRE(reader->info().size == cat.out.size());
    const std::string text = co_await read_file(files, path);
    REQUIRE(text == cat.out);
    ++looked;
  }
  REQUIRE(looked >= 2);
}

asio::awaitable<void> symlinks(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  const Outcome made = co_await exec_sh(
      *sandbox,
      "cd /tmp; mkdir d; echo one > d/real; ln -s d/real rel; ln -s /tmp/rel abs; ln -s d dirlink; ln -s d/dangling new;"
      "ln -s /etc/shadow shadow; ln -s ../../../../../../../etc/shadow up");
  REQUIRE(made.exit.value == 0);
  std::string text = co_await read_file(files, "/tmp/abs");
  REQUIRE(text == "one\n");
  co_await write_file(files, to("/tmp/abs"), "two\n");
  const Outcome seen = co_await exec_sh(*sandbox, "cd /tmp; test -L abs && test -L rel && cat d/real; ls -A d");
  REQUIRE(seen.out == "two\nreal\n");
  co_await write_file(files, to("/tmp/new"), "three");
  text = co_await read_file(files, "/tmp/dirlink/dangling");
  REQUIRE(text == "three");
  // Inside the sandbox there is none.
  int error = co_await error_of(files.open("/tmp/shadow"));
  REQUIRE(error == ENOENT);
  error = co_await error_of(files.open("/tmp/up"));
  REQUIRE(error == ENOENT);
  error = co_await error_of(files.open("../../../../../../etc/shadow"));
  REQUIRE(error == ENOENT);
  error = co_await error_of(files.create(to("/tmp/shadow")));
  REQUIRE(error == EROFS);

  FileInfo info = co_await files.stat("/tmp/rel", false);
  REQUIRE(info.type == FileType::symlink);
  REQUIRE(info.link_target == "d/real");
  REQUIRE(info.size == 6);
  info = co_await files.stat("/tmp/rel", true);
  REQUIRE(info.type == FileType::regular);
  REQUIRE(info.size == 4);
  REQUIRE(info.name == "rel");
  REQUIRE(info.link_target.empty());
  const auto age = std::chrono::system_clock::now() - info.modified;
  REQUIRE(age < std::chrono::hours(1));
  REQUIRE(age > -std::chrono::hours(1));
  info = co_await files.stat("/tmp", true);
  REQUIRE(info.type == FileType::directory);
  info = co_await files.stat("/dev/null", true);
  REQUIRE(info.type == FileType::character_device);
  const Outcome id = co_await exec_sh(*sandbox, "stat -c %u:%g /tmp/d /usr; mkfifo /tmp/f");
  info = co_await files.stat("/tmp/d", true);
  std::string ids = std::to_string(info.uid) + ":" + std::to_string(info.gid) + "\n";
  info = co_await files.stat("/usr", true);
  ids += std::to_string(info.uid) + ":" + std::to_string(info.gid) + "\n";
  REQUIRE(ids == id.out);  // as the sandbox sees them
  info = co_await files.stat("/tmp/f", true);
  REQUIRE(info.type == FileType::fifo);
}

asio::awaitable<void> growing_and_shrinking(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  const Outcome made = co_await exec_sh(*sandbox, "printf 0123456789 > /tmp/grow; printf 0123456789 > /tmp/shrink");
  const std::unique_ptr<FileReader> grow = co_await files.open("/tmp/grow");
  const std::unique_ptr<FileReader> shrink = co_await files.open("/tmp/shrink");
  const Outcome changed = co_await exec_sh(*sandbox, "printf abc >> /tmp/grow; printf 01 > /tmp/shrink");
  REQUIRE(grow->info().size == 10);
  std::string part(100, '\0');
  const asio::mutable_buffer into(part.data(), part.size());
  std::size_t n = co_await grow->read(0, into);
  REQUIRE(part.substr(0, n) == "0123456789abc");
  REQUIRE(shrink->info().size == 10);
  n = co_await shrink->read(0, into);
  REQUIRE(n == 2);
  n = co_await shrink->read(2, into);
  REQUIRE(n == 0);
  // Its name does not matter any more, nor the sandbox.
  co_await files.remove("/tmp/grow", false);
  n = co_await grow->read(10, into);
  REQUIRE(part.substr(0, n) == "abc");
}

asio::awaitable<void> odd_paths(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  for (const std::string& name : {std::string("\xff\xfe\x80"), std::string("new\nline \\ \"quote\" *"), std::string("-rf"),
                                  std::string("\xc3\xa4"), std::string(255, 'n'), std::string(".hidden"), std::string(" ")}) {
    const std::string path = "/tmp/" + name;
    co_await write_file(files, to(path), "x" + name);
    const std::string text = co_await read_file(files, path);
    REQUIRE((text == "x" + name));
    const std::vector<FileInfo> entries = co_await list_all(files, "/tmp");
    REQUIRE(entries.size() == 1);
    REQUIRE((entries[0].name == name));
    co_await files.rename(path, "/tmp/other");
    co_await files.remove("/tmp/other", false);
  }
  std::string lengthy;
  while (lengthy.size() < 5000) lengthy += "/directory";
  for (const std::string& path :
       {std::string(5000, 'x'), lengthy, "/tmp/" + std::string(256, 'n'), "/tmp" + std::string(4200, '/')}) {
    int error = co_await error_of(files.open(path));
    REQUIRE(error == ENAMETOOLONG);
    FileWriteSpec spec = to(path);
    spec.make_parents = true;
    error = co_await error_of(files.create(spec));
    REQUIRE(error == ENAMETOOLONG);
    error = co_await error_of(files.stat(path, false));
    REQUIRE(error == ENAMETOOLONG);
    error = co_await error_of(files.list(path));
    REQUIRE(error == ENAMETOOLONG);
    error = co_await error_of(files.make_directory(path, 0755, true));
    REQUIRE(error == ENAMETOOLONG);
    error = co_await error_of(files.remove(path, true));
    REQUIRE(error == ENAMETOOLONG);
    error = co_await error_of(files.rename("/tmp", path));
    REQUIRE(error == ENAMETOOLONG);
  }
  std::string code = co_await code_of(read_file(files, std::string("/etc/passwd\0x", 13)));
  REQUIRE(code == "invalid_argument");
  code = co_await code_of(read_file(files, ""));
  REQUIRE(code == "invalid_argument");
  // As long as may be.
  std::string deep = "/tmp";
  while (deep.size() < 3900) deep += "/" + std::string(100, 'd');
  FileWriteSpec spec = to(deep + "/file");
  spec.make_parents = true;
  co_await write_file(files, spec, "deep");
  const std::string text = co_await read_file(files, spec.path);
  REQUIRE(text == "deep");
}

// ---- Directories ----

asio::awaitable<void> large_directory(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  const Outcome made = co_await exec_sh(
      *sandbox, "mkdir /tmp/many; cd /tmp/many; i=0; while [ $i -lt 3000 ]; do : > file-$i; i=$((i+1)); done; ln -s file-1 link");
  REQUIRE(made.exit.value == 0);
  const std::vector<FileInfo> entries = co_await list_all(files, "/tmp/many", 100);
  REQUIRE(entries.size() == 3001);
  std::set<std::string> names;
  for (const FileInfo& info : entries) {
    names.insert(info.name);
    if (info.name == "link") {
      REQUIRE(info.type == FileType::symlink);
      REQUIRE(info.link_target == "file-1");
    } else {
      REQUIRE(info.type == FileType::regular);
    }
  }
  REQUIRE(names.size() == 3001);
  const std::vector<FileInfo> again = co_await list_all(files, "/tmp/many", 7);
  REQUIRE(again.size() == 3001);
  // It vanishes under the reader.
  const std::unique_ptr<DirectoryReader> reader = co_await files.list("/tmp/many");
  std::vector<FileInfo> some = co_await reader->next(1);
  REQUIRE(some.size() == 1);
  co_await files.remove("/tmp/many", true);
  while (!some.empty()) some = co_await reader->next(1000);
  int error = co_await error_of(files.list("/tmp/many"));
  REQUIRE(error == ENOENT);
  co_await files.make_directory("/tmp/none", 0755, false);
  const std::vector<FileInfo> none = co_await list_all(files, "/tmp/none");
  REQUIRE(none.empty());
}

asio::awaitable<void> directories(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  co_await files.make_directory("/tmp/a", 0777, false);
  FileInfo info = co_await files.stat("/tmp/a", false);
  REQUIRE(info.mode == 0777);
  REQUIRE(info.type == FileType::directory);
  int error = co_await error_of(files.make_directory("/tmp/a", 0755, false));
  REQUIRE(error == EEXIST);
  co_await files.make_directory("/tmp/a", 0700, true);
  info = co_await files.stat("/tmp/a", false);
  REQUIRE(info.mode == 0777);
  error = co_await error_of(files.make_directory("/tmp/b/c", 0755, false));
  REQUIRE(error == ENOENT);
  co_await files.make_directory("/tmp/b/c//d/", 0700, true);
  info = co_await files.stat("/tmp/b/c/d", false);
  REQUIRE(info.mode == 0700);
  co_await files.make_directory("x/../y", 0755, true);
  co_await files.make_directory("/usr", 0755, true);
  co_await write_file(files, to("/tmp/file"), "x");
  error = co_await error_of(files.make_directory("/tmp/file", 0755, true));
  REQUIRE(error == EEXIST);
  error = co_await error_of(files.make_directory("/tmp/file/x", 0755, true));
  REQUIRE(error == ENOTDIR);
  error = co_await error_of(files.make_directory("/usr/x", 0755, true));
  REQUIRE(error == EROFS);

  // Renaming.
  co_await files.rename("/tmp/file", "/tmp/moved");
  error = co_await error_of(files.stat("/tmp/file", false));
  REQUIRE(error == ENOENT);
  co_await write_file(files, to("/tmp/target"), "old");
  co_await files.rename("/tmp/moved", "/tmp/target");
  const std::string text = co_await read_file(files, "/tmp/target");
  REQUIRE(text == "x");
  co_await files.rename("/tmp/b/", "/tmp/renamed/");
  error = co_await error_of(files.rename("/tmp/target", "/tmp/renamed"));
  REQUIRE(error == EISDIR);
  error = co_await error_of(files.rename("/tmp/none", "/tmp/other"));
  REQUIRE(error == ENOENT);
  error = co_await error_of(files.rename("/tmp/a", "/tmp/renamed"));
  REQUIRE(error == ENOTEMPTY);

  // Removing.
  error = co_await error_of(files.remove("/tmp/renamed", false));
  REQUIRE(error == ENOTEMPTY);
  co_await files.remove("/tmp/a/", false);
  error = co_await error_of(files.remove("/tmp/target/", false));
  REQUIRE(error == ENOTDIR);
  error = co_await error_of(files.remove("/tmp/none", true));
  REQUIRE(error == ENOENT);
  co_await files.remove("/tmp/renamed", true);
  co_await files.remove("/tmp/target", true);
  error = co_await error_of(files.remove("/usr", true));
  REQUIRE(error == EROFS);
  for (const char* path : {"/tmp/.", "/tmp/..", ".", "..", "/", "/workspace/y/..", "//"}) {
    INFO(path);
    error = co_await error_of(files.remove(path, true));
    REQUIRE(error == EINVAL);
  }
  // A place itself cannot go, and what is in it stays.
  co_await write_file(files, to("/tmp/stays"), "x");
  error = co_await error_of(files.remove("/tmp", true));
  REQUIRE(error != 0);
  info = co_await files.stat("/tmp/stays", false);
  REQUIRE(info.size == 1);
}

asio::awaitable<void> recursive_remove(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  const Outcome made = co_await exec_sh(
      *sandbox,
      "cd /tmp; mkdir -p keep/inner tree/a/b tree/empty; echo x > keep/inner/file; ln -s /tmp/keep tree/link; ln -s ../../../keep "
      "tree/a/b/up; ln -s /tmp/keep toplink; mkfifo tree/fifo; i=0; while [ $i -lt 500 ]; do : > tree/a/$i; i=$((i+1)); done;"
      "cd tree/a/b; i=0; while [ $i -lt 400 ]; do mkdir -p d f && cd -P d && : > file || exit 1; i=$((i+1)); done");
  REQUIRE(made.exit.value == 0);
  co_await files.remove("/tmp/tree", true);
  co_await files.remove("/tmp/toplink", true);
  const Outcome left = co_await exec_sh(*sandbox, "cd /tmp; ls -A; cat keep/inner/file");
  REQUIRE(left.out == "keep\nx\n");
  // While others add to it and take from it: it ends, and what is beside it stays.
  auto process = co_await sandbox->start(command(sh(
      "cd /tmp; i=0; while [ $i -lt 100 ]; do mkdir -p busy/d$((i%7))/x busy/e 2>/dev/null; mv busy/d$((i%5)) busy/e/ 2>/dev/null; "
      "touch busy/d$((i%7))/f 2>/dev/null; i=$((i+1)); done; echo ended")));
  for (int i = 0; i < 50; ++i) {
    const int error = co_await error_of(files.remove("/tmp/busy", true));
    REQUIRE((error == 0 || error == ENOENT || error == ENOTEMPTY));
  }
  const Outcome other = co_await communicate(*process);
  REQUIRE(other.out == "ended\n");
  const int error = co_await error_of(files.remove("/tmp/busy", true));
  REQUIRE((error == 0 || error == ENOENT));
  const Outcome kept = co_await exec_sh(*sandbox, "cd /tmp; ls -A; cat keep/inner/file");
  REQUIRE(kept.out == "keep\nx\n");
}

asio::awaitable<void> many_at_once(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  std::vector<std::unique_ptr<FileWriter>> writers;
  for (int i = 0; i < 50; ++i) {
    writers.push_back(co_await files.create(to("/tmp/same")));
    co_await put(*writers.back(), std::to_string(i));
  }
  for (auto& writer : writers) co_await writer->commit();
  std::vector<FileInfo> entries = co_await list_all(files, "/tmp");
  REQUIRE(entries.size() == 1);
  const std::string text = co_await read_file(files, "/tmp/same");
  REQUIRE(text == "49");
  // More than the sandbox can have: an error, and all is well afterwards.
  int error = 0;
  writers.clear();
  for (int i = 0; i < 2000 && error == 0; ++i) {
    try {
      writers.push_back(co_await files.create(to("/tmp/file" + std::to_string(i))));
    } catch (const FileFailed& failure) {
      error = failure.error();
    }
  }
  REQUIRE((error == 0 || error == EMFILE));
  writers.clear();
  entries = co_await list_all(files, "/tmp");
  REQUIRE(entries.size() == 1);
}

// Between two looks at what may be on its way.
asio::awaitable<void> a_moment() {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(20));
  co_await timer.async_wait(asio::use_awaitable);
}

asio::awaitable<void> appending(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  const Outcome made = co_await exec_sh(*sandbox,
                                        "printf old > /tmp/file; chmod 640 /tmp/file; ln -s /tmp/file /tmp/link; "
                                        "mkfifo /tmp/fifo; ln -s /tmp/new /tmp/dangling; exec 3>>/tmp/file; stat -c %i /tmp/file");
  const auto to_end = [](std::string path) {
    FileWriteSpec spec = to(std::move(path));
    spec.append = true;
    return spec;
  };
  const std::string data = noise(3 << 20);
  {
    const std::unique_ptr<FileWriter> writer = co_await files.create(to_end("/tmp/link"));
    co_await put(*writer, "+first");
    // Without a commit; a runner far away may be on its way with it yet.
    std::string seen = co_await read_file(files, "/tmp/file");
    for (int tries = 0; tries < 1000 && seen == "old"; ++tries) {
      co_await a_moment();
      seen = co_await read_file(files, "/tmp/file");
    }
    REQUIRE(seen == "old+first");
    // Others write to the end, too.
    const Outcome other = co_await exec_sh(*sandbox, "printf +other >> /tmp/file");
    co_await put(*writer, "+second");
    co_await put(*writer, data);
    const Outcome same = co_await exec_sh(*sandbox, "stat -c %i /tmp/file");
    REQUIRE(same.out == made.out);  // the same file
    co_await writer->commit();
  }
  std::string all = co_await read_file(files, "/tmp/file");
  REQUIRE((all == "old+first+other+second" + data));
  {
    const std::unique_ptr<FileWriter> writer = co_await files.create(to_end("/tmp/given-up"));
    co_await put(*writer, "stays");
    for (int tries = 0; tries < 1000 && all != "stays"; ++tries) {
      co_await a_moment();
      all = co_await read_file(files, "/tmp/given-up");
    }
  }
  all = co_await read_file(files, "/tmp/given-up");
  REQUIRE(all == "stays");
  FileInfo info = co_await files.stat("/tmp/file", false);
  REQUIRE(info.mode == 0640);

  FileWriteSpec fresh = to_end("/tmp/deep/er/file");
  fresh.make_parents = true;
  fresh.mode = 0600;
  co_await write_file(files, fresh, "a");
  fresh.mode = 0777;  // only for a new one
  co_await write_file(files, fresh, "b");
  all = co_await read_file(files, "/tmp/deep/er/file");
  REQUIRE(all == "ab");
  info = co_await files.stat("/tmp/deep/er/file", false);
  REQUIRE(info.mode == 0600);
  co_await write_file(files, to_end("/tmp/dangling"), "c");
  all = co_await read_file(files, "/tmp/new");
  REQUIRE(all == "c");

  // Only what bytes can be put behind: nothing is opened that could mind.
  static const std::vector<std::pair<std::string, int>> refused = {{"/tmp", EISDIR},           {"/tmp/fifo", EINVAL},
                                                                   {"/dev/null", EINVAL},      {"/proc/self/comm", EINVAL},
                                                                   {"/tmp/none/file", ENOENT}, {"/etc/not-mine", EACCES}};
  for (const auto& [path, expected] : refused) {
    int error = co_await error_of(write_file(files, to_end(path), "x"));
    if (expected == EACCES && error == EROFS) error = EACCES;
    CAPTURE(path);
    REQUIRE(error == expected);
  }
}

asio::awaitable<std::vector<FileEvent>> next_events(FileWatch& watch) {
  std::vector<FileEvent> events;
  for (int i = 0; i < 60 && events.empty(); ++i)
    events = co_await watch.next(std::chrono::steady_clock::now() + std::chrono::seconds(1));
  co_return events;
}

// All events up to the one about `last`, but changes of attributes: a letter for what happened, and the names.
asio::awaitable<std::string> events_until(FileWatch& watch, std::string last) {
  std::string text;
  for (;;) {
    const std::vector<FileEvent> events = co_await next_events(watch);
    REQUIRE(!events.empty());
    for (const FileEvent& event : events) {
      if (event.name == last && event.kind != FileEvent::Kind::gone) co_return text;
      if (event.kind == FileEvent::Kind::attributes) continue;
      text += std::string(1, "cmCadrio!x"[static_cast<int>(event.kind)]) + " ";
      if (!event.old_name.empty()) text += event.old_name + ">";
      text += event.name + (event.directory ? "/\n" : "\n");
      if (event.kind == FileEvent::Kind::gone) co_return text;
    }
  }
}

asio::awaitable<void> watching(Runner& runner) {
  const auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  Outcome outcome = co_await exec_sh(*sandbox, "mkdir /tmp/a /tmp/b; echo x >/tmp/single; ln -s a /tmp/link");
  REQUIRE(outcome.exit.value == 0);
  int error = co_await error_of(files.watch("/tmp/missing"));
  REQUIRE(error == ENOENT);
  error = co_await error_of(files.watch("/proc/1/root"));
  REQUIRE(error != 0);
  const std::unique_ptr<FileWatch> directory = co_await files.watch("/tmp/link");
  const std::unique_ptr<FileWatch> single = co_await files.watch("/tmp/single");
  std::vector<FileEvent> events = co_await directory->next(std::chrono::steady_clock::now());
  REQUIRE(events.empty());
  outcome =
      co_await exec_sh(*sandbox,
                       "cd /tmp/a; echo x >f; mv f g; rm g; mkdir d; mv d ../b; mv ../b/d e; echo y >>../single; rm ../single; "
                       "touch \"$(printf 'b\\377d')\"; mkdir last");
  REQUIRE(outcome.exit.value == 0);
  std::string text = co_await events_until(*directory, "last");
  REQUIRE(text == "c f\nm f\nC f\nr f>g\nd g\nc d/\no d/\ni e/\nc b\377d\nC b\377d\n");
  text = co_await events_until(*single, "nothing");
  REQUIRE(text == "m \nC \n! \n");
  // A flood is told in full, or it is said that something is missing.
  outcome = co_await exec_sh(*sandbox, "cd /tmp/a; for i in $(seq 400); do : >f$i; done; mkdir end");
  REQUIRE(outcome.exit.value == 0);
  text = co_await events_until(*directory, "end");
  std::string wanted;
  for (int i = 1; i <= 400; ++i) wanted += "c f" + std::to_string(i) + "\nC f" + std::to_string(i) + "\n";
  REQUIRE(text == wanted);
  outcome = co_await exec_sh(*sandbox, "rm -r /tmp/a/* && rmdir /tmp/a");
  REQUIRE(outcome.exit.value == 0);
  text = co_await events_until(*directory, "nothing");
  REQUIRE(text.ends_with("! \n"));
  events = co_await directory->next(std::chrono::steady_clock::now());
  REQUIRE(events.empty());
}

asio::awaitable<void> after_the_end(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Files& files = sandbox->files();
  co_await write_file(files, to("/tmp/file"), "content");
  const std::unique_ptr<FileReader> reader = co_await files.open("/tmp/file");
  const std::unique_ptr<FileWriter> writer = co_await files.create(to("/tmp/other"));
  co_await sandbox->stop(std::chrono::milliseconds(0));
  std::string code = co_await code_of(read_file(files, "/tmp/file"));
  REQUIRE(code == "unavailable");
  code.clear();
  try {
    co_await writer->commit();
  } catch (const RunnerError& error) {
    code = base::to_string(error.code());
  }
  REQUIRE(code == "unavailable");
  sandbox.reset();
}

}  // namespace

const std::vector<RunnerCheck>& file_checks() {
  static const std::vector<RunnerCheck> checks = {
      {"the main command's output, also after the end", main_output},
      {"a main command that writes much", main_output_unread},
      {"initial files", initial_files},
      {"initial files that cannot be", initial_files_fail},
      {"any bytes, there and back", round_trip},
      {"a write is atomic", atomic_write},
      {"what is no regular file", what_is_no_file},
      {"bytes behind those that are there", appending},
      {"a file that may not be written is replaced by whoever may write its directory", replacing},
      {"the time that a file is given", given_times},
      {"files whose content is made while it is read", made_while_read},
      {"symlinks lead nowhere but inside", symlinks},
      {"a file that grows or shrinks", growing_and_shrinking},
      {"odd names and long paths", odd_paths},
      {"a directory of 3,000", large_directory},
      {"directories, renaming, removing", directories},
      {"removing a tree", recursive_remove},
      {"many files at once", many_at_once},
      {"files that are watched", watching},
      {"files after the end", after_the_end},
  };
  return checks;
}

}  // namespace cwsandbox::test
