#include "runner/local/agent_connection.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace cwsandbox::runner::local {

namespace asio = boost::asio;
using agent::Note;
using agent::Type;

AgentConnection::AgentConnection(const asio::any_io_executor& executor, UniqueFd socket) : socket_(executor, socket.release()) {
  const int fd = socket_.native_handle();
  ::fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
}

void AgentConnection::open(NoteHandler on_note, LostHandler on_lost) {
  on_note_ = std::move(on_note);
  on_lost_ = std::move(on_lost);
  wait_readable();
}

void AgentConnection::close() noexcept {
  closed_ = true;
  queued_.clear();
  boost::system::error_code ignored;
  socket_.close(ignored);
}

void AgentConnection::lose(std::string_view why) {
  if (closed_) return;
  close();
  on_lost_(why);
}

bool AgentConnection::send(std::string_view frame) {
  if (closed_) return true;
  if (queued_.empty()) {
    while (!frame.empty()) {
      const ssize_t n = ::send(socket_.native_handle(), frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) break;  // full; any other error is met again by the reader, which is always waiting
      frame.remove_prefix(static_cast<std::size_t>(n));
    }
    if (frame.empty()) return true;
  }
  if (frame.size() > kMaxQueued - queued_.size()) return false;
  queued_.append(frame);
  wait_writable();
  return true;
}

void AgentConnection::wait_writable() {
  if (writing_ || closed_) return;
  writing_ = true;
  socket_.async_wait(asio::posix::stream_descriptor::wait_write, [self = shared_from_this()](const boost::system::error_code& ec) {
    self->writing_ = false;
    if (ec || self->closed_) return;
    while (!self->queued_.empty()) {
      const ssize_t n =
          ::send(self->socket_.native_handle(), self->queued_.data(), self->queued_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return self->wait_writable();
      if (n < 0) return self->queued_.clear();  // the reader tells
      self->queued_.erase(0, static_cast<std::size_t>(n));
    }
    self->queued_.shrink_to_fit();
  });
}

void AgentConnection::wait_readable() {
  if (closed_) return;
  socket_.async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](const boost::system::error_code& ec) {
    if (ec || self->closed_) return;
    self->on_readable();
    self->wait_readable();
  });
}

void AgentConnection::receive_descriptors(msghdr& message) {
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET) continue;
    if (header->cmsg_type == SCM_CREDENTIALS && header->cmsg_len >= CMSG_LEN(sizeof(ucred))) {
      ucred credentials{};
      std::memcpy(&credentials, CMSG_DATA(header), sizeof credentials);
      if (peer_ == 0 && credentials.pid > 0) peer_ = credentials.pid;
    } else if (header->cmsg_type == SCM_RIGHTS) {
      const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
        UniqueFd owned(fd);
        if (descriptor_count_ < descriptors_.size()) {
          descriptors_[descriptor_count_++] = std::move(owned);
        } else {
          too_many_ = true;
        }
      }
    }
  }
  // There is room for all that may come: when not even that many have, this process had no number left for the others.
  if ((message.msg_flags & MSG_CTRUNC) != 0) (descriptor_count_ == descriptors_.size() ? too_many_ : missing_) = true;
}

void AgentConnection::on_readable() {
  iovec part{in_.data() + in_used_, in_.size() - in_used_};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * agent::kMaxDescriptors) + CMSG_SPACE(sizeof(ucred))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = ::recvmsg(socket_.native_handle(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0 && errno != ECONNRESET) return lose(std::strerror(errno));
  if (n <= 0) return lose("the agent ended");
  receive_descriptors(message);
  if (too_many_) return lose("the agent sent more descriptors than it may");
  in_used_ += static_cast<std::size_t>(n);
  if (!take_notes()) return lose("the agent broke the protocol");
  if (peer_ != 0 && passing_credentials_ && !closed_) {
    passing_credentials_ = false;
    // Known once and for all: spares the kernel from saying it with every note.
    const int off = 0;
    ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_PASSCRED, &off, sizeof off);
  }
}

bool AgentConnection::take_notes() {
  std::string_view bytes(in_.data(), in_used_);
  agent::Frame frame;
  for (;;) {
    const agent::Parse parse = agent::take_frame(bytes, agent::kNoteFrame, frame);
    if (parse == agent::Parse::violation) return false;
    if (parse == agent::Parse::incomplete) break;
    const auto type = static_cast<Type>(frame.type);
    Note note;
    if (type != Type::hello && type != Type::started && type != Type::start_failed && type != Type::exited &&
        type != Type::file_done && type != Type::group_gone) {
      return false;
    }
    if (!agent::read_note(frame.payload, note)) return false;
    std::size_t carried = 0;
    if (type == Type::started || type == Type::file_done) {
      carried = note.detail;
      // The kernel ends a read behind the bytes that carry descriptors, so what has come belongs to this note, all of it; or, when
      // this one announces none, to a note behind it in the same read.
      if (carried != 0 && (missing_ ? carried < descriptor_count_ : carried != descriptor_count_)) return false;
    }
    const std::span<UniqueFd> given = std::span(descriptors_).first(std::min(carried, descriptor_count_));
    on_note_(type, note, given);
    for (UniqueFd& fd : given) fd.reset();
    if (carried > 0) {
      descriptor_count_ = 0;
      missing_ = false;
    }
    if (closed_) return true;
  }
  // A frame is never longer than a note, so what is left is the beginning of one, and there is always room to read on.
  if (bytes.empty() && (descriptor_count_ > 0 || missing_)) return false;
  std::memmove(in_.data(), bytes.data(), bytes.size());
  in_used_ = bytes.size();
  return true;
}

}  // namespace cwsandbox::runner::local
