#include "runner/kubernetes/program.hpp"

#include "base/text.hpp"
#include "runner/local/unique_fd.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string_view>

namespace cwsandbox::runner::kubernetes {

namespace {

using boost::system::error_code;
using local::UniqueFd;

constexpr std::size_t kMaxErrorTail = 8 * 1024;
constexpr std::size_t kMaxErrorLine = 300;

struct Pipe {
  UniqueFd read, write;
  [[nodiscard]] bool open() {
    std::array<int, 2> fds{};
    if (::pipe2(fds.data(), O_CLOEXEC) != 0) return false;
    read.reset(fds[0]);
    write.reset(fds[1]);
    return true;
  }
};

std::vector<std::string> environment_with(const std::vector<std::pair<std::string, std::string>>& more) {
  std::vector<std::string> out;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    bool replaced = false;
    for (const auto& [name, value] : more)
      replaced = replaced || (text.size() > name.size() && text[name.size()] == '=' && text.starts_with(name));
    if (!replaced) out.emplace_back(text);
  }
  for (const auto& [name, value] : more) out.push_back(name + "=" + value);
  return out;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  out.reserve(texts.size() + 1);
  for (auto& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

// The process while it is not known to have ended.
class Child {
 public:
  Child() = default;
  ~Child() { end(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // An errno.
  int start(Program& program, int out, int err) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
    ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, out, 1);
    ::posix_spawn_file_actions_adddup2(&actions, err, 2);
    // Whatever the process around us has left open.
    ::posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    sigset_t none, all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setsigdefault(&attributes, &all);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    auto argv = pointers(program.argv);
    auto env = environment_with(program.env);
    auto envp = pointers(env);
    const int error = ::posix_spawnp(&pid_, argv.front(), &actions, &attributes, argv.data(), envp.data());
    ::posix_spawnattr_destroy(&attributes);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
      pid_ = -1;
      return error;
    }
    // Nobody else waits for it, so the number is still its own.
    handle_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    return handle_ ? 0 : errno;
  }
  // Readable when it has ended.
  [[nodiscard]] int release_handle() noexcept { return handle_.release(); }
  void kill() noexcept {
    if (pid_ > 0) ::kill(-pid_, SIGKILL);
  }
  // It has ended: how.
  int reap() noexcept {
    siginfo_t info{};
    int result = 0;
    do result = ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED);
    while (result != 0 && errno == EINTR);
    pid_ = -1;
    if (result != 0) return -1;  // somebody has SIGCHLD ignored, or waits for every process
    return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
  }

 private:
  void end() noexcept {
    if (pid_ <= 0) return;
    kill();
    reap();  // a killed process ends at once
  }
  pid_t pid_ = -1;
  UniqueFd handle_;
};

using Descriptor = asio::posix::stream_descriptor;

// Kept by what it waits for, so that a program whose caller has gone is still waited for when it has been killed.
class Run : public std::enable_shared_from_this<Run> {
 public:
  Run(const asio::any_io_executor& executor, std::size_t max_output)
      : done(executor, asio::steady_timer::time_point::max()),
        output_(executor),
        errors_(executor),
        ended_(executor),
        deadline_(executor),
        max_output_(max_output) {}

  void start(Program& program, std::chrono::steady_clock::time_point deadline) {
    Pipe out, err;
    if (!out.open() || !err.open()) {
      result.start_error = errno;
    } else {
      result.start_error = child_.start(program, out.write.get(), err.write.get());
    }
    if (result.start_error != 0) {
      finish();
      return;
    }
    output_.assign(out.read.release());
    errors_.assign(err.read.release());
    // Only these ends; Asio's reads then wait for nothing.
    output_.non_blocking(true);
    errors_.non_blocking(true);
    ended_.assign(child_.release_handle());
    auto self = shared_from_this();
    read_output();
    read_errors();
    ended_.async_wait(Descriptor::wait_read, [self](error_code failed) {
      if (!failed) self->on_end();
    });
    deadline_.expires_at(deadline);
    deadline_.async_wait([self](error_code failed) {
      if (failed || self->finished) return;
      self->result.timed_out = true;
      self->finish();
    });
  }

  // Ends what is under way; the program's own end is still waited for.
  void finish() noexcept {
    finished = true;
    child_.kill();
    error_code ignored;
    output_.close(ignored);
    errors_.close(ignored);
    deadline_.cancel();
    done.cancel();
  }

  ProgramResult result;
  asio::steady_timer done;  // cancelled when the result is there
  bool finished = false;

 private:
  void read_output() {
    output_.async_read_some(asio::buffer(output_chunk_), [self = shared_from_this()](error_code ec, std::size_t n) {
      if (self->finished || !self->take_output(n) || ec) return;
      self->read_output();
    });
  }
  void read_errors() {
    errors_.async_read_some(asio::buffer(error_chunk_), [self = shared_from_this()](error_code ec, std::size_t n) {
      if (self->finished) return;
      self->take_errors(n);
      if (!ec) self->read_errors();
    });
  }
  bool take_output(std::size_t n) {
    result.output.append(output_chunk_.data(), n);
    if (result.output.size() <= max_output_) return true;
    result.too_long = true;
    finish();
    return false;
  }
  void take_errors(std::size_t n) {
    tail_.append(error_chunk_.data(), n);
    if (tail_.size() > kMaxErrorTail) tail_.erase(0, tail_.size() - kMaxErrorTail);
  }

  void on_end() {
    result.status = child_.reap();
    if (finished) return;
    // What it has written last; what others still write is not waited for.
    error_code ec;
    for (std::size_t n = 1; n > 0 && !ec;) {
      n = output_.read_some(asio::buffer(output_chunk_), ec);
      if (!take_output(n)) return;
    }
    ec = {};
    for (std::size_t n = 1, all = 0; n > 0 && !ec && all < kMaxErrorTail; all += n) {
      n = errors_.read_some(asio::buffer(error_chunk_), ec);
      take_errors(n);
    }
    result.last_error_line = last_line(tail_);
    finish();
  }

  static std::string last_line(std::string_view text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) text.remove_suffix(1);
    if (const auto newline = text.rfind('\n'); newline != std::string_view::npos) text.remove_prefix(newline + 1);
    return base::printable(text, kMaxErrorLine);
  }

  Child child_;
  Descriptor output_, errors_, ended_;
  asio::steady_timer deadline_;
  std::size_t max_output_;
  std::string tail_;
  std::array<char, 4096> output_chunk_{}, error_chunk_{};
};

}  // namespace

asio::awaitable<ProgramResult> run_program(asio::any_io_executor executor, Program program,
                                           std::chrono::steady_clock::time_point deadline) {
  auto run = std::make_shared<Run>(executor, program.max_output);
  // However this ends, the program does too.
  struct End {
    std::shared_ptr<Run> run;
    explicit End(std::shared_ptr<Run> r) : run(std::move(r)) {}
    End(const End&) = delete;
    End& operator=(const End&) = delete;
    ~End() {
      if (!run->finished) run->finish();
    }
  };
  const End end{run};
  run->start(program, deadline);
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  if (!run->finished) co_await run->done.async_wait(token);
  co_return std::move(run->result);
}

}  // namespace cwsandbox::runner::kubernetes
