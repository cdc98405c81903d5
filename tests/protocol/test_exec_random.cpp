// Both machines joined by a wire that exists in memory only: random chunks, interleavings, slow readers, lost connections.
// The seed is fixed and printed on failure; nothing here looks at a clock.
#include "protocol/exec_stream.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <deque>
#include <optional>
#include <random>
#include <string>

using namespace cwsandbox::protocol;

namespace {

struct WireMessage {
  std::string bytes;
};

/// One process: a server that produces two outputs and takes stdin, a client that reads at its own pace.
class Driver {
 public:
  struct Options {
    bool losses = false;
    bool hold_ends = false;
    bool closes_stdin = false;  // at some point the process reads no more
    std::size_t total = 0;      // bytes per stream, at most
    std::uint64_t window = 0;   // of the outputs
    unsigned slow = 1;          // the reader acts once in this many turns
  };

  Driver(std::uint32_t seed, const Options& options) : random_(seed), options_(options) {
    StartRequest request;
    request.id = "6f1c6f1e-0c6e-4c4b-9d0e-2b7b3a1f0c55";
    request.sandbox_id = "sb";
    request.command = {"x"};
    request.use_stdin = true;
    request.stdout_limit = request.stderr_limit = options.window;
    for (auto* bytes : {&stdin_bytes_, &stdout_bytes_, &stderr_bytes_}) *bytes = random_bytes(random_() % (options.total + 1));
    client_.emplace(request);
  }

  void run() {
    // Generous, so that only a standstill ends here and not a slow run.
    const std::size_t max_turns = 200'000 + 200 * (stdin_bytes_.size() + stdout_bytes_.size() + stderr_bytes_.size());
    for (std::size_t turn = 0; turn < max_turns && !done(); ++turn) step();
    REQUIRE(done());
    if (stdin_closed_) {
      CHECK(got_stdin_ == stdin_bytes_.substr(0, got_stdin_.size()));
    } else {
      CHECK(got_stdin_ == stdin_bytes_);
      CHECK(stdin_ended_);
    }
    CHECK(client_->stdin_taken() == taken_);
    CHECK(got_stdout_ == stdout_bytes_);
    CHECK(got_stderr_ == stderr_bytes_);
    CHECK(starts_ == 1);
    CHECK(signals_taken_ == signals_asked_);
    client_write_completes();
    server_write_completes();
    CHECK(client_->idle());
    CHECK(server_->idle());
  }

  [[nodiscard]] std::size_t losses() const { return lost_; }

 private:
  [[nodiscard]] bool done() const { return released_; }

  std::string random_bytes(std::size_t n) {
    std::string out(n, '\0');
    for (auto& c : out) c = static_cast<char>(random_());
    return out;
  }

  std::size_t below(std::size_t n) { return random_() % n; }

  void step() {
    switch (below(options_.losses ? 14 : 13)) {
      case 0:
        client_sends();
        break;
      case 1:
        server_sends();
        break;
      case 2:
        client_write_completes();
        break;
      case 3:
        server_write_completes();
        break;
      case 4:
      case 5:
        to_server();
        break;
      case 6:
      case 7:
        to_client();
        break;
      case 8:
        produce();
        break;
      case 9:
        write_stdin();
        break;
      case 10:
        process_reads();
        break;
      case 11:
        if (below(options_.slow) == 0) application_reads();
        break;
      case 12:
        ask();
        break;
      default:
        if (below(options_.total == 0 ? 4 : 8) == 0) lose();
        break;
    }
    check_bounds();
  }

  // ---- the wire ----

  void client_sends() {
    if (client_writing_) return;
    if (const auto out = client_->next_message()) {
      client_message_ = *out;
      client_writing_ = true;
      // The bytes may arrive before the write completes, and the views must hold until it has.
      to_server_.push_back({std::string(out->head) + std::string(out->body)});
      client_copy_ = to_server_.back().bytes;
    }
  }

  void client_write_completes() {
    if (!client_writing_) return;
    CHECK(std::string(client_message_.head) + std::string(client_message_.body) == client_copy_);
    client_->on_sent();
    client_writing_ = false;
  }

  void server_sends() {
    if (!server_ || !attached_ || server_writing_) return;
    if (const auto out = server_->next_message()) {
      server_message_ = *out;
      server_writing_ = true;
      to_client_.push_back({std::string(out->head) + std::string(out->body)});
      server_copy_ = to_client_.back().bytes;
    }
  }

  void server_write_completes() {
    if (!server_writing_) return;
    CHECK(std::string(server_message_.head) + std::string(server_message_.body) == server_copy_);
    server_->on_sent();
    server_writing_ = false;
  }

  void lose() {
    // What was under way is gone; the writes that were in flight complete with an error, at once or later.
    ++lost_;
    to_server_.clear();
    to_client_.clear();
    attached_ = false;
    if (below(2) == 0) client_write_completes();
    if (below(2) == 0) server_write_completes();
    client_->on_reconnected();
  }

  // ---- the server's owner ----

  void to_server() {
    if (to_server_.empty()) return;
    const std::string bytes = std::move(to_server_.front().bytes);
    to_server_.pop_front();
    const auto channel = static_cast<std::uint8_t>(bytes[0]);
    const std::string_view payload = std::string_view(bytes).substr(1);
    if (!attached_) {
      const FirstMessage first = parse_first_message(channel, payload);
      if (const auto* start = std::get_if<StartRequest>(&first)) {
        if (!server_) {
          server_.emplace(*start, 65'536);
          server_->hold_ends(options_.hold_ends);
          ++starts_;
        } else {
          REQUIRE(!server_->on_reconnected(0, 0, false));
        }
      } else if (const auto* resume = std::get_if<ResumeRequest>(&first)) {
        REQUIRE(server_);
        const auto error = server_->on_reconnected(*resume);
        if (error) FAIL(error->message);
      } else {
        FAIL(std::get<ProtocolError>(first).reason);
      }
      attached_ = true;
      return;
    }
    const ServerEvent event = server_->on_message(channel, payload);
    if (const auto* error = std::get_if<ProtocolError>(&event)) FAIL(error->reason);
    if (const auto* data = std::get_if<Data>(&event)) {
      got_stdin_ += data->bytes;
      pipe_ += data->bytes.size();
    }
    if (std::holds_alternative<EndOfStream>(event)) {
      CHECK(!stdin_ended_);
      stdin_ended_ = true;
    }
    if (std::holds_alternative<SignalRequest>(event)) ++signals_taken_;
    if (std::holds_alternative<Released>(event)) released_ = true;
  }

  void process_reads() {
    if (!server_ || stdin_closed_) return;
    if (options_.closes_stdin && process_started_ && below(40) == 0) {
      server_->on_stdin_closed();
      stdin_closed_ = true;
      pipe_ = 0;
      return;
    }
    // It has arrived some time after it has gone on.
    taken_ += below(static_cast<std::size_t>(forwarded_ - taken_) + 1);
    server_->on_stdin_taken(taken_);
    if (pipe_ == 0) return;
    const std::size_t n = 1 + below(pipe_);
    server_->on_stdin_consumed(n);
    pipe_ -= n;
    forwarded_ += n;
  }

  void produce() {
    if (!server_ || exited_) return;
    if (!process_started_) {
      server_->on_started(7);
      process_started_ = true;
      return;
    }
    const auto write = [&](Channel stream, const std::string& bytes, std::size_t& at) {
      OutboundStream& out = server_->outbound(stream);
      if (out.finished()) return;
      if (at == bytes.size()) {
        out.finish();
        return;
      }
      const auto n = static_cast<std::size_t>(std::min<std::uint64_t>({1 + below(100'000), bytes.size() - at, out.room()}));
      if (below(2) == 0) {
        out.push(bytes.substr(at, n));
      } else {
        out.push_copy(std::string_view(bytes).substr(at, n));
      }
      at += n;
    };
    if (below(2) == 0) {
      write(Channel::std_out, stdout_bytes_, stdout_at_);
    } else {
      write(Channel::std_err, stderr_bytes_, stderr_at_);
    }
    // The process ends when it has read all that it wants and said all.
    const bool read = stdin_closed_ || (stdin_ended_ && pipe_ == 0 && taken_ == forwarded_);
    if (server_->outbound(Channel::std_out).finished() && server_->outbound(Channel::std_err).finished() && read &&
        signals_taken_ == signals_asked_) {
      ExitStatus status;
      status.code = 3;
      server_->on_exited(status);
      exited_ = true;
    }
  }

  // ---- the client's owner ----

  void to_client() {
    if (to_client_.empty()) return;
    const std::string bytes = std::move(to_client_.front().bytes);
    to_client_.pop_front();
    const ClientEvent event = client_->on_message(static_cast<std::uint8_t>(bytes[0]), std::string_view(bytes).substr(1));
    if (const auto* error = std::get_if<ProtocolError>(&event)) FAIL(error->reason);
    if (const auto* refused = std::get_if<Refused>(&event)) FAIL(refused->error.message);
    if (const auto* data = std::get_if<Data>(&event)) {
      CHECK(!saw_exit_);
      (data->stream == Channel::std_out ? got_stdout_ : got_stderr_) += data->bytes;
      (data->stream == Channel::std_out ? unread_stdout_ : unread_stderr_) += data->bytes.size();
    }
    if (const auto* exit = std::get_if<Exited>(&event)) {
      CHECK(!saw_exit_);
      CHECK(exit->status.code == 3);
      CHECK(got_stdout_ == stdout_bytes_);
      CHECK(got_stderr_ == stderr_bytes_);
      saw_exit_ = true;
      client_->release();
    }
  }

  void application_reads() {
    const auto read = [&](Channel stream, std::size_t& unread) {
      if (unread == 0) return;
      const std::size_t n = 1 + below(unread);
      client_->on_consumed(stream, n);
      unread -= n;
    };
    read(Channel::std_out, unread_stdout_);
    read(Channel::std_err, unread_stderr_);
  }

  void write_stdin() {
    OutboundStream& out = client_->std_in();
    if (out.finished()) return;
    if (stdin_at_ == stdin_bytes_.size()) {
      out.finish();
      return;
    }
    const auto n =
        static_cast<std::size_t>(std::min<std::uint64_t>({1 + below(100'000), stdin_bytes_.size() - stdin_at_, out.room()}));
    out.push(stdin_bytes_.substr(stdin_at_, n));
    stdin_at_ += n;
  }

  void ask() {
    switch (below(200)) {
      case 0: {
        // Two signals of one kind may become one; a different kind each time may not.
        if (saw_exit_ || exited_ || signals_asked_ >= 30) return;
        client_->request_signal(std::to_string(signals_asked_ + 1));
        ++signals_asked_;
        break;
      }
      case 1:
        client_->request_resize(80, 24);
        break;
      case 2:
        client_->request_flush();
        break;
      default:
        break;
    }
  }

  void check_bounds() {
    // P2: a sender holds no more than the window, and one chunk of which a part is acknowledged.
    if (server_) {
      if (server_->outbound(Channel::std_out).buffered() > options_.window + 100'000) FAIL("stdout holds too much");
      if (server_->outbound(Channel::std_err).buffered() > options_.window + 100'000) FAIL("stderr holds too much");
    }
    if (client_->stdin_taken() > taken_) FAIL("taken before it was");
    if (client_->stdin_closed() && !stdin_closed_) FAIL("closed before it was");
    if (client_->std_in().buffered() > 65'536 + 100'000) FAIL("stdin holds too much");
    if (unread_stdout_ > options_.window || unread_stderr_ > options_.window || pipe_ > 65'536) FAIL("a receiver holds too much");
  }

  std::mt19937 random_;
  Options options_;
  std::optional<ExecClientStream> client_;
  std::optional<ExecServerStream> server_;
  std::deque<WireMessage> to_server_, to_client_;
  OutMessage client_message_, server_message_;
  std::string client_copy_, server_copy_;
  std::string stdin_bytes_, stdout_bytes_, stderr_bytes_, got_stdin_, got_stdout_, got_stderr_;
  std::size_t stdin_at_ = 0, stdout_at_ = 0, stderr_at_ = 0, pipe_ = 0, unread_stdout_ = 0, unread_stderr_ = 0;
  std::uint64_t taken_ = 0, forwarded_ = 0;
  std::size_t lost_ = 0;
  int starts_ = 0, signals_asked_ = 0, signals_taken_ = 0;
  bool attached_ = false, client_writing_ = false, server_writing_ = false, process_started_ = false, exited_ = false;
  bool stdin_ended_ = false, stdin_closed_ = false, saw_exit_ = false, released_ = false;
};

void drive(const Driver::Options& options, std::uint32_t first_seed, int runs) {
  std::size_t losses = 0;
  for (int i = 0; i < runs; ++i) {
    const auto seed = first_seed + static_cast<std::uint32_t>(i);
    INFO("seed " << seed);
    Driver driver(seed, options);
    driver.run();
    losses += driver.losses();
  }
  if (options.losses) CHECK(losses >= static_cast<std::size_t>(runs));
}

/// Feeds bytes to a machine until it complains; it may do so once, and stays bounded.
template <class Machine>
bool feed(Machine& machine, std::mt19937& random, const std::deque<std::string>& valid) {
  bool broken = false;
  for (int i = 0; i < 60; ++i) {
    std::string bytes = valid[random() % valid.size()];
    switch (random() % 4) {
      case 0:
        break;
      case 1:
        for (int k = 0; k < 2; ++k) bytes[random() % bytes.size()] = static_cast<char>(random());
        break;
      case 2:
        bytes.resize(1 + random() % bytes.size());
        break;
      default:
        bytes.resize(1 + random() % 40);
        for (auto& c : bytes) c = static_cast<char>(random());
        bytes[0] = static_cast<char>(random() % 10);
        break;
    }
    const auto event = machine.on_message(static_cast<std::uint8_t>(bytes[0]), std::string_view(bytes).substr(1));
    const auto* error = std::get_if<ProtocolError>(&event);
    if (broken) CHECK(std::holds_alternative<Nothing>(event));
    if (error) {
      CHECK(!broken);
      CHECK(!error->reason.empty());
      CHECK(error->reason.size() <= 123);
      CHECK(std::all_of(error->reason.begin(), error->reason.end(), [](char c) { return c >= ' ' && c <= '~'; }));
      broken = true;
    }
    if (random() % 2 == 0) {
      if (machine.next_message()) {
        CHECK(!broken);
        if (random() % 4 != 0) machine.on_sent();
      }
    }
    if (random() % 8 == 0) machine.on_sent();
  }
  return broken;
}

StartRequest request() {
  StartRequest start;
  start.id = "a";
  start.command = {"x"};
  start.use_stdin = true;
  return start;
}

}  // namespace

TEST_CASE("bytes arrive as they were sent, whatever the interleaving", "[exec-stream][P1][P2][P4][P5]") {
  drive({false, false, false, 300'000, 65'536, 1}, 1000, 40);
  drive({false, true, false, 300'000, 1'000, 3}, 2000, 20);
  drive({false, true, false, 2'000'000, 1'048'576, 20}, 3000, 6);
}

TEST_CASE("tiny windows", "[exec-stream][P1][P2]") {
  drive({false, false, false, 300, 1, 1}, 4000, 30);
  drive({false, true, false, 300, 2, 5}, 5000, 30);
}

TEST_CASE("a stdin that is closed half way is told to the byte, whatever the interleaving", "[exec-stream][SW-18][SW-19]") {
  drive({false, false, true, 300'000, 65'536, 1}, 9000, 40);
  drive({false, true, true, 300'000, 1'000, 3}, 9100, 20);
  drive({true, false, true, 200'000, 65'536, 1}, 9200, 60);
  drive({true, true, true, 200'000, 10'000, 5}, 9300, 40);
}

TEST_CASE("lost connections lose nothing, repeat nothing and start nothing twice", "[exec-stream][P1][P6][P7]") {
  drive({true, false, false, 200'000, 65'536, 1}, 6000, 60);
  drive({true, true, false, 200'000, 10'000, 5}, 7000, 40);
  drive({true, false, false, 0, 65'536, 1}, 8000, 100);
}

TEST_CASE("random and mutated messages: progress or one fault, and nothing grows", "[exec-stream][P10]") {
  std::mt19937 random(99);
  const std::deque<std::string> to_server = {std::string("\0stdin bytes", 12),
                                             std::string("\xff\0", 2),
                                             "\x06{\"type\":\"window\",\"stdout\":{\"received\":3,\"limit\":1000}}",
                                             "\x06{\"type\":\"window\",\"stderr\":{\"received\":0,\"limit\":70}}",
                                             "\x06{\"type\":\"window\",\"flush\":12}",
                                             "\x06{\"type\":\"window\",\"release\":true}",
                                             "\x07{\"type\":\"signal\",\"signal\":\"SIGINT\",\"seq\":1}",
                                             "\x07{\"type\":\"cancel\",\"graceMs\":5}",
                                             "\x04{\"type\":\"resize\",\"width\":80,\"height\":24}"};
  const std::deque<std::string> to_client = {
      "\x01stdout bytes",
      "\x02stderr bytes",
      std::string("\x03{\"type\":\"started\",\"id\":\"a\",\"pid\":7,\"window\":{\"stdin\":9}}"),
      "\x03{\"type\":\"exit\",\"outcome\":\"exited\",\"code\":0,\"stdout\":12,\"stderr\":0}",
      "\x03{\"type\":\"ended\",\"outcome\":\"signaled\",\"signal\":\"SIGINT\"}",
      "\x03{\"type\":\"error\",\"code\":\"not_found\",\"metadata\":{\"a\":\"b\"},\"retryDelayMs\":5}",
      "\x06{\"type\":\"window\",\"stdin\":{\"received\":3,\"limit\":1000}}",
      "\x08{\"type\":\"resumed\",\"stdin\":{\"received\":1,\"limit\":100}}",
      "\xff\x01",
      "\xff\x02"};
  int broken = 0;
  for (int i = 0; i < 3000; ++i) {
    ExecServerStream server(request());
    if (random() % 4 != 0) server.on_started(7);
    server.outbound(Channel::std_out).push("some output that nobody acknowledged yet");
    ExitStatus status;
    status.code = 0;
    if (random() % 4 == 0) server.on_exited(status);
    broken += feed(server, random, to_server) ? 1 : 0;
    CHECK(server.outbound(Channel::std_out).buffered() <= 40);

    ExecClientStream client(request());
    client.std_in().push("some input that nobody acknowledged yet");
    if (random() % 4 == 0) client.on_reconnected();
    broken += feed(client, random, to_client) ? 1 : 0;
    CHECK(client.std_in().buffered() <= 40);

    const auto& valid = random() % 2 == 0 ? to_server : to_client;
    const std::string bytes = valid[random() % valid.size()];
    const auto first = parse_first_message(static_cast<std::uint8_t>(random() % 2 == 0 ? 5 : 8), std::string_view(bytes).substr(1));
    CHECK(std::holds_alternative<ProtocolError>(first));
  }
  CHECK(broken > 3000);
}
