// The files of a local sandbox: the agent opens them, the runner reads and writes through the descriptors.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "runner/local/agent_protocol.hpp"
#include "runner/local/unique_fd.hpp"
#include "runner/runner.hpp"
#include "runner/work_queue.hpp"

namespace cwsandbox::runner::local {

/// The agent, for file operations. Whoever waits for an answer holds it; runs on its executor alone.
class FileAgent {
 public:
  struct Answer {
    std::uint64_t seq = 0;
    int error = 0;  ///< an errno
    UniqueFd fd;    ///< whatever the agent sent, if anything
  };

  /// What is asked for. The paths hold no NUL and are shorter than PATH_MAX.
  struct Question {
    Question(agent::FileOp its_op, std::string its_path) : op(its_op), path(std::move(its_path)) {}
    agent::FileOp op;
    std::uint8_t flags = 0;
    std::uint32_t mode = 0;
    std::int64_t modified = 0;
    std::string path, second;
  };

  FileAgent() = default;
  FileAgent(const FileAgent&) = delete;
  FileAgent& operator=(const FileAgent&) = delete;
  virtual ~FileAgent() = default;

  /// Throws RunnerError when the sandbox has gone or too much is under way.
  [[nodiscard]] virtual asio::awaitable<Answer> ask(const Question& question) = 0;
  /// The file that the `create` with this number began takes its name.
  [[nodiscard]] virtual asio::awaitable<Answer> commit(std::uint64_t seq) = 0;
  /// Memory for the next bytes of that file is the sandbox's from now on, before anybody writes them.
  [[nodiscard]] virtual asio::awaitable<Answer> reserve(std::uint64_t seq, std::int32_t bytes) = 0;
  virtual void abort(std::uint64_t seq) noexcept = 0;
  /// Ends the sandbox, whose agent has sent what it must not, and throws.
  [[noreturn]] virtual void refuse() = 0;

  [[nodiscard]] virtual const asio::any_io_executor& executor() const noexcept = 0;
  /// Who the sandbox's user is outside it.
  [[nodiscard]] virtual uid_t uid() const noexcept = 0;
  [[nodiscard]] virtual gid_t gid() const noexcept = 0;
  /// Whether users have the same numbers here as inside. Else the sandbox's own is 1000 there, and all others are nobody.
  [[nodiscard]] virtual bool shares_users() const noexcept { return false; }
  /// Whether so many bytes more of files fit into the sandbox's memory without anybody's being killed for them.
  [[nodiscard]] virtual bool has_room(std::uint64_t /*bytes*/) const { return true; }
  /// What may wait for its files.
  [[nodiscard]] std::shared_ptr<WorkQueue> calls() {
    if (!calls_) calls_ = std::make_shared<WorkQueue>(executor());
    return calls_;
  }

 private:
  std::shared_ptr<WorkQueue> calls_;
};

[[nodiscard]] std::unique_ptr<Files> make_local_files(std::shared_ptr<FileAgent> agent);

/// A whole file, before the sandbox is anybody's. Throws as Files does.
[[nodiscard]] asio::awaitable<void> write_whole_file(std::shared_ptr<FileAgent> agent, std::string path, std::string_view content);

}  // namespace cwsandbox::runner::local
