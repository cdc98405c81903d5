// cwsandbox cp where something is not as it should be: files that say nothing true of their size, trees with an entry that cannot
// be copied, what is there already.
#include "cli_support.hpp"

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace support;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

std::uint32_t mode_of(const std::string& path) { return static_cast<std::uint32_t>(fs::status(path).permissions()) & 07777U; }
std::int64_t modified(const std::string& path) {
  struct stat status{};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mtim.tv_sec * std::int64_t{1'000'000'000} + status.st_mtim.tv_nsec;
}
void set_modified(const std::string& path, std::int64_t nanoseconds) {
  timespec times[2] = {};
  times[0].tv_nsec = UTIME_OMIT;
  times[1].tv_sec = static_cast<time_t>(nanoseconds / 1'000'000'000);
  times[1].tv_nsec = static_cast<long>(nanoseconds % 1'000'000'000);
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
}
constexpr std::int64_t kOld = 981'173'106'123'456'789;

}  // namespace

TEST_CASE("cp: what a file gives is what is copied, whatever its size is said to be", "[CL-1][FI-10]") {
  const Place place;
  // Of size 0, of a page's size, and of size 0 with more in it than fits into a single request.
  for (const std::string name :
       {"/proc/version", "/proc/filesystems", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/kallsyms"}) {
    const std::string content = read(name);
    if (content.empty()) continue;  // not on this machine
    INFO(name);
    const auto ran = place.cli({"cp", name, place.there("/tmp/copy")});
    CHECK(ran.err == "");
    CHECK(code(ran) == 0);
    CHECK((place.sandbox.read_file("/tmp/copy").result() == content));
  }
  const std::string version = place.sandbox.exec({"cat", "/proc/version"}).result().std_out.str();
  CHECK(code(place.cli({"cp", place.there("/proc/version"), place.here("version")})) == 0);
  CHECK(read(place.here("version")) == version);
  CHECK(place.cli({"cp", place.there("/proc/version"), "-"}).out == version);
  CHECK(code(place.cli({"cp", place.there("/proc/version"), place.there("/tmp/across")})) == 0);
  CHECK(place.sandbox.read_file("/tmp/across").result() == version);
  // Empty ones are that.
  write(place.here("empty"), "");
  CHECK(code(place.cli({"cp", place.here("empty"), place.there("/tmp/copy")})) == 0);
  CHECK(place.sandbox.stat_file("/tmp/copy").result().size == 0);
}

TEST_CASE("cp -r: one bad entry is named, the rest is copied, and the modes are right", "[CL-1][CL-2]") {
  const Place place;
  SECTION("out of a sandbox") {
    place.sandbox
        .exec(shell(
            "mkdir -p /tmp/d/in/shut /tmp/d/in/closed; cd /tmp/d/in; i=0; while [ $i -lt 100 ]; do echo $i > $i; i=$((i+1)); done;"
            "chmod 0 42; ln -s 42 link; ln -s loop loop; ln -s none dangling; ln -s . dir; mkfifo fifo; echo x > shut/x;"
            "chmod 0 closed; chmod 0550 shut; chmod 0555 . .."))
        .result();
    const auto ran = place.cli({"cp", "-r", "-o", "json", place.there("/tmp/d"), place.here("d")});
    CHECK(code(ran) == 125);
    const auto printed = json::parse(ran.out);
    CHECK(printed.at("files") == 100);  // 99, and shut/x
    CHECK(printed.at("skipped") == 7);
    for (const char* bad : {"/in/42", "/in/link", "/in/loop", "/in/dangling", "/in/dir", "/in/fifo", "/in/closed"})
      CHECK(ran.err.find(std::string("/tmp/d") + bad) != std::string::npos);
    CHECK(ran.err.find("EACCES") != std::string::npos);
    CHECK(ran.err.find("dangling: not copied: a symlink that leads to nothing") != std::string::npos);
    CHECK(ran.err.find("dir: not copied: a symlink to a directory") != std::string::npos);
    CHECK(read(place.here("d/in/99")) == "99\n");
    CHECK(read(place.here("d/in/shut/x")) == "x\n");
    const auto mask = ::umask(0);
    ::umask(mask);
    CHECK(mode_of(place.here("d")) == (0555U & ~mask));
    CHECK(mode_of(place.here("d/in")) == (0555U & ~mask));
    CHECK(mode_of(place.here("d/in/shut")) == (0550U & ~mask));
    CHECK(mode_of(place.here("d/in/closed")) == 0);
    for (const char* again : {"d", "d/in", "d/in/shut", "d/in/closed"}) ::chmod(place.here(again).c_str(), 0700);
  }
  SECTION("into a sandbox") {
    fs::create_directories(place.here("d/in"));
    for (int i = 0; i < 100; ++i) write(place.here("d/in/" + std::to_string(i)), std::to_string(i));
    // What even root cannot read, or follow.
    fs::create_symlink("/proc/self/mem", place.here("d/in/memory"));
    fs::create_symlink("loop", place.here("d/in/loop"));
    fs::create_symlink("none", place.here("d/in/dangling"));
    fs::create_symlink("/", place.here("d/in/root"));
    REQUIRE(::mkfifo(place.here("d/in/fifo").c_str(), 0600) == 0);
    // And what cannot be put there: a directory has the name of a file, a file that of a directory.
    fs::create_directories(place.here("d/in/sub"));
    place.sandbox.exec(shell("mkdir -p /tmp/d/in/42; echo x > /tmp/d/in/sub")).result();
    const auto ran = place.cli({"cp", "-r", "-o", "json", place.here("d"), place.there("/tmp")});
    CHECK(code(ran) == 125);
    const auto printed = json::parse(ran.out);
    CHECK(printed.at("files") == 99);
    CHECK(printed.at("skipped") == 7);
    for (const char* bad : {"/in/42", "/in/memory", "/in/loop", "/in/dangling", "/in/root", "/in/fifo", "/in/sub"})
      CHECK(ran.err.find(std::string("d") + bad) != std::string::npos);
    CHECK(ran.err.find("loop") != std::string::npos);
    CHECK(place.sandbox.read_file("/tmp/d/in/99").result() == "99");
  }
}

TEST_CASE("cp: copying twice, over what may not be written", "[CL-1][FI-11]") {
  const Place place;
  fs::create_directories(place.here("git/objects/00"));
  for (const char* name : {"git/a", "git/objects/b", "git/objects/00/c"}) {
    write(place.here(name), "one");
    ::chmod(place.here(name).c_str(), 0444);
  }
  for (const std::string content : {"one", "two"}) {
    for (const char* name : {"git/a", "git/objects/b", "git/objects/00/c"}) {
      fs::remove(place.here(name));
      write(place.here(name), content);
      ::chmod(place.here(name).c_str(), 0444);
    }
    const auto up = place.cli({"cp", "-r", place.here("git"), place.there("/tmp")});
    CHECK(up.err == "");
    CHECK(code(up) == 0);
    CHECK(place.sandbox.read_file("/tmp/git/objects/00/c").result() == content);
    CHECK(place.sandbox.stat_file("/tmp/git/objects/00/c").result().mode == 0444);
    const auto down = place.cli({"cp", "-r", place.there("/tmp/git"), place.here("back-" + content)});
    CHECK(code(down) == 0);
    const auto again = place.cli({"cp", "-r", place.there("/tmp/git/."), place.here("back-" + content)});
    CHECK(again.err == "");
    CHECK(code(again) == 0);
    CHECK(read(place.here("back-" + content + "/objects/00/c")) == content);
  }
}

TEST_CASE("cp --no-clobber leaves what is there", "[CL-1][CL-3]") {
  const Place place;
  fs::create_directories(place.here("d/e"));
  write(place.here("d/e/old"), "new");
  write(place.here("d/new"), "new");
  place.sandbox.exec(shell("mkdir -p /tmp/d/e; printf kept > /tmp/d/e/old; ln -s none /tmp/d/link; printf new > /tmp/d/e/there"))
      .result();
  const auto up = place.cli({"cp", "-r", "-n", place.here("d"), place.there("/tmp")});
  CHECK(up.err == "");
  CHECK(code(up) == 0);
  CHECK(place.sandbox.read_file("/tmp/d/e/old").result() == "kept");
  CHECK(place.sandbox.read_file("/tmp/d/new").result() == "new");
  CHECK(code(place.cli({"cp", "--no-clobber", place.here("d/new"), place.there("/tmp/d/e/old")})) == 0);
  CHECK(code(place.cli({"cp", "-n", place.there("/tmp/d/new"), place.there("/tmp/d/e/old")})) == 0);
  CHECK(code(place.cli({"cp", "-n", "-", place.there("/tmp/d/e/old")}, "stdin")) == 0);
  CHECK(code(place.cli({"cp", "-n", place.here("d/new"), place.there("/tmp/d/link")})) == 0);  // a dangling one is there, too
  CHECK(place.sandbox.read_file("/tmp/d/e/old").result() == "kept");
  CHECK(place.sandbox.list_files("/tmp/d").result().size() == 3);

  write(place.here("d/e/there"), "kept");
  CHECK(code(place.cli({"cp", "-rn", place.there("/tmp/d/e"), place.here("d")})) == 0);
  CHECK(read(place.here("d/e/there")) == "kept");
  CHECK(code(place.cli({"cp", "-n", place.there("/tmp/d/new"), place.here("d/e/there")})) == 0);
  CHECK(read(place.here("d/e/there")) == "kept");
}

TEST_CASE("cp -p keeps times, and permission bits whatever the umask", "[CL-1][CL-3][FI-12]") {
  const Place place;
  fs::create_directories(place.here("d/e"));
  write(place.here("d/e/f"), "content");
  ::chmod(place.here("d/e/f").c_str(), 0666);
  set_modified(place.here("d/e/f"), kOld);
  CHECK(code(place.cli({"cp", "-rp", place.here("d"), place.there("/tmp")})) == 0);
  const auto there = place.sandbox.stat_file("/tmp/d/e/f").result();
  REQUIRE(there.modified);
  CHECK(std::chrono::nanoseconds(there.modified->time_since_epoch()).count() == kOld);
  CHECK(there.mode == 0666);

  const auto across = place.cli({"cp", "--preserve", place.there("/tmp/d/e/f"), place.there("/tmp/across")});
  CHECK(code(across) == 0);
  CHECK(place.sandbox.stat_file("/tmp/across").result().modified == there.modified);

  place.sandbox.exec(shell("chmod 0777 /tmp/d/e; touch -d @1000000000 /tmp/d/e")).result();
  const auto down = place.shell("umask 077; \"$CLI\" cp -rp \"$ID:/tmp/d\" '" + place.here("back") + "'");
  CHECK(down.err == "");
  CHECK(code(down) == 0);
  CHECK(modified(place.here("back/e/f")) == kOld);
  CHECK(mode_of(place.here("back/e/f")) == 0666);
  CHECK(modified(place.here("back/e")) == 1'000'000'000 * std::int64_t{1'000'000'000});
  CHECK(mode_of(place.here("back/e")) == 0777);
  // Without, a copy is new, and gets what the umask leaves of the bits.
  CHECK(code(place.shell("umask 077; \"$CLI\" cp \"$ID:/tmp/d/e/f\" '" + place.here("plain") + "'")) == 0);
  CHECK(modified(place.here("plain")) != kOld);
  CHECK(mode_of(place.here("plain")) == 0600);
  CHECK(code(place.cli({"cp", "-p", "-", place.there("/tmp/x")})) == 125);
}

TEST_CASE("cp: what is wrong with a path is said of that path", "[CL-1]") {
  const Place place;
  write(place.here("f"), "x");
  fs::create_directories(place.here("d"));
  fs::create_directory_symlink("d", place.here("link"));
  place.sandbox.exec(shell("mkdir /tmp/d; ln -s d /tmp/link; echo x > /tmp/f")).result();
  const std::string lengthy(300, 'n');
  const auto up = place.cli({"cp", place.here("f"), place.there("/tmp/" + lengthy)});
  CHECK(code(up) == 125);
  CHECK(up.err.find("ENAMETOOLONG") != std::string::npos);
  CHECK(up.err.find("/.'") == std::string::npos);
  const auto down = place.cli({"cp", place.there("/tmp/f"), place.here(lengthy)});
  CHECK(code(down) == 125);
  CHECK(down.err.find("File name too long") != std::string::npos);
  for (const auto& directory : {place.here("link"), place.there("/tmp/link"), place.there("/tmp/d")}) {
    const auto to = directory.find(':') == std::string::npos ? place.there("/tmp/x") : place.here("x");
    const auto ran = place.cli({"cp", directory, to});
    CHECK(code(ran) == 125);
    CHECK(ran.err.find("is a directory: -r") != std::string::npos);
  }
  for (const char* none : {"/tmp/none/", "/tmp/f/"}) {
    const auto ran = place.cli({"cp", place.here("f"), place.there(none)});
    CHECK(code(ran) == 125);
    CHECK(ran.err.find("ENOTDIR") != std::string::npos);
  }
}
