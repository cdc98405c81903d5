#include "runner/remote/wire.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/system/system_error.hpp>

#include <algorithm>
#include <exception>
#include <utility>

namespace cwsandbox::runner::remote {

namespace {

// What is being written when a link is closed with a last word may take so long, and the word as long. So may the other end's, when
// nothing can be written to it any more.
constexpr std::chrono::seconds kLastWord{2};

}  // namespace

// ---- Wire ----

Wire::Wire(asio::any_io_executor executor, std::unique_ptr<Link> link, std::chrono::milliseconds hello_deadline,
           std::chrono::milliseconds keep_alive)
    : executor_(std::move(executor)),
      link_(std::move(link)),
      timer_(executor_),
      hello_deadline_(hello_deadline),
      keep_alive_(std::max(keep_alive, std::chrono::milliseconds(1))) {}

void Wire::start(const std::shared_ptr<Peer>& peer) {
  peer_ = peer;
  begin_ = heard_ = Clock::now();
  reading_ = true;
  asio::co_spawn(executor_, read_all(shared_from_this()), asio::detached);
  watch(begin_ + hello_deadline_);
  wake();
}

asio::awaitable<void> Wire::read_all(std::shared_ptr<Wire> self) {
  std::string why;
  bool violated = false;
  try {
    while (!self->closed_) {
      const std::string_view bytes = co_await self->link_->read();
      if (self->closed_) break;
      if (bytes.empty()) {
        why = self->link_->why();
        if (why.empty()) why = "the link ended";
        break;
      }
      self->heard_ = Clock::now();
      self->asked_ = false;
      self->take(bytes);
    }
  } catch (const Violation& e) {
    why = e.what();
    violated = true;
  } catch (const boost::system::system_error& e) {
    why = e.code().message();
  } catch (const std::exception& e) {
    why = e.what();
  }
  self->reading_ = false;
  self->close(std::move(why), violated);
  self->settle();
}

void Wire::take(std::string_view bytes) {
  frames_.feed(bytes);
  while (!closed_) {
    const std::optional<Frame> frame = frames_.next();
    if (!frame) return;
    if (last_) continue;  // nothing that comes now matters
    const auto peer = peer_.lock();
    if (!peer) return close("nobody is there", false);
    if (frame->stream != kTunnelStream || frame->channel != kControlChannel) {
      peer->on_frame(*this, *frame);
      continue;
    }
    Control control = decode_control(frame->payload);
    if (control.type == Control::Type::ping) {
      pong_due_ = true;
      wake();
    } else if (control.type != Control::Type::pong) {
      peer->on_control(*this, std::move(control));
    }
  }
}

void Wire::wake() {
  if (writing_ || closed_ || broken_) return;
  writing_ = true;
  write_begun_ = Clock::now();
  asio::co_spawn(executor_, write_all(shared_from_this()), asio::detached);
}

asio::awaitable<void> Wire::write_all(std::shared_ptr<Wire> self) {
  std::string why;
  char header[kFrameHeader];
  while (!self->closed_) {
    const std::shared_ptr<Peer> peer = self->peer_.lock();
    OutFrame frame;
    bool ours = true;
    if (self->last_) {
      self->own_ = *self->last_;
    } else if (std::exchange(self->pong_due_, false)) {
      Control pong;
      pong.type = Control::Type::pong;
      self->own_ = encode_control(pong);
    } else if (std::exchange(self->ping_due_, false)) {
      self->own_ = encode_control(Control());
    } else {
      ours = false;
      std::optional<OutFrame> next;
      if (peer) next = peer->next_frame(*self);
      if (!next) break;
      frame = *next;
    }
    if (ours) frame.message.head = self->own_;
    // A message without a body is one piece behind the first eight bytes, a data message one behind the channel, too.
    write_frame_header(header, frame.message.head.size() + frame.message.body.size(), frame.stream);
    std::string_view head(header, kFrameHeader - 1);
    std::string_view body = frame.message.head;
    std::string long_head;
    if (!frame.message.body.empty()) {
      if (frame.message.head.size() == 1) {
        header[kFrameHeader - 1] = frame.message.head.front();
        head = std::string_view(header, kFrameHeader);
      } else {
        long_head.append(head).append(frame.message.head);
        head = long_head;
      }
      body = frame.message.body;
    }
    self->write_begun_ = Clock::now();
    try {
      co_await self->link_->write(head, body);
    } catch (const boost::system::system_error& e) {
      why = e.code().message();
    } catch (const std::exception& e) {
      why = e.what();
    }
    if (!ours && peer) peer->on_frame_sent(*self);
    if (ours && self->last_) {
      self->closed_ = true;
      self->end_link();
      break;
    }
    if (!why.empty()) break;
  }
  self->writing_ = false;
  if (!why.empty()) self->on_broken(why);
  self->settle();
}

// What the other end has said before it closed is still there to be read, and may tell why it did.
void Wire::on_broken(const std::string& why) {
  if (closed_) return;
  if (!reading_ || last_) return close(why, false);
  broken_ = true;
  watch(Clock::now() + kLastWord);
}

void Wire::end_link() noexcept {
  if (established_) {
    link_->close();
  } else {
    link_->refuse(why_);
  }
}

void Wire::close(std::string why) { close(std::move(why), false); }

void Wire::close(std::string why, bool violated) {
  if (closed_) return;
  closed_ = true;
  if (!last_) {
    why_ = std::move(why);
    violated_ = violated;
  }
  timer_.cancel();
  end_link();
  if (reading_ || writing_) return;  // they find it out
  reading_ = true;
  // Not from inside whoever closes it.
  asio::post(executor_, [self = shared_from_this()] {
    self->reading_ = false;
    self->settle();
  });
}

void Wire::close_with(const Control& last, std::string why) {
  if (closed_ || last_) return;
  if (broken_) return close(std::move(why), false);
  last_ = encode_control(last);
  why_ = std::move(why);
  watch(Clock::now() + kLastWord);
  wake();
}

void Wire::watch(Clock::time_point when) {
  timer_.expires_at(when);
  timer_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (self && !ec && !self->closed_) self->look();
  });
}

void Wire::look() {
  const auto now = Clock::now();
  if (last_) return close({}, false);
  if (broken_) return close("the link broke", false);
  if (!established_) {
    if (now >= begin_ + hello_deadline_) return close("no answer to hello in time", false);
    return watch(begin_ + hello_deadline_);
  }
  if (writing_ && now >= write_begun_ + 2 * keep_alive_) return close("the other end does not read", false);
  const auto due = heard_ + keep_alive_;
  if (now < due) return watch(due);
  if (asked_) return close("the other end is silent", false);
  asked_ = ping_due_ = true;
  heard_ = now;  // counted anew from the question
  wake();
  watch(now + keep_alive_);
}

void Wire::settle() {
  if (!closed_ || reading_ || writing_ || std::exchange(gone_, true)) return;
  timer_.cancel();
  link_.reset();
  if (const auto peer = peer_.lock()) peer->on_gone(*this, why_, violated_);
}

// ---- Outbox ----

void Outbox::add(const std::shared_ptr<Sender>& sender) {
  switch (sender->queue_) {
    case Queue::urgent:
      return;
    case Queue::bulk:
      urgent_.splice(urgent_.end(), bulk_, sender->at_);
      break;
    case Queue::none:
      sender->at_ = urgent_.insert(urgent_.end(), sender);
      break;
  }
  sender->queue_ = Queue::urgent;
}

std::optional<OutFrame> Outbox::next() {
  for (;;) {
    const bool from_bulk = !bulk_.empty() && (bulk_next_ || urgent_.empty());
    auto& from = from_bulk ? bulk_ : urgent_;
    if (from.empty()) return std::nullopt;
    const std::shared_ptr<Sender> sender = from.front();
    const auto message = sender->next_message();
    if (!message) {
      from.erase(sender->at_);
      sender->queue_ = Queue::none;
      continue;
    }
    const bool data = !message->body.empty();
    auto& to = data ? bulk_ : urgent_;
    to.splice(to.end(), from, sender->at_);
    sender->queue_ = data ? Queue::bulk : Queue::urgent;
    bulk_next_ = data && !from_bulk;
    in_flight_ = sender;
    return OutFrame{sender->stream(), *message};
  }
}

void Outbox::on_sent() {
  if (const auto sender = std::move(in_flight_)) {
    in_flight_.reset();
    sender->on_sent();
  }
}

void Outbox::clear() noexcept {
  for (auto* queue : {&urgent_, &bulk_}) {
    for (const auto& sender : *queue) sender->queue_ = Queue::none;
    queue->clear();
  }
  bulk_next_ = false;
}

}  // namespace cwsandbox::runner::remote
