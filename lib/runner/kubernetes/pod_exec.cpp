#include "runner/kubernetes/pod_exec.hpp"

#include "base/numbers.hpp"
#include "base/text.hpp"
#include "protocol/json_shape.hpp"
#include "protocol/json_util.hpp"

#include <boost/asio/async_result.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace cwsandbox::runner::kubernetes {

namespace {

constexpr const char* kV5 = "v5.channel.k8s.io";
constexpr const char* kOffer = "v5.channel.k8s.io, v4.channel.k8s.io";
// The server sends pieces of 32 KiB; this leaves room for others.
constexpr std::size_t kMaxIncoming = std::size_t{4} * 1024 * 1024;
// Two pings in this time; a peer that answers none has gone.
constexpr std::chrono::seconds kSilence{60};
constexpr std::size_t kMaxErrors = 4 * 1024;
constexpr std::size_t kMaxText = 500;

std::string text_member(const Json& object, const char* name) {
  const Json* value = object.is_object() ? protocol::json_util::find(object, name) : nullptr;
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

std::optional<int> exit_code(const Json& status) {
  const Json* details = protocol::json_util::find(status, "details");
  const Json* causes = details != nullptr && details->is_object() ? protocol::json_util::find(*details, "causes") : nullptr;
  if (causes == nullptr || !causes->is_array()) return std::nullopt;
  for (const Json& cause : *causes) {
    if (text_member(cause, "reason") != "ExitCode") continue;
    if (const auto code = base::parse_number<int>(text_member(cause, "message"))) return code;
  }
  return std::nullopt;
}

const char* flag(bool value) { return value ? "true" : "false"; }

}  // namespace

ExecStatus parse_exec_status(std::string_view json) {
  ExecStatus out;
  const bool deep = protocol::nests_deeper(json, protocol::json_util::kMaxDepth);
  const Json status = deep ? Json() : Json::parse(json, nullptr, false);
  if (!status.is_object()) {
    while (!json.empty() && json.back() == '\n') json.remove_suffix(1);
    out.message = base::printable(json, kMaxText);
    return out;
  }
  out.reason = base::printable(text_member(status, "reason"), kMaxText);
  out.message = base::printable(text_member(status, "message"), kMaxText);
  if (text_member(status, "status") == "Success") {
    out.kind = ExecStatus::Kind::success;
    out.code = 0;
  } else if (const auto code = exit_code(status)) {
    out.kind = ExecStatus::Kind::exited;
    out.code = *code;
  }
  return out;
}

asio::awaitable<std::unique_ptr<PodExec>> PodExec::open(std::shared_ptr<ApiClient> client, ExecRequest request) {
  Query query;
  if (!request.container.empty()) query.emplace_back("container", request.container);
  query.emplace_back("stdin", flag(request.std_in));
  query.emplace_back("stdout", flag(request.std_out));
  query.emplace_back("stderr", flag(request.std_err && !request.tty));  // one stream with a terminal; both is an error
  query.emplace_back("tty", flag(request.tty));
  for (const auto& word : request.command) query.emplace_back("command", word);
  std::string target = with_query(resource_path("v1", request.name_space, "pods", request.pod, "exec"), query);
  net::WebSocket::Limits limits;
  limits.max_message = kMaxIncoming;
  limits.idle_timeout = kSilence;
  std::string offer = kOffer;
  auto socket = co_await client->upgrade(std::move(target), std::move(offer), limits);
  co_return std::make_unique<PodExec>(std::move(socket));
}

PodExec::PodExec(std::unique_ptr<net::WebSocket> socket) : socket_(std::move(socket)), protocol_(socket_->subprotocol()) {}
PodExec::~PodExec() = default;

bool PodExec::half_closes() const noexcept { return protocol_ == kV5; }

asio::awaitable<std::optional<PodExec::Message>> PodExec::read() {
  std::optional<Message> out;
  for (;;) {
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    auto initiate = [this](auto handler) { socket_->async_read(message_, net::IoHandler(std::move(handler))); };
    co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
    if (ec) {
      // Closed by a close frame: 1000, or none at all.
      const auto code = socket_->close_code();
      if (code == 1000 || code == 1005) co_return out;
      throw boost::system::system_error(
          ec, code == 0 ? "the connection of pods/exec" : "pods/exec was closed with " + std::to_string(code));
    }
    // The server opens with an empty message, on whatever channel is its first.
    if (message_.empty() || message_.payload().empty()) continue;
    out.emplace();
    out->channel = message_.channel();
    out->payload = message_.payload();
    co_return out;
  }
}

asio::awaitable<void> PodExec::send(std::string_view head, std::string_view body) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  auto initiate = [this, head, body](auto handler) { socket_->async_write(head, body, net::IoHandler(std::move(handler))); };
  co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
  if (ec) throw boost::system::system_error(ec, "the connection of pods/exec");
}

asio::awaitable<void> PodExec::write(std::string_view head, std::string_view body) {
  // The server does not put fragments together: what is too large for one message goes in several.
  while (!head.empty() || !body.empty()) {
    head_.assign(1, static_cast<char>(std_in));
    const auto front = head.substr(0, kMaxMessage - 1);
    head_ += front;
    head.remove_prefix(front.size());
    // The head goes first, all of it.
    const auto piece = head.empty() ? body.substr(0, kMaxMessage - head_.size()) : std::string_view();
    co_await send(head_, piece);
    body.remove_prefix(piece.size());
  }
}

asio::awaitable<void> PodExec::close_stdin() {
  if (!half_closes()) {
    throw RunnerError(ErrorCode::unimplemented, "CWSANDBOX_NOT_IMPLEMENTED",
                      "the cluster speaks " + protocol_ +
                          ", with which a program's input cannot be closed while its output is read (v5.channel.k8s.io can)");
  }
  head_.assign({static_cast<char>(close_channel), static_cast<char>(std_in)});
  co_await send(head_, {});
}

asio::awaitable<void> PodExec::resize(std::uint16_t width, std::uint16_t height) {
  head_.assign(1, static_cast<char>(terminal_size));
  head_ += "{\"Width\":" + std::to_string(width) + ",\"Height\":" + std::to_string(height) + "}";
  co_await send(head_, {});
}

void PodExec::abort() noexcept { socket_->abort(); }

asio::awaitable<std::string_view> ExecLink::read() {
  while (!ended_) {
    const auto message = co_await exec_->read();
    if (!message) break;
    if (message->channel == PodExec::std_out) co_return message->payload;
    if (message->channel == PodExec::std_err) {
      errors_ += message->payload;
      if (errors_.size() > kMaxErrors) errors_.erase(0, errors_.size() - kMaxErrors);
    } else if (message->channel == PodExec::status) {
      status_ = parse_exec_status(message->payload);
      break;
    }
  }
  ended_ = true;
  co_return std::string_view();
}

asio::awaitable<void> ExecLink::write(std::string_view head, std::string_view body) { return exec_->write(head, body); }

std::string ExecLink::why() const {
  std::string out;
  if (status_ && status_->kind == ExecStatus::Kind::success) {
    out = "it has ended";
  } else if (status_ && status_->kind == ExecStatus::Kind::exited) {
    out = "it has ended with exit code " + std::to_string(status_->code);
  } else if (status_) {
    out = status_->message.empty() ? status_->reason : status_->message;
  }
  auto last = std::string_view(errors_);
  while (!last.empty() && (last.back() == '\n' || last.back() == '\r')) last.remove_suffix(1);
  if (const auto newline = last.rfind('\n'); newline != std::string_view::npos) last.remove_prefix(newline + 1);
  if (!last.empty()) out += (out.empty() ? "" : ": ") + base::printable(last, kMaxText);
  return out;
}

}  // namespace cwsandbox::runner::kubernetes
