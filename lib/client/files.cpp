#include "client/files.hpp"

#include "core/spawn.hpp"

#include <memory>
#include <stdexcept>
#include <utility>

namespace cwsandbox::client::files {

void check_path(const std::string& path, const char* what) {
  if (path.empty()) throw std::invalid_argument(std::string("cwsandbox: the ") + what + " is empty");
  if (path.find('\0') != std::string::npos) throw std::invalid_argument(std::string("cwsandbox: the ") + what + " holds a NUL");
}

void check(const WriteFileOptions& options) {
  if (options.mode().value_or(0) > 07777) throw std::invalid_argument("cwsandbox: mode has more than permission bits (07777)");
  if (options.append() && options.modified()) throw std::invalid_argument("cwsandbox: with_modified does not go with with_append");
}

}  // namespace cwsandbox::client::files

namespace cwsandbox {

namespace files = client::files;

std::string_view to_string(FileType type) noexcept {
  switch (type) {
    case FileType::regular:
      return "regular";
    case FileType::directory:
      return "directory";
    case FileType::symlink:
      return "symlink";
    case FileType::fifo:
      return "fifo";
    case FileType::socket:
      return "socket";
    case FileType::block_device:
      return "block_device";
    case FileType::character_device:
      return "character_device";
    case FileType::unspecified:
      break;
  }
  return "unspecified";
}

namespace {

constexpr std::size_t kChunksAhead = 3;  // of a stream, which wait for a slow reader

const auto& loop_of(const files::State& state) {
  if (!state) throw std::invalid_argument("cwsandbox: an empty Sandbox");
  return state->core()->loop();
}

template <typename T>
task<T> begin(const files::State& state, asio::awaitable<T> work) {
  const auto& loop = loop_of(state);
  return core::spawn_task<T>(loop, loop.make_strand(), std::move(work));
}

/// Ends the transfer when nobody can take part in it any more, and keeps the sandbox until then.
struct ReaderGuard {
  ReaderGuard(files::State s, std::shared_ptr<Channel<std::string>> c) : state(std::move(s)), channel(std::move(c)) {}
  ReaderGuard(const ReaderGuard&) = delete;
  ReaderGuard& operator=(const ReaderGuard&) = delete;
  ~ReaderGuard() {
    try {
      channel->close();
    } catch (...) {  // nothing runs any more that could be cancelled
    }
  }
  files::State state;
  std::shared_ptr<Channel<std::string>> channel;
};

/// A file's bytes, from the offset on where it is read.
class FileSource final : public detail::Source<std::string> {
 public:
  FileSource(std::shared_ptr<Channel<std::string>> channel, std::uint64_t offset) : channel_(std::move(channel)), offset_(offset) {}
  Poll poll(std::optional<std::string>& item) override { return channel_->poll(item); }
  void arm(std::function<void()> wake) override { channel_->arm(std::move(wake)); }
  void close() override { channel_->close(); }
  [[nodiscard]] std::uint64_t origin() const override { return offset_; }

 private:
  const std::shared_ptr<Channel<std::string>> channel_;
  const std::uint64_t offset_;
};

/// Ends the transfer when its writer has gone without having closed it, and keeps the sandbox until then.
struct WriterGuard {
  WriterGuard(files::State s, StreamWriter w, task<void> t) : state(std::move(s)), writer(std::move(w)), transfer(std::move(t)) {}
  WriterGuard(const WriterGuard&) = delete;
  WriterGuard& operator=(const WriterGuard&) = delete;
  ~WriterGuard() {
    try {
      if (!writer.closed()) transfer.cancel();
    } catch (...) {  // nothing runs any more that could be cancelled
    }
  }
  files::State state;
  StreamWriter writer;
  task<void> transfer;
};

}  // namespace

task<std::string> Sandbox::read_file(std::string path, ReadFileOptions options) const {
  files::check_path(path);
  return begin(state_, files::read(state_, std::move(path), std::move(options)));
}

task<void> Sandbox::write_file(std::string path, std::string content, WriteFileOptions options) const {
  files::check_path(path);
  files::check(options);
  return begin(state_, files::write(state_, std::move(path), std::move(content), std::move(options)));
}

StreamReader<std::string> Sandbox::read_file_stream(std::string path, ReadFileOptions options) const {
  files::check_path(path);
  const auto& loop = loop_of(state_);
  // Closing it cancels the transfer, which is only known once it has the channel.
  const auto offset = options.offset();
  auto transfer = std::make_shared<task<void>>();
  auto channel = std::make_shared<Channel<std::string>>(kChunksAhead, loop, [transfer] { transfer->cancel(); });
  *transfer = begin(state_, files::read_stream(state_, std::move(path), std::move(options), channel));
  return StreamReader<std::string>(std::make_shared<FileSource>(channel, offset), loop,
                                   std::make_shared<ReaderGuard>(state_, channel));
}

FileWriteStream Sandbox::write_file_stream(std::string path, WriteFileOptions options) const {
  files::check_path(path);
  files::check(options);
  const auto& loop = loop_of(state_);
  auto channel = std::make_shared<ByteChannel>(StreamWriter::QUEUE_SIZE, loop);
  auto transfer = begin(state_, files::write_stream(state_, std::move(path), std::move(options), channel));
  auto guard = std::make_shared<WriterGuard>(state_, StreamWriter(channel, loop), transfer);
  return FileWriteStream(StreamWriter(channel, loop, std::move(guard)), std::move(transfer));
}

task<void> Sandbox::download_file(std::string path, std::string local_path, ReadFileOptions options) const {
  files::check_path(path);
  files::check_path(local_path, "local path");
  return begin(state_, files::download(state_, std::move(path), std::move(local_path), std::move(options)));
}

task<void> Sandbox::upload_file(std::string local_path, std::string path, WriteFileOptions options) const {
  files::check_path(local_path, "local path");
  files::check_path(path);
  files::check(options);
  return begin(state_, files::upload(state_, std::move(local_path), std::move(path), std::move(options)));
}

task<FileInfo> Sandbox::stat_file(std::string path) const {
  files::check_path(path);
  return begin(state_, files::stat(state_, std::move(path)));
}

task<std::vector<FileInfo>> Sandbox::list_files(std::string path) const {
  files::check_path(path);
  return begin(state_, files::list(state_, std::move(path)));
}

task<void> Sandbox::make_directory(std::string path, bool parents, std::optional<std::uint32_t> mode) const {
  files::check_path(path);
  if (mode.value_or(0) > 07777) throw std::invalid_argument("cwsandbox: mode has more than permission bits (07777)");
  return begin(state_, files::make_directory(state_, std::move(path), parents, mode));
}

task<void> Sandbox::remove_file(std::string path, bool recursive, bool missing_ok) const {
  files::check_path(path);
  return begin(state_, files::remove(state_, std::move(path), recursive, missing_ok));
}

task<void> Sandbox::rename_file(std::string from, std::string to) const {
  files::check_path(from, "path to rename");
  files::check_path(to, "new path");
  return begin(state_, files::rename(state_, std::move(from), std::move(to)));
}

}  // namespace cwsandbox
