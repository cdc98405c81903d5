#include "copy.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <filesystem>
#include <optional>
#include <set>
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

/// What is wrong with one file, and with nothing else.
bool concerns_one_file(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const cwsandbox::SandboxFileError& failed) {
    return failed.code() != "unimplemented" && failed.code() != "unavailable";
  } catch (const fs::filesystem_error&) {
    return true;
  } catch (...) {
    return false;
  }
}

/// Why a symlink in a directory was not followed; empty when it is another matter.
std::string about_link(const cwsandbox::SandboxFileError& error) {
  if (error.reason() == "CWSANDBOX_FILE_IS_DIRECTORY") return "a symlink to a directory";
  if (error.reason() == "CWSANDBOX_FILE_NOT_FOUND") return "a symlink that leads to nothing";
  if (error.error_name() == "EINVAL") return "a symlink to neither a file nor a directory";
  return "";
}

[[noreturn]] void local_error(const char* what, const std::string& path, int error = errno) {
  throw fs::filesystem_error(what, path, std::error_code(error, std::generic_category()));
}

std::chrono::system_clock::time_point modified_of(const struct stat& status) {
  using namespace std::chrono;
  // Beyond what nanoseconds can count, the nearest that they can.
  constexpr std::int64_t kMost = duration_cast<seconds>(system_clock::duration::max()).count() - 1;
  const auto whole = std::clamp<std::int64_t>(status.st_mtim.tv_sec, -kMost, kMost);
  return system_clock::time_point(duration_cast<system_clock::duration>(seconds(whole) + nanoseconds(status.st_mtim.tv_nsec)));
}

class Copier {
 public:
  Copier(const CopyArguments& arguments, const Signals& signals)
      : arguments_(arguments),
        signals_(signals),
        progress_(std::make_shared<Progress>(!arguments.quiet)),
        tick_([this] { progress_->draw(); }) {}
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;
  /// Transfers that are under way when something else went wrong leave nothing behind: they are ended, and waited for. Directories
  /// get their modes whatever happened.
  ~Copier() {
    for (const auto& one : under_way_) static_cast<void>(one.done.cancel());
    for (const auto& one : under_way_) {
      try {
        one.done.result(std::chrono::seconds(5));
      } catch (const std::exception&) {  // what went wrong first is what counts
      }
    }
    finish_directories();
  }

  void upload(const std::string& from, const Sandbox& to, std::string path) {
    struct stat status{};
    if (::stat(from.c_str(), &status) != 0) local_error("cannot open", from);
    if (is_directory(to, path)) path = joined(path, base_name(fs::absolute(from).lexically_normal().string()));
    if (S_ISDIR(status.st_mode)) {
      need_recursive(from);
      in_tree([&] { upload_directory(from, status, to, path); });
    } else if (!exists(to, path)) {
      upload_file(from, status, to, path, false);
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
      local_error("cannot write", to, ENOTDIR);
    if (directory) {
      const auto info = result_or_signal(from.stat_file(joined(path, ".")), signals_, tick_);
      in_tree([&] { download_directory(from, path, info, to); });
    } else if (!exists(to)) {
      const auto info = result_or_signal(from.stat_file(path), signals_, tick_);
      if (info.type == FileType::regular) progress_->expect(info.size);
      download_file(from, path, to, Entry::alone);
    }
    wait_for(0);
    finish_directories();
  }

  /// From one sandbox into another, or to another place of the same.
  void across(const Sandbox& from, const std::string& path, const Sandbox& to, std::string destination) {
    if (is_directory(from, path))
      throw std::invalid_argument(path + " is a directory: only single files go from sandbox to sandbox; copy it here first");
    if (is_directory(to, destination)) destination = joined(destination, base_name(path));
    if (exists(to, destination)) return;
    const auto info = look_through(from, path);
    cwsandbox::WriteFileOptions options;
    if (info.type == FileType::regular) {
      options.with_mode(info.mode);
      if (arguments_.preserve && info.modified) options.with_modified(*info.modified);
      progress_->expect(info.size);
    }
    const auto reader = from.read_file_stream(path);
    const auto out = to.write_file_stream(destination, std::move(options));
    under_way_.emplace_back(out.done, destination, Entry::alone);
    while (auto chunk = result_or_signal(reader.next(), signals_, tick_)) send(out, std::move(*chunk));
    finish(out);
  }

  void from_stdin(const Sandbox& to, const std::string& path) {
    if (exists(to, path)) return;
    const auto out = to.write_file_stream(path);
    under_way_.emplace_back(out.done, path, Entry::alone);
    for (;;) {
      wait_ready(STDIN_FILENO, signals_, tick_);
      std::string chunk(cwsandbox::ByteChannel::SLOT_SIZE, '\0');
      const ssize_t n = ::read(STDIN_FILENO, chunk.data(), chunk.size());
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n < 0) throw std::runtime_error(std::string("cannot read standard input: ") + std::strerror(errno));
      if (n == 0) break;
      chunk.resize(static_cast<std::size_t>(n));
      send(out, std::move(chunk));
    }
    finish(out);
  }

  /// The exit code.
  [[nodiscard]] int to_stdout(const Sandbox& from, const std::string& path) {
    const auto reader = from.read_file_stream(path);
    while (const auto chunk = result_or_signal(reader.next(), signals_, tick_)) {
      progress_->add(chunk->size());
      if (const int code = print(*chunk); code != 0) return code;
    }
    ++files_;
    return 0;
  }

  void over() { progress_->draw(true); }
  [[nodiscard]] std::uint64_t files() const { return files_; }
  [[nodiscard]] std::uint64_t skipped() const { return skipped_; }
  [[nodiscard]] std::uint64_t bytes() const { return progress_->done(); }

 private:
  /// What a file is to the whole: all of it, or one of many, of which each may fail.
  enum class Entry { alone, file, link };
  struct Transfer {
    Transfer(task<void> its_end, std::string its_source, Entry what)
        : done(std::move(its_end)), source(std::move(its_source)), entry(what) {}
    task<void> done;
    std::string source;
    Entry entry;
  };
  /// A local directory that was made such that files can be put into it.
  struct Made {
    Made(std::string its_path, mode_t its_mode) : path(std::move(its_path)), mode(its_mode) {}
    std::string path;
    mode_t mode;
    std::optional<std::chrono::system_clock::time_point> modified;
  };

  void need_recursive(const std::string& path) const {
    if (!arguments_.recursive) throw std::invalid_argument(path + " is a directory: -r copies it with all that is in it");
  }

  void skip(const std::string& path, const std::string& why) {
    print_note(path + ": not copied: " + why);
    ++skipped_;
  }

  /// The rest of a tree is copied when this cannot be.
  template <typename Work>
  void in_tree(Work work) {
    try {
      work();
    } catch (const std::exception& error) {
      if (!concerns_one_file(std::current_exception())) throw;
      print_error(error);
      ++skipped_;
    }
  }

  /// Also for a symlink that leads to one. What cannot be looked at is none; what is done with it then says why.
  bool is_directory(const Sandbox& sandbox, const std::string& path) {
    try {
      return result_or_signal(sandbox.stat_file(joined(path, ".")), signals_, tick_).type == FileType::directory;
    } catch (const cwsandbox::SandboxFileError& error) {
      if (!concerns_one_file(std::current_exception())) throw;
      return false;
    }
  }

  /// Whether there is something that must stay as it is.
  bool exists(const Sandbox& sandbox, const std::string& path) {
    if (!arguments_.no_clobber) return false;
    try {
      static_cast<void>(result_or_signal(sandbox.stat_file(path), signals_, tick_));
      return true;
    } catch (const cwsandbox::SandboxFileError& error) {
      if (error.reason() != "CWSANDBOX_FILE_NOT_FOUND") throw;
      return false;
    }
  }
  [[nodiscard]] bool exists(const std::string& path) const {
    struct stat status{};
    return arguments_.no_clobber && ::lstat(path.c_str(), &status) == 0;
  }

  /// Of what `path` leads to.
  FileInfo look_through(const Sandbox& sandbox, std::string path) {
    constexpr int kMostLinks = 40;
    auto info = result_or_signal(sandbox.stat_file(path), signals_, tick_);
    for (int links = 0; links < kMostLinks && info.type == FileType::symlink && !info.link_target.empty(); ++links) {
      path = info.link_target.front() == '/' ? info.link_target : joined(path.substr(0, path.rfind('/') + 1), info.link_target);
      info = result_or_signal(sandbox.stat_file(path), signals_, tick_);
    }
    return info;
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
      wait_or_signal(under_way_.front().done, signals_, tick_);
      const auto first = under_way_.front();
      under_way_.pop_front();
      if (first.entry == Entry::alone) {
        first.done.result();
        ++files_;
        continue;
      }
      in_tree([&] {
        try {
          first.done.result();
          ++files_;
        } catch (const cwsandbox::SandboxFileError& error) {
          const auto why = first.entry == Entry::link ? about_link(error) : "";
          if (why.empty()) throw;
          skip(first.source, why);
        }
      });
    }
  }

  void upload_file(const std::string& from, const struct stat& status, const Sandbox& to, const std::string& path, bool in_a_tree) {
    wait_for(kAtOnce - 1);
    if (S_ISREG(status.st_mode)) progress_->expect(static_cast<std::uint64_t>(status.st_size));
    cwsandbox::WriteFileOptions options;
    options.with_progress(Progress::counter(progress_));
    if (arguments_.preserve) options.with_modified(modified_of(status));
    under_way_.emplace_back(to.upload_file(from, path, std::move(options)), from, in_a_tree ? Entry::file : Entry::alone);
  }
  void download_file(const Sandbox& from, const std::string& path, const std::string& to, Entry entry) {
    wait_for(kAtOnce - 1);
    cwsandbox::ReadFileOptions options;
    options.with_progress(Progress::counter(progress_)).with_preserve(arguments_.preserve);
    under_way_.emplace_back(from.download_file(path, to, std::move(options)), path, entry);
  }

  void upload_directory(const std::string& from, const struct stat& directory, const Sandbox& to, const std::string& path) {
    // Its owner may write into it: files are about to come.
    result_or_signal(to.make_directory(path, true, (directory.st_mode & 07777U) | 0700U), signals_, tick_);
    std::set<std::string> there;
    if (arguments_.no_clobber)
      for (auto& entry : result_or_signal(to.list_files(path), signals_, tick_)) there.insert(std::move(entry.name));
    for (const auto& entry : fs::directory_iterator(from)) {
      in_tree([&] { upload_entry(entry.path().string(), to, joined(path, entry.path().filename().string()), there); });
    }
  }

  void upload_entry(const std::string& source, const Sandbox& to, const std::string& path, const std::set<std::string>& there) {
    struct stat status{};
    if (::lstat(source.c_str(), &status) != 0) local_error("cannot look at", source);
    const bool link = S_ISLNK(status.st_mode);
    if (link && ::stat(source.c_str(), &status) != 0) {
      if (errno == ENOENT) return skip(source, "a symlink that leads to nothing");
      local_error("cannot look at what it leads to", source);
    }
    if (S_ISDIR(status.st_mode) && link) return skip(source, "a symlink to a directory");
    if (S_ISDIR(status.st_mode)) return upload_directory(source, status, to, path);
    if (!S_ISREG(status.st_mode)) return skip(source, link ? "a symlink to neither a file nor a directory" : kNeither);
    if (there.count(base_name(path)) == 0) upload_file(source, status, to, path, true);
  }

  void download_directory(const Sandbox& from, const std::string& path, const FileInfo& info, const std::string& to) {
    const bool made = ::mkdir(to.c_str(), 0700) == 0;
    if (!made && (errno != EEXIST || !fs::is_directory(to))) local_error("cannot make the directory", to);
    if (made || arguments_.preserve) {
      const mode_t mask = ::umask(0);
      ::umask(mask);
      auto& last = directories_.emplace_back(to, static_cast<mode_t>(info.mode & 0777U & ~(arguments_.preserve ? 0U : mask)));
      if (arguments_.preserve) last.modified = info.modified;
    }
    for (const auto& entry : result_or_signal(from.list_files(path), signals_, tick_)) {
      // The sandbox's word: a name must not lead out of the directory.
      if (entry.name.empty() || entry.name == "." || entry.name == ".." || entry.name.find('/') != std::string::npos ||
          entry.name.find('\0') != std::string::npos) {
        skip(path, "an entry that is no file name");
        continue;
      }
      in_tree([&] { download_entry(from, joined(path, entry.name), entry, joined(to, entry.name)); });
    }
  }

  void download_entry(const Sandbox& from, const std::string& source, const FileInfo& entry, const std::string& target) {
    switch (entry.type) {
      case FileType::directory:
        return download_directory(from, source, entry, target);
      case FileType::regular:
      case FileType::unspecified:  // it cannot be looked at; reading it says why
        if (exists(target)) return;
        progress_->expect(entry.size);
        return download_file(from, source, target, Entry::file);
      case FileType::symlink:
        if (!exists(target)) download_file(from, source, target, Entry::link);
        return;
      case FileType::fifo:
      case FileType::socket:
      case FileType::block_device:
      case FileType::character_device:
        break;
    }
    skip(source, kNeither);
  }

  /// Innermost first: what is read-only shuts out what is above it no more than before, and times stay.
  void finish_directories() {
    for (auto one = directories_.rbegin(); one != directories_.rend(); ++one) {
      timespec times[2] = {};
      times[0].tv_nsec = times[1].tv_nsec = UTIME_OMIT;
      if (one->modified) {
        const auto whole = std::chrono::floor<std::chrono::seconds>(*one->modified);
        times[1].tv_sec = static_cast<time_t>(whole.time_since_epoch().count());
        times[1].tv_nsec = static_cast<long>(std::chrono::nanoseconds(*one->modified - whole).count());
      }
      if (::utimensat(AT_FDCWD, one->path.c_str(), times, 0) == 0 && ::chmod(one->path.c_str(), one->mode) == 0) continue;
      print_error("cannot set the permission bits or the time of " + one->path + ": " + std::strerror(errno));
      ++skipped_;
    }
    directories_.clear();
  }

  static constexpr const char* kNeither = "neither a file nor a directory";

  const CopyArguments& arguments_;
  const Signals& signals_;
  std::shared_ptr<Progress> progress_;
  std::function<void()> tick_;
  std::deque<Transfer> under_way_;
  std::vector<Made> directories_;
  std::uint64_t files_ = 0, skipped_ = 0;
};

}  // namespace

int copy(const cwsandbox::Client& client, const CopyArguments& arguments, Format format, const Signals& signals) {
  const Place from = parse(arguments.source), to = parse(arguments.destination);
  if (!from.remote && !to.remote) throw std::invalid_argument("neither side is in a sandbox: write ID:/path for the one that is");
  if (arguments.recursive && (from.stream || to.stream)) throw std::invalid_argument("-r does not go with '-'");
  if (arguments.preserve && (from.stream || to.stream)) throw std::invalid_argument("-p does not go with '-'");
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
      if (const int code = copier.to_stdout(source, from.path); code != 0) return code;
    } else if (to.remote)
      copier.upload(from.path, destination, to.path);
    else
      copier.download(source, from.path, to.path);
    copier.over();
    files = copier.files(), bytes = copier.bytes(), skipped = copier.skipped();
  }
  if (format == Format::json && !to.stream) {
    const int code = print(copied_json(arguments.source, arguments.destination, files, bytes, skipped));
    if (code != 0) return code;
  }
  return skipped == 0 ? 0 : kOwnError;
}

}  // namespace cli
