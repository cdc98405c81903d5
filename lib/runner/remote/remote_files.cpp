// The files of a sandbox, by calls. Reads run ahead of a reader that reads on, writes behind a writer.
#include <algorithm>
#include <cstring>
#include <utility>

#include "runner/remote/tunnel.hpp"

namespace cwsandbox::runner::remote {

namespace {

// Calls under way for one file: what keeps a link of some hundred milliseconds busy, in half a mebibyte.
constexpr std::size_t kAhead = 8;

void close_handle(Tunnel& tunnel, std::uint64_t handle) {
  Request request;
  request.op = Op::close;
  request.handle = handle;
  tunnel.ask(std::move(request));
}

// What the other end has open for us. Closed there when nobody uses it here any more.
class Handle {
 public:
  Handle(std::shared_ptr<Tunnel> tunnel, std::uint64_t number) : tunnel_(std::move(tunnel)), number_(number) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (number_ != 0) close_handle(*tunnel_, number_);
  }
  [[nodiscard]] std::shared_ptr<Call> ask(Request request, std::string tail = {}, std::size_t most = 0) {
    request.handle = number_;
    return tunnel_->ask(std::move(request), std::move(tail), most);
  }
  void taken() noexcept { number_ = 0; }  ///< the other end has closed it by itself

 private:
  std::shared_ptr<Tunnel> tunnel_;
  std::uint64_t number_;
};

// The answer to what opens something. The object that it is for may be gone by then: it is closed all the same.
asio::awaitable<std::shared_ptr<Handle>> open_handle(std::shared_ptr<Tunnel> tunnel, std::shared_ptr<Call> call) {
  auto opening = Tunnel::wait(call);
  co_await std::move(opening);
  if (call->answer.handle == 0) throw RunnerError(ErrorCode::internal, "", "the other end has opened nothing");
  co_return std::make_shared<Handle>(std::move(tunnel), call->answer.handle);
}

[[nodiscard]] FileInfo first_entry(Call& call) {
  if (call.answer.entries.empty()) throw RunnerError(ErrorCode::internal, "", "the other end has told nothing of the file");
  return std::move(call.answer.entries.front());
}

// ---- Reading ----

struct Reading {
  std::shared_ptr<Handle> handle;
  FileInfo info;
  std::uint64_t expected = 0;  // where a reader that reads on is next
  struct Chunk {
    std::uint64_t offset;
    std::shared_ptr<Call> call;
  };
  std::deque<Chunk> ahead;

  void ask(std::uint64_t offset, std::size_t size) {
    Request request;
    request.op = Op::read;
    request.offset = offset;
    request.size = size;
    ahead.push_back({offset, handle->ask(std::move(request), {}, size)});
  }
};

class RemoteFileReader final : public FileReader {
 public:
  explicit RemoteFileReader(std::shared_ptr<Reading> reading) : reading_(std::move(reading)) {}
  const FileInfo& info() const noexcept override { return reading_->info; }
  asio::awaitable<std::size_t> read(std::uint64_t offset, asio::mutable_buffer into) override {
    return read_from(reading_, offset, into);
  }

 private:
  static asio::awaitable<std::size_t> read_from(std::shared_ptr<Reading> file, std::uint64_t offset, asio::mutable_buffer into) {
    if (into.size() == 0) co_return 0;
    if (file->ahead.empty() || file->ahead.front().offset != offset) {
      file->ahead.clear();
      file->ask(offset, std::min(into.size(), kFileChunk));
    }
    const auto call = file->ahead.front().call;
    file->ahead.pop_front();
    if (offset == file->expected && into.size() >= kFileChunk) {
      std::uint64_t next = file->ahead.empty() ? offset : file->ahead.back().offset;
      while (file->ahead.size() < kAhead && next < file->info.size && file->info.size - next > kFileChunk) {
        next += kFileChunk;
        file->ask(next, kFileChunk);
      }
    }
    auto reading = Tunnel::wait(call);
    co_await std::move(reading);
    const std::size_t n = std::min(call->bytes.size(), into.size());
    if (n > 0) std::memcpy(into.data(), call->bytes.data(), n);
    file->expected = offset + n;
    if (n < kFileChunk) file->ahead.clear();  // its end, or a smaller buffer: the next one is elsewhere
    co_return n;
  }

  std::shared_ptr<Reading> reading_;
};

// ---- Writing ----

struct Writing {
  std::shared_ptr<Handle> handle;
  std::deque<std::shared_ptr<Call>> behind;  // not answered yet, or not looked at
  std::exception_ptr failed;
  bool ended = false;
};

class RemoteFileWriter final : public FileWriter {
 public:
  explicit RemoteFileWriter(std::shared_ptr<Writing> writing) : writing_(std::move(writing)) {}
  asio::awaitable<void> write(asio::const_buffer from) override { return write_to(writing_, from); }
  asio::awaitable<void> commit() override { return commit_it(writing_); }

 private:
  // Until at most `most` are under way.
  static asio::awaitable<void> catch_up(std::shared_ptr<Writing> file, std::size_t most) {
    while (!file->behind.empty() && (file->behind.size() > most || file->behind.front()->done)) {
      const auto call = file->behind.front();
      file->behind.pop_front();
      try {
        auto writing = Tunnel::wait(call);
        co_await std::move(writing);
      } catch (const RunnerError&) {
        if (!file->failed) file->failed = std::current_exception();
      }
    }
    if (file->failed) std::rethrow_exception(file->failed);
    if (file->ended) throw std::logic_error("a file is written on after its commit");
  }

  static asio::awaitable<void> write_to(std::shared_ptr<Writing> file, asio::const_buffer from) {
    while (from.size() > 0) {
      auto room = catch_up(file, kAhead - 1);
      co_await std::move(room);
      const std::size_t n = std::min(from.size(), kFileChunk);
      Request request;
      request.op = Op::write;
      file->behind.push_back(file->handle->ask(std::move(request), std::string(static_cast<const char*>(from.data()), n)));
      from += n;
    }
    auto rest = catch_up(file, kAhead);
    co_await std::move(rest);
  }

  static asio::awaitable<void> commit_it(std::shared_ptr<Writing> file) {
    auto all = catch_up(file, 0);
    co_await std::move(all);
    file->ended = true;
    Request request;
    request.op = Op::commit;
    auto committing = Tunnel::wait(file->handle->ask(std::move(request)));
    file->handle->taken();
    co_await std::move(committing);
  }

  std::shared_ptr<Writing> writing_;
};

// ---- Listing ----

class RemoteDirectoryReader final : public DirectoryReader {
 public:
  explicit RemoteDirectoryReader(std::shared_ptr<Handle> handle) : handle_(std::move(handle)) {}
  asio::awaitable<std::vector<FileInfo>> next(std::size_t limit) override { return read_on(handle_, limit); }

 private:
  static asio::awaitable<std::vector<FileInfo>> read_on(std::shared_ptr<Handle> handle, std::size_t limit) {
    Request request;
    request.op = Op::next;
    request.size = std::clamp(limit, std::size_t{1}, kMaxEntries);
    const std::size_t most = static_cast<std::size_t>(request.size);
    const auto call = handle->ask(std::move(request));
    auto reading = Tunnel::wait(call);
    co_await std::move(reading);
    if (call->answer.entries.size() > most) call->answer.entries.resize(most);
    co_return std::move(call->answer.entries);
  }

  std::shared_ptr<Handle> handle_;
};

// ---- Watching ----

class RemoteFileWatch final : public FileWatch {
 public:
  explicit RemoteFileWatch(std::shared_ptr<Handle> handle) : handle_(std::move(handle)) {}
  asio::awaitable<std::vector<FileEvent>> next(std::chrono::steady_clock::time_point deadline) override {
    return next_of(handle_, deadline);
  }

 private:
  // The other end waits, and answers at the deadline at the latest; what has happened is in the answer, however late that comes.
  static asio::awaitable<std::vector<FileEvent>> next_of(std::shared_ptr<Handle> handle,
                                                         std::chrono::steady_clock::time_point deadline) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    Request request;
    request.op = Op::events;
    request.grace = std::clamp(left, std::chrono::milliseconds(0), std::chrono::milliseconds(kLongestWait));
    const auto call = handle->ask(std::move(request));
    auto waiting = Tunnel::wait(call);
    co_await std::move(waiting);
    co_return std::move(call->answer.events);
  }

  std::shared_ptr<Handle> handle_;
};

// ---- All of them ----

class RemoteFiles final : public Files {
 public:
  explicit RemoteFiles(std::shared_ptr<Tunnel> tunnel) : tunnel_(std::move(tunnel)) {}
  asio::awaitable<std::unique_ptr<FileReader>> open(std::string path) override {
    return open_by(tunnel_, ask(Op::open, std::move(path)));
  }
  asio::awaitable<std::unique_ptr<FileWriter>> create(FileWriteSpec spec) override {
    Request request = about(Op::create_file, std::move(spec.path));
    request.mode = spec.mode;
    request.flag = spec.make_parents;
    request.modified = spec.modified;
    request.append = spec.append;
    // An agent that is older than this gateway would replace the file.
    if (spec.append && !tunnel_->appends())
      throw RunnerError(ErrorCode::failed_precondition, "CWSANDBOX_NOT_IMPLEMENTED",
                        "cannot append to a file: the sandbox's agent is older than this gateway");
    return create_by(tunnel_, tunnel_->ask(std::move(request)));
  }
  asio::awaitable<FileInfo> stat(std::string path, bool follow_symlinks) override {
    Request request = about(Op::stat, std::move(path));
    request.flag = follow_symlinks;
    return stat_by(tunnel_->ask(std::move(request)));
  }
  asio::awaitable<std::unique_ptr<DirectoryReader>> list(std::string path) override {
    return list_by(tunnel_, ask(Op::list, std::move(path)));
  }
  asio::awaitable<void> make_directory(std::string path, std::uint32_t mode, bool parents) override {
    Request request = about(Op::make_directory, std::move(path));
    request.mode = mode;
    request.flag = parents;
    return Tunnel::wait(tunnel_->ask(std::move(request)));
  }
  asio::awaitable<void> remove(std::string path, bool recursive) override {
    Request request = about(Op::remove, std::move(path));
    request.flag = recursive;
    return Tunnel::wait(tunnel_->ask(std::move(request)));
  }
  asio::awaitable<void> rename(std::string from, std::string to) override {
    Request request = about(Op::rename, std::move(from));
    request.second = std::move(to);
    return Tunnel::wait(tunnel_->ask(std::move(request)));
  }
  asio::awaitable<std::unique_ptr<FileWatch>> watch(std::string path) override {
    // An agent that is older than this gateway takes what it does not know for a fault.
    if (!tunnel_->watches()) return Files::watch(std::move(path));
    return watch_by(tunnel_, ask(Op::watch, std::move(path)));
  }

 private:
  [[nodiscard]] static Request about(Op op, std::string path) {
    Request request;
    request.op = op;
    request.path = std::move(path);
    return request;
  }
  [[nodiscard]] std::shared_ptr<Call> ask(Op op, std::string path) { return tunnel_->ask(about(op, std::move(path))); }

  static asio::awaitable<std::unique_ptr<FileReader>> open_by(std::shared_ptr<Tunnel> tunnel, std::shared_ptr<Call> call) {
    auto opening = open_handle(std::move(tunnel), call);
    auto reading = std::make_shared<Reading>();
    reading->handle = co_await std::move(opening);
    reading->info = first_entry(*call);
    co_return std::make_unique<RemoteFileReader>(std::move(reading));
  }
  static asio::awaitable<std::unique_ptr<FileWriter>> create_by(std::shared_ptr<Tunnel> tunnel, std::shared_ptr<Call> call) {
    auto opening = open_handle(std::move(tunnel), std::move(call));
    auto writing = std::make_shared<Writing>();
    writing->handle = co_await std::move(opening);
    co_return std::make_unique<RemoteFileWriter>(std::move(writing));
  }
  static asio::awaitable<std::unique_ptr<FileWatch>> watch_by(std::shared_ptr<Tunnel> tunnel, std::shared_ptr<Call> call) {
    auto opening = open_handle(std::move(tunnel), std::move(call));
    auto handle = co_await std::move(opening);
    co_return std::make_unique<RemoteFileWatch>(std::move(handle));
  }
  static asio::awaitable<FileInfo> stat_by(std::shared_ptr<Call> call) {
    auto asking = Tunnel::wait(call);
    co_await std::move(asking);
    co_return first_entry(*call);
  }
  static asio::awaitable<std::unique_ptr<DirectoryReader>> list_by(std::shared_ptr<Tunnel> tunnel, std::shared_ptr<Call> call) {
    auto opening = open_handle(std::move(tunnel), std::move(call));
    auto handle = co_await std::move(opening);
    co_return std::make_unique<RemoteDirectoryReader>(std::move(handle));
  }

  std::shared_ptr<Tunnel> tunnel_;
};

}  // namespace

std::unique_ptr<Files> make_remote_files(std::shared_ptr<Tunnel> tunnel) {
  return std::make_unique<RemoteFiles>(std::move(tunnel));
}

}  // namespace cwsandbox::runner::remote
