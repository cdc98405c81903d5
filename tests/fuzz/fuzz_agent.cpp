// The messages between the runner and its agent, either end against a hostile peer: what the agent takes apart, and the runner's
// end over a socket, with descriptors that come where they should and where they should not.
#include "runner/local/agent_connection.hpp"
#include "runner/local/agent_protocol.hpp"

#include <boost/asio/io_context.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "script.hpp"

using namespace cwsandbox::runner::local;

namespace {

// As the agent reads: frame after frame from one buffer, every payload by the rules of its type.
void as_agent(std::string_view all) {
  std::string_view bytes = all;
  agent::Frame frame;
  while (agent::take_frame(bytes, agent::kMaxRequest, frame) == agent::Parse::frame) {
    FUZZ_CHECK(frame.payload.data() >= all.data() && frame.payload.data() + frame.payload.size() <= all.data() + all.size());
    const char* const end = frame.payload.data() + frame.payload.size();
    agent::Start start;
    agent::FileRequest file;
    agent::Note note;
    if (agent::read_start(frame.payload, start)) {
      // The agent walks over the strings as the kernel does; the walk must end with the payload.
      const char* at = start.strings.data();
      for (std::uint64_t left = 1ull + start.argc + start.envc; left > 0; --left) at += std::strlen(at) + 1;
      FUZZ_CHECK(at == end);
    }
    if (agent::read_file(frame.payload, file)) FUZZ_CHECK(file.second + std::strlen(file.second) + 1 == end);
    if (agent::read_note(frame.payload, note)) {
      char again[agent::kNoteFrame];
      agent::write_note(again, static_cast<agent::Type>(frame.type), note);
      FUZZ_CHECK(std::memcmp(again + agent::kFrameHead, frame.payload.data(), frame.payload.size()) == 0);
    }
  }
}

int open_descriptors() {
  // One that is made now has the lowest free number: with no leak it is the same in every run.
  const int probe = ::dup(0);
  FUZZ_CHECK(probe >= 0);
  ::close(probe);
  return probe;
}

bool say(int to, std::string_view bytes, std::size_t descriptors) {
  if (bytes.empty()) return true;
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 8)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptors > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors);
    const std::vector<int> fds(descriptors, 0);
    std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * descriptors);
  }
  return ::sendmsg(to, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(bytes.size());
}

// The runner's end: every message of the script is one write of the agent, with so many descriptors.
void as_runner(Script& script) {
  static boost::asio::io_context loop(1);
  loop.restart();
  loop.poll();
  const int before = open_descriptors();
  int lost = 0;
  std::uint64_t notes = 0;
  {
    int ends[2];
    FUZZ_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    UniqueFd peer(ends[1]);
    auto connection = std::make_shared<AgentConnection>(loop.get_executor(), UniqueFd(ends[0]));
    connection->open(
        [&](agent::Type type, const agent::Note& note, std::span<UniqueFd> fds) {
          FUZZ_CHECK(lost == 0);
          ++notes;
          const bool carries = type == agent::Type::started || type == agent::Type::file_done;
          FUZZ_CHECK(fds.size() == (carries ? note.detail : 0U));
          for (UniqueFd& fd : fds) FUZZ_CHECK(::fcntl(fd.get(), F_GETFD) == FD_CLOEXEC);
          if (notes % 3 == 0 && !fds.empty()) UniqueFd taken(std::move(fds[0]));
        },
        [&](std::string_view why) {
          FUZZ_CHECK(!why.empty());
          ++lost;
        });
    while (!script.empty() && lost == 0) {
      const std::uint8_t how = script.byte();
      std::string bytes;
      if ((how & 1) != 0) {  // a well-formed note, so that what lies behind the framing is reached
        agent::Note note;
        note.seq = script.byte();
        note.pid = script.byte();
        note.value = script.byte();
        note.detail = script.byte() % 5;
        char frame[agent::kNoteFrame];
        agent::write_note(frame, static_cast<agent::Type>(65 + script.byte() % 6), note);
        bytes.assign(frame, sizeof frame);
        if ((how & 2) != 0) bytes.resize(1 + script.byte() % bytes.size());
      } else {
        bytes = std::string(script.bytes(1 + script.byte()));
      }
      if (!say(peer.get(), bytes, (how >> 2) % 8)) break;
      loop.restart();
      loop.poll();
    }
    peer.reset();
    loop.restart();
    loop.poll();
    FUZZ_CHECK(lost == 1);
    connection->close();
  }
  loop.restart();
  loop.poll();
  FUZZ_CHECK(open_descriptors() == before);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script(data, size);
  if (script.byte() % 2 == 0) {
    as_agent(script.rest());
  } else {
    as_runner(script);
  }
  return 0;
}
