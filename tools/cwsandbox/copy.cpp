#include "copy.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <filesystem>
#include <stdexcept>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace cli {

namespace {

namespace fs = std::filesystem;
using cwsandbox::FileInfo;
using cwsandbox::FileType;
using cwsandbox::Sandbox;
using cwsandbox::task;

/// Small files wait for each other's round trips; more than this gains nothing.
constexpr std::size_t kAtOnce = 8;

/// One side of a copy.
struct Place {
  Place() {}
  std::string text, id, path;
  bool remote = false, stream = false;
};

Place parse(const std::string& text) {
  Place place;
  place.text = text;
  place.path = text;
  place.stream = text == "-";
  const auto colon = text.find(':');
  if (place.stream || colon == std::string::npos || text.find('/') < colon) return place;
  if (colon == 0)
    throw std::invalid_argument("'" + text + "' names no sandbox before the ':'; a local file of this name is ./" + text);
  place.remote = true;
  place.id = text.substr(0, colon);
  place.path = text.substr(colon + 1);
  if (place.path.empty() || place.path.front() != '/')
    throw std::invalid_argument("'" + text + "': a path in a sandbox begins with '/'; a local file of this name is ./" + text);
  return place;
}

/// The last part of a path; empty for "/", "." and "..".
std::string base_name(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const std::string name = path.substr(path.rfind('/') + 1);
  return name == "." || name == ".." || name == "/" ? "" : name;
}
std::string joined(const std::string& directory, const std::string& name) {
  return directory.empty() || directory.back() == '/' ? directory + name : directory + "/" + name;
}

/// Bytes of all transfers together, as a line on stderr. Counted on the client's loop, drawn by the thread that waits.
class Progress {
 public:
  explicit Progress(bool shown) : shown_(shown && ::isatty(STDERR_FILENO) == 1), began_(std::chrono::steady_clock::now()) {}
  ~Progress() {
    if (drawn_) static_cast<void>(write_all(STDERR_FILENO, "\r\033[K"));
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void expect(std::uint64_t bytes) { expected_ += bytes; }
  void add(std::uint64_t bytes) { done_ += bytes; }
  [[nodiscard]] std::uint64_t done() const { return done_; }
  /// For one transfer: begins again at 0 when it is tried again.
  [[nodiscard]] static cwsandbox::FileProgress counter(const std::shared_ptr<Progress>& self) {
    return [self, last = std::uint64_t{0}](std::uint64_t done, std::optional<std::uint64_t>) mutable {
      self->done_ += done - last;  // modulo 2^64: goes back, too
      last = done;
    };
  }

  void draw(bool end = false) {
    if (!shown_) return;
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - began_;
    if (end && !drawn_ && passed.count() < 0.5) return;  // over before anybody could read it
    const auto done = static_cast<double>(done_.load());
    const double rate = passed.count() > 0 ? done / passed.count() : 0;
    std::string line = size_text(done);
    if (const auto all = static_cast<double>(expected_.load()); all > 0) {
      const double part = std::min(1.0, done / all);
      constexpr std::size_t kWidth = 30;
      const auto filled = static_cast<std::size_t>(part * kWidth);
      line = "[" + std::string(filled, '#') + std::string(kWidth - filled, '.') + "] " +
             std::to_string(static_cast<int>(part * 100)) + " %  " + line + " of " + size_text(all);
    }
    line = "\r" + line + "  " + size_text(rate) + "/s\033[K";
    if (end) line += "\n";
    static_cast<void>(write_all(STDERR_FILENO, line));
    drawn_ = !end;
  }

 private:
  bool shown_, drawn_ = false;
  std::chrono::steady_clock::time_point began_;
  std::atomic<std::uint64_t> done_{0}, expected_{0};
};

class Copier {
 public:
  Copier(const CopyArguments& arguments, const Signals& signals)
      : arguments_(arguments),
        signals_(signals),
        progress_(std::make_shared<Progress>(!arguments.quiet)),
        tick_([this] { progress_->draw(); }) {}
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;
  /// Transfers that are under way when something else went wrong leave nothing behind: they are ended, and waited for.
  ~Copier() {
    for (const auto& one : under_way_) static_cast<void>(one.cancel());
    for (const auto& one : under_way_) {
      try {
        one.result(std::chrono::seconds(5));
      } catch (const std::exception&) {  // what went wrong first is what counts
      }
    }
  }

  void upload(const std::string& from, const Sandbox& to, std::string path) {
    struct stat status{};
    if (::stat(from.c_str(), &status) != 0)
      throw fs::filesystem_error("cannot open", from, std::error_code(errno, std::generic_category()));
    if (is_directory(to, path)) path = joined(path, base_name(fs::absolute(from).lexically_normal().string()));
    if (!S_ISDIR(status.st_mode)) {
      progress_->expect(S_ISREG(status.st_mode) ? static_cast<std::uint64_t>(status.st_size) : 0);
      upload_file(from, to, path);
    } else {
      need_recursive(from);
      upload_directory(from, to, path);
    }
    wait_for(0);
  }

  void download(const Sandbox& from, const std::string& path, std::string to) {
    const bool directory = is_directory(from, path);
    if (directory) need_recursive(path);
    std::error_code error;
    if (fs::is_directory(to, error))
      to = joined(to, base_name(path));
    else if (to.back() == '/' && !directory)
      throw fs::filesystem_error("cannot write", to, std::make_error_code(std::errc::not_a_directory));
    if (directory) {
      download_directory(from, path, to);
    } else {
      const auto info = result_or_signal(from.stat_file(path), signals_, tick_);
      if (info.type == FileType::regular) progress_->expect(info.size);
      download_file(from, path, to);
    }
    wait_for(0);
    // Innermost first: what is read-only shuts out what is above it no more than before.
    for (auto one = modes_.rbegin(); one != modes_.rend(); ++one) static_cast<void>(::chmod(one->first.c_str(), one->second));
  }

  /// From one sandbox into another, or to another place of the same.
  void across(const Sandbox& from, const std::string& path, const Sandbox& to, std::string destination) {
    if (is_directory(from, path))
      throw std::invalid_argument(path + " is a directory: only single files go from sandbox to sandbox; copy it here first");
    if (is_directory(to, destination)) destination = joined(destination, base_name(path));
    const auto info = result_or_signal(from.stat_file(joined_link(from, path)), signals_, tick_);
    cwsandbox::WriteFileOptions options;
    if (info.type == FileType::regular) {
      options.with_mode(info.mode);
      progress_->expect(info.size);
    }
    const auto reader = from.read_file_stream(path);
    const auto out = to.write_file_stream(destination, std::move(options));
    under_way_.push_back(out.done);
    while (auto chunk = result_or_signal(reader.next(), signals_, tick_)) send(out, std::move(*chunk));
    finish(out);
  }

  void from_stdin(const Sandbox& to, const std::string& path) {
    const auto out = to.write_file_stream(path);
    under_way_.push_back(out.done);
    for (;;) {
      wait_ready(STDIN_FILENO, signals_, tick_);
      std::string chunk(cwsandbox::ByteChannel::SLOT_SIZE, '\0');
      const ssize_t n = ::read(STDIN_FILENO, chunk.data(), chunk.size());
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n < 0) throw std::runtime_error(std::string("cannot read stdin: ") + std::strerror(errno));
      if (n == 0) break;
      chunk.resize(static_cast<std::size_t>(n));
      send(out, std::move(chunk));
    }
    finish(out);
  }

  /// False: nobody reads stdout any more.
  bool to_stdout(const Sandbox& from, const std::string& path) {
    const auto reader = from.read_file_stream(path);
    while (const auto chunk = result_or_signal(reader.next(), signals_, tick_)) {
      progress_->add(chunk->size());
      if (!write_all(STDOUT_FILENO, *chunk)) {
        if (errno == EPIPE) return false;
        throw std::runtime_error(std::string("cannot write to stdout: ") + std::strerror(errno));
      }
    }
    ++files_;
    return true;
  }

  void over() { progress_->draw(true); }
  [[nodiscard]] std::uint64_t files() const { return files_; }
  [[nodiscard]] std::uint64_t skipped() const { return skipped_; }
  [[nodiscard]] std::uint64_t bytes() const { return progress_->done(); }

 private:
  void need_recursive(const std::string& path) const {
    if (!arguments_.recursive) throw std::invalid_argument(path + " is a directory: -r copies it with all that is in it");
  }

  void skip(const std::string& path, const std::string& why) {
    print_note(path + ": not copied: " + why);
    ++skipped_;
  }

  /// Also for a symlink that leads to one.
  bool is_directory(const Sandbox& sandbox, const std::string& path) {
    try {
      return result_or_signal(sandbox.stat_file(joined(path, ".")), signals_, tick_).type == FileType::directory;
    } catch (const cwsandbox::SandboxFileError& error) {
      if (error.reason() == "CWSANDBOX_FILE_NOT_FOUND" || error.error_name() == "ENOTDIR" || error.error_name() == "ENOENT")
        return false;
      throw;
    }
  }

  /// Where a symlink at `path` leads, one step; else `path`.
  std::string joined_link(const Sandbox& sandbox, const std::string& path) {
    const auto info = result_or_signal(sandbox.stat_file(path), signals_, tick_);
    if (info.type != FileType::symlink || info.link_target.empty()) return path;
    return info.link_target.front() == '/' ? info.link_target : joined(path.substr(0, path.rfind('/') + 1), info.link_target);
  }

  void send(const cwsandbox::FileWriteStream& out, std::string chunk) {
    const auto size = chunk.size();
    try {
      result_or_signal(out.writer.write(std::move(chunk)), signals_, tick_);
    } catch (const cwsandbox::CWSandboxError&) {
      result_or_signal(out.done, signals_, tick_);  // says why
      throw;
    }
    progress_->add(size);
  }

  void finish(const cwsandbox::FileWriteStream& out) {
    result_or_signal(out.writer.close(), signals_, tick_);
    wait_for(0);
  }

  /// Until no more than `rest` transfers are under way.
  void wait_for(std::size_t rest) {
    while (under_way_.size() > rest) {
      wait_or_signal(under_way_.front(), signals_, tick_);
      const auto first = under_way_.front();
      under_way_.pop_front();
      first.result();
      ++files_;
    }
  }

  void upload_file(const std::string& from, const Sandbox& to, const std::string& path) {
    wait_for(kAtOnce - 1);
    under_way_.push_back(to.upload_file(from, path, cwsandbox::WriteFileOptions().with_progress(Progress::counter(progress_))));
  }
  void download_file(const Sandbox& from, const std::string& path, const std::string& to) {
    wait_for(kAtOnce - 1);
    under_way_.push_back(from.download_file(path, to, cwsandbox::ReadFileOptions().with_progress(Progress::counter(progress_))));
  }

  void upload_directory(const std::string& from, const Sandbox& to, const std::string& path) {
    struct stat status{};
    if (::stat(from.c_str(), &status) != 0)
      throw fs::filesystem_error("cannot open", from, std::error_code(errno, std::generic_category()));
    // Its owner may write into it: files are about to come.
    result_or_signal(to.make_directory(path, true, (status.st_mode & 07777U) | 0700U), signals_, tick_);
    for (const auto& entry : fs::directory_iterator(from)) {
      const std::string name = entry.path().filename().string(), source = entry.path().string();
      std::error_code error;
      const auto kind = entry.status(error).type();  // of what a symlink leads to
      if (kind == fs::file_type::directory && !entry.is_symlink()) {
        upload_directory(source, to, joined(path, name));
      } else if (kind == fs::file_type::regular) {
        progress_->expect(entry.file_size(error));
        upload_file(source, to, joined(path, name));
      } else {
        skip(source, entry.is_symlink() ? "a symlink that leads to no file" : "neither a file nor a directory");
      }
    }
  }

  void download_directory(const Sandbox& from, const std::string& path, const std::string& to) {
    const auto info = result_or_signal(from.stat_file(joined(path, ".")), signals_, tick_);
    if (::mkdir(to.c_str(), 0700) == 0) {
      const mode_t mask = ::umask(0);
      ::umask(mask);
      modes_.emplace_back(to, static_cast<mode_t>(info.mode & 0777U & ~mask));
    } else if (errno != EEXIST || !fs::is_directory(to)) {
      throw fs::filesystem_error("cannot make the directory", to, std::error_code(errno, std::generic_category()));
    }
    for (const auto& entry : result_or_signal(from.list_files(path), signals_, tick_)) {
      // The sandbox's word: a name must not lead out of the directory.
      if (entry.name.empty() || entry.name == "." || entry.name == ".." || entry.name.find('/') != std::string::npos ||
          entry.name.find('\0') != std::string::npos) {
        skip(path, "an entry that is no file name");
        continue;
      }
      const std::string source = joined(path, entry.name), target = joined(to, entry.name);
      if (entry.type == FileType::directory) {
        download_directory(from, source, target);
      } else if (entry.type == FileType::regular) {
        progress_->expect(entry.size);
        download_file(from, source, target);
      } else if (entry.type == FileType::symlink && leads_to_file(from, source)) {
        download_file(from, source, target);
      } else {
        skip(source, entry.type == FileType::symlink ? "a symlink that leads to no file" : "neither a file nor a directory");
      }
    }
  }

  bool leads_to_file(const Sandbox& sandbox, const std::string& path) {
    try {
      std::string at = path;
      for (int steps = 0; steps < 40; ++steps) {
        const std::string next = joined_link(sandbox, at);
        if (next == at) return result_or_signal(sandbox.stat_file(at), signals_, tick_).type == FileType::regular;
        at = next;
      }
    } catch (const cwsandbox::SandboxFileError&) {  // it leads nowhere
    }
    return false;
  }

  const CopyArguments& arguments_;
  const Signals& signals_;
  std::shared_ptr<Progress> progress_;
  std::function<void()> tick_;
  std::deque<task<void>> under_way_;
  std::vector<std::pair<std::string, mode_t>> modes_;
  std::uint64_t files_ = 0, skipped_ = 0;
};

}  // namespace

int copy(const cwsandbox::Client& client, const CopyArguments& arguments, Format format, const Signals& signals) {
  const Place from = parse(arguments.source), to = parse(arguments.destination);
  if (!from.remote && !to.remote) throw std::invalid_argument("neither side is in a sandbox: write ID:/path for the one that is");
  if (arguments.recursive && (from.stream || to.stream)) throw std::invalid_argument("-r does not go with '-'");
  if (from.path.empty() || to.path.empty()) throw std::invalid_argument("an empty path");
  const auto find = [&](const Place& place) {
    return place.remote ? result_or_signal(Sandbox::from_id(client, place.id), signals) : Sandbox();
  };
  const Sandbox source = find(from), destination = find(to);
  std::uint64_t files = 0, bytes = 0, skipped = 0;
  {
    Copier copier(arguments, signals);
    if (from.remote && to.remote)
      copier.across(source, from.path, destination, to.path);
    else if (from.stream)
      copier.from_stdin(destination, to.path);
    else if (to.stream) {
      if (!copier.to_stdout(source, from.path)) return 128 + SIGPIPE;
    } else if (to.remote)
      copier.upload(from.path, destination, to.path);
    else
      copier.download(source, from.path, to.path);
    copier.over();
    files = copier.files(), bytes = copier.bytes(), skipped = copier.skipped();
  }
  if (format == Format::json && !to.stream &&
      !write_all(STDOUT_FILENO, copied_json(arguments.source, arguments.destination, files, bytes, skipped)))
    return 128 + SIGPIPE;
  return skipped == 0 ? 0 : kOwnError;
}

}  // namespace cli
