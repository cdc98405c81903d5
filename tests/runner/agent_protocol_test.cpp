// The codec that both ends share, and the runner's end of the socket, against whatever may come.
#include <boost/asio/io_context.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "harness.hpp"
#include "runner/local/agent_connection.hpp"
#include "runner/local/agent_protocol.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

using namespace runner::local;
using agent::Note;
using agent::Type;

namespace {

std::string frame_of(Type type, const Note& note) {
  char frame[agent::kNoteFrame];
  agent::write_note(frame, type, note);
  return {frame, sizeof frame};
}

std::string start_payload(std::uint32_t argc, std::uint32_t envc, std::string strings, std::uint8_t flags = 0) {
  std::string payload(agent::kStartHead, '\0');
  payload[8] = static_cast<char>(flags);
  std::memcpy(&payload[13], &argc, 4);
  std::memcpy(&payload[17], &envc, 4);
  return payload + strings;
}

using std::string_literals::operator""s;

// A connection, the other end in the test's hand, and what it reported.
struct Wire {
  asio::io_context loop;
  UniqueFd peer;
  std::shared_ptr<AgentConnection> connection;
  std::vector<Type> notes;
  std::size_t descriptors = 0;
  int lost = 0;

  Wire() {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    peer.reset(ends[1]);
    connection = std::make_shared<AgentConnection>(loop.get_executor(), UniqueFd(ends[0]));
    connection->open(
        [this](Type type, const Note&, std::span<UniqueFd> fds) {
          notes.push_back(type);
          descriptors += fds.size();
        },
        [this](std::string_view) { ++lost; });
  }
  void say(std::string_view bytes, const std::vector<int>& fds = {}) {
    iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    std::vector<char> control(CMSG_SPACE(sizeof(int) * fds.size()));
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
    }
    REQUIRE(::sendmsg(peer.get(), &message, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
  }
  void until_lost() {
    run_until(loop, [this] { return lost > 0; });
    run_until(loop, [this] { return loop.stopped(); });
  }
};

}  // namespace

TEST_CASE("a start is read with all its bounds checked", "[runner][agent]") {
  agent::Start start;
  const std::string good = start_payload(2, 1, "/tmp\0echo\0hi\0A=b\0"s);
  REQUIRE(agent::read_start(good, start));
  CHECK(start.argc == 2);
  CHECK(start.envc == 1);
  CHECK(std::strcmp(start.strings.data(), "/tmp") == 0);
  for (std::size_t n = 0; n < good.size(); ++n) CHECK_FALSE(agent::read_start(std::string_view(good).substr(0, n), start));
  CHECK_FALSE(agent::read_start(good + "x", start));
  CHECK_FALSE(agent::read_start(good + "x\0"s, start));
  CHECK_FALSE(agent::read_start(start_payload(0, 1, "/tmp\0A=b\0"s), start));
  CHECK_FALSE(agent::read_start(start_payload(0xffffffffu, 0xffffffffu, "/tmp\0a\0"s), start));
  CHECK_FALSE(agent::read_start(start_payload(1, 0, "/tmp\0a\0"s, 0x80), start));
}

TEST_CASE("a file operation is read with all its bounds checked", "[runner][agent][files]") {
  const auto payload = [](std::uint8_t op, std::uint8_t flags, std::uint32_t mode, const std::string& strings) {
    std::string head(agent::kFileHead, '\0');
    head[0] = 7;
    head[8] = static_cast<char>(op);
    head[9] = static_cast<char>(flags);
    std::memcpy(&head[10], &mode, 4);
    return head + strings;
  };
  agent::FileRequest request;
  const std::string good = payload(6, agent::kParents, 0750, "/work\0from\0\xff to\0"s);
  REQUIRE(agent::read_file(good, request));
  CHECK(request.seq == 7);
  CHECK(request.op == agent::FileOp::rename);
  CHECK(request.flags == agent::kParents);
  CHECK(request.mode == 0750);
  CHECK(std::strcmp(request.cwd, "/work") == 0);
  CHECK(std::strcmp(request.path, "from") == 0);
  CHECK(std::strcmp(request.second, "\xff to") == 0);
  for (std::size_t n = 0; n < good.size(); ++n) CHECK_FALSE(agent::read_file(std::string_view(good).substr(0, n), request));
  CHECK_FALSE(agent::read_file(good + "x", request));
  CHECK_FALSE(agent::read_file(good + "x\0"s, request));
  CHECK_FALSE(agent::read_file(payload(agent::kFileOps, 0, 0, "/\0a\0\0"s), request));
  CHECK_FALSE(agent::read_file(payload(255, 0, 0, "/\0a\0\0"s), request));
  CHECK_FALSE(agent::read_file(payload(0, 0x80, 0, "/\0a\0\0"s), request));
  CHECK_FALSE(agent::read_file(payload(0, 0, 010000, "/\0a\0\0"s), request));
  CHECK_FALSE(agent::read_file(payload(0, 0, 0, "/\0a\0"s), request));
  CHECK(agent::read_file(payload(0, 0, 0, "\0\0\0"s), request));

  // Whatever comes, what is taken lies inside of it.
  std::mt19937 random(23);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = good;
    for (auto n = random() % 6; n > 0; --n) bytes[random() % bytes.size()] = static_cast<char>(random() % 3 == 0 ? 0 : random());
    bytes.resize(bytes.size() - random() % 4);
    const std::string exact(bytes);  // of its own size, for the sanitizer
    if (!agent::read_file(exact, request)) continue;
    const char* end = exact.data() + exact.size();
    REQUIRE(request.cwd == exact.data() + agent::kFileHead);
    REQUIRE((request.cwd < request.path && request.path < request.second));
    REQUIRE(request.second + std::strlen(request.second) + 1 == end);
    REQUIRE(static_cast<std::uint8_t>(request.op) < agent::kFileOps);
  }
}

TEST_CASE("frames are taken whole or not at all", "[runner][agent]") {
  Note note;
  note.seq = 0x0102030405060708u;
  note.pid = 77;
  note.value = -5;
  note.detail = 3;
  const std::string whole = frame_of(Type::exited, note);
  agent::Frame frame;
  for (std::size_t n = 0; n < whole.size(); ++n) {
    std::string_view part = std::string_view(whole).substr(0, n);
    CHECK(agent::take_frame(part, agent::kNoteFrame, frame) == agent::Parse::incomplete);
    CHECK(part.size() == n);
  }
  std::string_view all = whole;
  REQUIRE(agent::take_frame(all, agent::kNoteFrame, frame) == agent::Parse::frame);
  CHECK(all.empty());
  Note read;
  REQUIRE(agent::read_note(frame.payload, read));
  CHECK((read.seq == note.seq && read.pid == 77 && read.value == -5 && read.detail == 3));
  for (const std::uint32_t length : {0u, 19u, 0x7fffffffu, 0xffffffffu}) {
    std::string bad = whole;
    std::memcpy(bad.data(), &length, 4);
    std::string_view bytes = bad;
    CHECK(agent::take_frame(bytes, agent::kNoteFrame, frame) == agent::Parse::violation);
  }
}

TEST_CASE("notes arrive whole, however they are split, with their descriptors", "[runner][agent]") {
  Wire wire;
  Note note;
  const std::string hello = frame_of(Type::hello, note);
  for (const char c : hello) {
    wire.say(std::string_view(&c, 1));
    wire.loop.poll();
  }
  note.detail = 2;
  wire.say(frame_of(Type::started, note), {0, 1});
  note.detail = 0;
  wire.say(frame_of(Type::exited, note) + frame_of(Type::start_failed, note));
  note.detail = 3;
  wire.say(frame_of(Type::started, note), {0, 1, 2});
  note.detail = 1;
  wire.say(frame_of(Type::file_done, note), {0});
  note.detail = 0;
  wire.say(frame_of(Type::file_done, note));
  run_until(wire.loop, [&] { return wire.notes.size() == 7; });
  CHECK((wire.notes == std::vector<Type>{Type::hello, Type::started, Type::exited, Type::start_failed, Type::started,
                                         Type::file_done, Type::file_done}));
  CHECK(wire.descriptors == 6);
  CHECK(wire.connection->peer() == ::getpid());
  wire.peer.reset();
  wire.until_lost();
  CHECK(wire.lost == 1);
}

TEST_CASE("whatever an agent sends, the connection is lost once and nothing leaks", "[runner][agent]") {
  Note note;
  const auto with_detail = [](std::uint8_t detail) {
    Note made;
    made.detail = detail;
    return made;
  };
  struct Case {
    std::string bytes;
    std::vector<int> fds;
  };
  const std::vector<Case> cases = {
      {std::string(4096, '\0'), {}},
      {std::string(4096, '\xff'), {}},
      {frame_of(Type::start, note), {}},
      {frame_of(static_cast<Type>(0), note), {}},
      {"\x01\0\0\0A"s, {}},                               // hello without a note
      {frame_of(Type::started, with_detail(2)), {}},      // descriptors that are not there
      {frame_of(Type::started, with_detail(1)), {0, 1}},  // more than was said
      {frame_of(Type::started, with_detail(255)), {0}},
      {frame_of(Type::hello, note), {0}},  // where there may be none
      {frame_of(Type::file_done, with_detail(1)), {}},
      {frame_of(Type::file_done, with_detail(0)), {0}},
      {frame_of(Type::file_done, with_detail(1)), {0, 1}},
      {frame_of(Type::file, note), {}},
      {frame_of(Type::commit, note), {}},
      {frame_of(Type::started, with_detail(3)), {0, 1, 2, 0, 1, 2, 0}},
      {frame_of(Type::exited, note).substr(0, 9), std::vector<int>(100, 0)},
  };
  for (const Case& one : cases) {
    Wire wire;
    wire.say(one.bytes, one.fds);
    wire.until_lost();
    CHECK(wire.lost == 1);
    CHECK(wire.descriptors == 0);
  }
  std::mt19937 random(11);
  for (int i = 0; i < 300; ++i) {
    Wire wire;
    std::string bytes;
    for (int n = 0; n < 40; ++n) {
      Note some;
      some.seq = random();
      some.detail = static_cast<std::uint8_t>(random() % 4);
      std::string one = frame_of(static_cast<Type>(random() % 8 == 0 ? random() % 256 : 65 + random() % 5), some);
      if (random() % 6 == 0) one[random() % one.size()] = static_cast<char>(random());
      bytes += one;
    }
    wire.say(bytes, std::vector<int>(random() % 4, 0));
    wire.peer.reset();
    wire.until_lost();
    CHECK(wire.lost == 1);
  }
}

TEST_CASE("requests to an agent that does not read are bounded, and all arrive when it does", "[runner][agent]") {
  Wire wire;
  const std::string block(1 << 20, 'x');
  std::size_t accepted = 0;
  while (accepted < 100 && wire.connection->send(block)) ++accepted;
  CHECK(accepted >= 32);
  CHECK(accepted < 40);
  std::size_t received = 0;
  std::string buffer(1 << 20, '\0');
  const auto deadline = std::chrono::steady_clock::now() + kHang;
  while (received < accepted * block.size() && std::chrono::steady_clock::now() < deadline) {
    const ssize_t n = ::recv(wire.peer.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n > 0) received += static_cast<std::size_t>(n);
    wire.loop.poll();
  }
  CHECK(received == accepted * block.size());
  wire.connection->close();
  run_until(wire.loop, [&] { return wire.loop.stopped(); });
  CHECK(wire.lost == 0);
  CHECK(wire.connection->send("x"));
}

}  // namespace cwsandbox::test
