#include "runner/kubernetes/watcher.hpp"

#include "protocol/json_shape.hpp"
#include "protocol/json_util.hpp"
#include "runner/kubernetes/backoff.hpp"
#include "runner/kubernetes/watch_lines.hpp"

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <unordered_map>
#include <unordered_set>

namespace cwsandbox::runner::kubernetes {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kReadSize = 64 * 1024;
constexpr std::size_t kMaxDepth = 200;
// Objects told of in one turn, after which others run.
constexpr std::size_t kTurn = 64;

const std::string& text_of(const Json& object, const char* name) {
  static const std::string none;
  const Json* value = object.is_object() ? protocol::json_util::find(object, name) : nullptr;
  return value != nullptr && value->is_string() ? value->get_ref<const std::string&>() : none;
}

struct Known {
  std::string uid, version;
};

// The server no longer has the version that was asked for.
bool expired(const ApiError& e) {
  return e.status() == 410 || e.kubernetes_reason() == "Expired" || e.kubernetes_reason() == "Gone";
}

}  // namespace

struct Watcher::State : std::enable_shared_from_this<State> {
  State(std::shared_ptr<ApiClient> c, WatcherOptions o, WatchHandlers h)
      : client(std::move(c)),
        options(std::move(o)),
        handlers(std::move(h)),
        timer(client->executor()),
        backoff(options.retry_base, options.retry_max) {}

  const std::shared_ptr<ApiClient> client;
  const WatcherOptions options;
  const WatchHandlers handlers;
  asio::steady_timer timer;
  Backoff backoff;
  asio::cancellation_signal cancel;  // of the coroutine
  bool stopped = false;

  std::unordered_map<std::string, Known> known;  // by "namespace/name"
  std::string version;                           // of the collection; empty: list

  void stop() noexcept {
    stopped = true;
    try {
      // co_spawn (Boost 1.81) forwards a cancellation through the executor with a pointer into the signal: the signal is emitted
      // on the executor, and stays until what that has queued is through. The coroutine may have ended by then.
      asio::post(client->executor(), [self = shared_from_this()] {
        self->cancel.emit(asio::cancellation_type::terminal);
        asio::post(self->client->executor(), [self] {});
      });
    } catch (...) {
      // No memory for the news: the coroutine ends when it next comes around.
    }
  }

  static std::string key_of(const Json& metadata) { return text_of(metadata, "namespace") + "/" + text_of(metadata, "name"); }

  void tell(WatchEvent event, Json&& object) const {
    if (!stopped && handlers.on_object) handlers.on_object(event, std::move(object));
  }
  void tell_gone(const std::string& key, const Known& what) const {
    const auto slash = key.find('/');
    Json object = Json::object();
    object["metadata"] = {{"namespace", key.substr(0, slash)}, {"name", key.substr(slash + 1)}, {"uid", what.uid}};
    tell(WatchEvent::deleted, std::move(object));
  }

  // An object of a list: told as far as it is news.
  void listed(Json&& object, std::unordered_set<std::string>& seen) {
    if (!object.is_object() || !object.contains("metadata") || !object["metadata"].is_object()) return;
    const Json& metadata = object["metadata"];
    auto key = key_of(metadata);
    const Known now{text_of(metadata, "uid"), text_of(metadata, "resourceVersion")};
    seen.insert(key);
    const auto it = known.find(key);
    if (it != known.end() && it->second.uid == now.uid) {
      if (it->second.version == now.version) return;
      it->second = now;
      tell(WatchEvent::modified, std::move(object));
      return;
    }
    if (it != known.end()) {
      const Known before = it->second;
      known.erase(it);
      tell_gone(key, before);
    }
    known.emplace(std::move(key), now);
    tell(WatchEvent::added, std::move(object));
  }

  [[nodiscard]] Query selectors() const {
    Query out;
    if (!options.label_selector.empty()) out.emplace_back("labelSelector", options.label_selector);
    if (!options.field_selector.empty()) out.emplace_back("fieldSelector", options.field_selector);
    return out;
  }

  static asio::awaitable<void> list(std::shared_ptr<State> self) {
    std::unordered_set<std::string> seen;
    std::string next, version;
    do {
      Query query = self->selectors();
      query.emplace_back("limit", std::to_string(self->options.page_size));
      if (!next.empty()) query.emplace_back("continue", next);
      std::string target = with_query(self->options.collection, query);
      Json page = co_await self->client->get(std::move(target));
      if (self->stopped) co_return;
      if (!page.is_object() || !page.contains("items") || !page["items"].is_array()) {
        throw ApiError(ErrorCode::unavailable, 200, "", std::nullopt,
                       "GET " + self->options.collection + ": the answer is no list");
      }
      const Json metadata = page.value("metadata", Json::object());
      next = text_of(metadata, "continue");
      version = text_of(metadata, "resourceVersion");
      std::size_t turn = 0;
      for (Json& object : page["items"]) {
        self->listed(std::move(object), seen);
        if (self->stopped) co_return;
        if (++turn % kTurn == 0) co_await asio::post(self->client->executor(), asio::use_awaitable);
        if (self->stopped) co_return;
      }
    } while (!next.empty());
    if (version.empty())
      throw ApiError(ErrorCode::unavailable, 200, "", std::nullopt,
                     "GET " + self->options.collection + ": the list has no resourceVersion");
    // Only a whole list tells what has gone.
    std::vector<std::pair<std::string, Known>> gone;
    for (const auto& [key, what] : self->known)
      if (seen.count(key) == 0) gone.emplace_back(key, what);
    for (const auto& [key, what] : gone) {
      self->known.erase(key);
      self->tell_gone(key, what);
    }
    self->version = std::move(version);
    if (!self->stopped && self->handlers.on_synced) self->handlers.on_synced();
  }

  // One line of a watch. Throws ApiError for what the server says went wrong, and for what is no event.
  void take(std::string_view line) {
    const std::string what = "watching " + options.collection;
    Json event = protocol::nests_deeper(line, kMaxDepth) ? Json() : Json::parse(line, nullptr, false);
    const std::string type = text_of(event, "type");
    if (type.empty() || !event.contains("object") || !event["object"].is_object())
      throw ApiError(ErrorCode::unavailable, 200, "", std::nullopt, what + ": a line that is no event");
    Json& object = event["object"];
    if (type == "ERROR") throw make_api_error(object, what);
    const Json* metadata = protocol::json_util::find(object, "metadata");
    const auto now = metadata == nullptr ? std::string() : text_of(*metadata, "resourceVersion");
    if (now.empty()) throw ApiError(ErrorCode::unavailable, 200, "", std::nullopt, what + ": an event without a resourceVersion");
    version = now;
    backoff.reset();  // it is getting on
    if (type == "BOOKMARK") return;
    auto key = key_of(*metadata);
    Known is{text_of(*metadata, "uid"), now};
    if (type == "DELETED") {
      known.erase(key);
      tell(WatchEvent::deleted, std::move(object));
    } else if (type == "ADDED" || type == "MODIFIED") {
      known.insert_or_assign(std::move(key), std::move(is));
      tell(type == "ADDED" ? WatchEvent::added : WatchEvent::modified, std::move(object));
    }
  }

  // Until the server ends it. Throws ApiError, TransportError.
  static asio::awaitable<void> watch(std::shared_ptr<State> self) {
    Query query = self->selectors();
    query.emplace_back("watch", "true");
    query.emplace_back("allowWatchBookmarks", "true");
    query.emplace_back("resourceVersion", self->version);
    query.emplace_back("timeoutSeconds", std::to_string(self->options.timeout.count()));
    std::string target = with_query(self->options.collection, query);
    const auto exchange = co_await self->client->stream(std::move(target), self->options.timeout + self->options.slack);
    WatchLines lines(self->options.max_line);
    std::string chunk(kReadSize, '\0');
    for (;;) {
      const std::size_t n = co_await exchange->read(asio::buffer(chunk));
      if (self->stopped) co_return;
      if (n == 0) break;
      lines.put(std::string_view(chunk).substr(0, n));
      std::size_t turn = 0;
      while (const auto line = lines.next()) {
        self->take(*line);
        if (self->stopped) co_return;
        if (++turn % kTurn == 0) co_await asio::post(self->client->executor(), asio::use_awaitable);
        if (self->stopped) co_return;
      }
      if (lines.too_long()) {
        throw ApiError(ErrorCode::unavailable, 200, "", std::nullopt,
                       "watching " + self->options.collection + ": an event of more than " +
                           std::to_string(self->options.max_line) + " bytes");
      }
    }
    // The server ends its watches between lines.
    if (!lines.empty())
      throw ApiError(ErrorCode::unavailable, 200, "", std::nullopt,
                     "watching " + self->options.collection + ": it was cut within an event");
  }

  static asio::awaitable<void> run(std::shared_ptr<State> self) {
    co_await asio::post(self->client->executor(), asio::use_awaitable);  // no handler is called from inside the constructor
    while (!self->stopped) {
      std::exception_ptr failure;
      bool soon = false;
      const auto began = Clock::now();
      try {
        if (self->version.empty()) co_await list(self);
        if (!self->stopped) co_await watch(self);
        soon = true;
      } catch (const ApiError& e) {
        failure = std::current_exception();
        if (expired(e)) {
          // What has changed meanwhile shows in the difference to a new list.
          soon = !self->version.empty();
          self->version.clear();
        }
      } catch (...) {
        failure = std::current_exception();
      }
      if (self->stopped) co_return;
      if (failure && !soon && self->handlers.on_error) self->handlers.on_error(failure);
      if (self->stopped) co_return;
      if (soon && Clock::now() - began > self->options.retry_max) self->backoff.reset();
      // A watch that ends, or expires, at once each time must not turn into a storm: also that is waited for, a little.
      boost::system::error_code ec;
      auto token = asio::redirect_error(asio::use_awaitable, ec);
      self->timer.expires_after(self->backoff.next());
      co_await self->timer.async_wait(token);
    }
  }
};

Watcher::Watcher(std::shared_ptr<ApiClient> client, WatcherOptions options, WatchHandlers handlers)
    : state_(std::make_shared<State>(std::move(client), std::move(options), std::move(handlers))) {
  asio::co_spawn(state_->client->executor(), State::run(state_),
                 asio::bind_cancellation_slot(state_->cancel.slot(), asio::detached));
}
Watcher::~Watcher() { state_->stop(); }

}  // namespace cwsandbox::runner::kubernetes
