// PID 1 of a sandbox: starts processes, reaps, delivers signals, and hands out the descriptors of what it started.
//
// It is the only program in the sandbox that the runner talks to, and it never touches a process's data nor a file's, but hands out
// descriptors of files too. No exceptions and nothing of the C++ runtime: see main.cpp. See docs/decisions/0002-local-agent.md.
#include "runner/local/agent/agent.hpp"

#include <fcntl.h>
#include <linux/memfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "runner/local/agent/files.hpp"
#include "runner/local/agent_protocol.hpp"
#include "runner/local/unique_fd.hpp"

namespace cwsandbox::runner::local::agent {

namespace {

std::int64_t now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::int64_t>(t.tv_sec) * 1000 + t.tv_nsec / 1000000;
}

// ---- The processes that were started here, by pid ----

struct Record {
  pid_t pid = 0;  // 0: free
  bool leader_ended = false;
  bool is_main = false;
  bool is_worker = false;  // of a file operation's
  int result = -1;         // what a worker makes
  std::uint64_t seq = 0;
};

void tell_group_gone(const Record& record);
[[nodiscard]] bool group_gone(pid_t group) { return kill(-group, 0) != 0 && errno == ESRCH; }

// Open addressing with linear probing. Removal moves later entries up, so there are no tombstones and every operation is O(1).
class Records {
 public:
  Record* find(pid_t pid) {
    if (capacity_ == 0) return nullptr;
    for (std::size_t i = home(pid);; i = next(i)) {
      if (slots_[i].pid == pid) return &slots_[i];
      if (slots_[i].pid == 0) return nullptr;
    }
  }

  // A number that comes again belongs to the newest process: the old group must have gone for the kernel to give it out.
  bool put(const Record& record) {
    if (Record* old = find(record.pid)) {
      if (old->leader_ended) forget_group(*old);
      *old = record;
      return true;
    }
    if ((count_ + 1) * 2 > capacity_ && !make_room()) return false;
    insert(record);
    return true;
  }

  /// Groups whose leader has ended and that may have others.
  [[nodiscard]] std::size_t left_behind() const { return left_behind_; }
  void leave_behind(Record& record) {
    record.leader_ended = true;
    ++left_behind_;
  }
  /// Tells of a group that its leader has left, and that is gone now.
  void look_at_group(pid_t group) {
    const Record* record = find(group);
    if (record == nullptr || !record->leader_ended || !group_gone(group)) return;
    forget_group(*record);
    remove(group);
  }

  void remove(pid_t pid) {
    Record* found = find(pid);
    if (found == nullptr) return;
    std::size_t hole = static_cast<std::size_t>(found - slots_);
    for (std::size_t i = next(hole); slots_[i].pid != 0; i = next(i)) {
      const std::size_t wanted = home(slots_[i].pid);
      const bool may_move = hole <= i ? (wanted <= hole || wanted > i) : (wanted <= hole && wanted > i);
      if (may_move) {
        slots_[hole] = slots_[i];
        hole = i;
      }
    }
    slots_[hole] = Record{};
    --count_;
  }

 private:
  void forget_group(const Record& record) {
    --left_behind_;
    tell_group_gone(record);
  }
  std::size_t home(pid_t pid) const { return (static_cast<std::uint32_t>(pid) * 2654435761u) & (capacity_ - 1); }
  std::size_t next(std::size_t i) const { return (i + 1) & (capacity_ - 1); }
  void insert(const Record& record) {
    std::size_t i = home(record.pid);
    while (slots_[i].pid != 0) i = next(i);
    slots_[i] = record;
    ++count_;
  }
  // Forgets groups that have ended since their leader did, and whose last was another's to reap; grows when that was not enough.
  bool make_room() {
    std::size_t live = 0;
    for (std::size_t i = 0; i < capacity_; ++i) {
      if (slots_[i].pid == 0) continue;
      if (slots_[i].leader_ended && group_gone(slots_[i].pid)) {
        forget_group(slots_[i]);
        slots_[i].pid = -1;
      }
      if (slots_[i].pid > 0) ++live;
    }
    const std::size_t capacity = (live + 1) * 4 > capacity_ ? (capacity_ == 0 ? 64 : capacity_ * 2) : capacity_;
    auto* slots = static_cast<Record*>(calloc(capacity, sizeof(Record)));
    if (slots == nullptr) return false;
    Record* old = slots_;
    const std::size_t old_capacity = capacity_;
    slots_ = slots;
    capacity_ = capacity;
    count_ = 0;
    for (std::size_t i = 0; i < old_capacity; ++i) {
      if (old[i].pid > 0) insert(old[i]);
    }
    free(old);
    return true;
  }

  Record* slots_ = nullptr;
  std::size_t capacity_ = 0, count_ = 0, left_behind_ = 0;
};

Records records;
AgentOptions own;
bool stopping = false;
bool killed = false;
bool asked_again = false;
std::size_t running = 0;  // leaders that have not ended
std::int64_t stop_deadline = 0;
unsigned workers = 0;

// The grace of what is left when the main command has ended.
constexpr std::int32_t kEndGraceMs = 1000;
// How long the kernel may take to end what was killed before the agent goes without having reported it.
constexpr std::int64_t kKillGraceMs = 1000;
// File operations that take long, at one time.
constexpr unsigned kMaxWorkers = 16;
// After which such a one is given up.
constexpr unsigned kWorkerSeconds = 240;

// ---- Answers ----

bool send_note(Type type, const Note& note, const int* fds = nullptr, std::size_t fd_count = 0) {
  char frame[kNoteFrame];
  write_note(frame, type, note);
  iovec part{frame, sizeof frame};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxDescriptors)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd_count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
    memcpy(CMSG_DATA(header), fds, sizeof(int) * fd_count);
  }
  std::size_t sent = 0;
  while (sent < sizeof frame) {
    part = {frame + sent, sizeof frame - sent};
    const ssize_t n = sendmsg(own.control, &message, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (sent == 0 && fd_count > 0 && errno != EPIPE && errno != ECONNRESET) return false;
      leave(0);  // nobody listens any more
    }
    sent += static_cast<std::size_t>(n);
    message.msg_control = nullptr;
    message.msg_controllen = 0;
  }
  return true;
}

void tell_group_gone(const Record& record) {
  Note note;
  note.seq = record.seq;
  note.pid = static_cast<std::uint32_t>(record.pid);
  send_note(Type::group_gone, note);
}

void send_failure(std::uint64_t seq, int error, Stage stage) {
  Note note;
  note.seq = seq;
  note.value = error;
  note.detail = static_cast<std::uint8_t>(stage);
  send_note(Type::start_failed, note);
}

// ---- Who is killed first when memory runs out ----

// Above this process and bubblewrap, without which there is no sandbox: whatever is large, but also when nothing is, because it is
// files that have taken the memory. Of a sandbox with 16 MiB it is 2.4 MiB and twice that.
constexpr int kMainScore = 150;
constexpr int kOthersScore = 300;
constexpr int kMaxScore = 1000;

int own_score = 0;

// This process's, which it bequeaths. Raising it takes no privilege, nor does going back.
void set_score(int score) {
  if (own.oom_score < 0) return;
  if (score > kMaxScore) score = kMaxScore;
  char text[8];
  char* at = text + sizeof text;
  unsigned left = static_cast<unsigned>(score < 0 ? -score : score);
  do *--at = static_cast<char>('0' + left % 10);
  while ((left /= 10) > 0);
  if (score < 0) *--at = '-';
  static_cast<void>(!pwrite(own.oom_score, at, static_cast<std::size_t>(text + sizeof text - at), 0));
}

void read_own_score() {
  char text[8] = {};
  if (own.oom_score >= 0 && pread(own.oom_score, text, sizeof text - 1, 0) > 0)
    own_score = static_cast<int>(strtol(text, nullptr, 10));
}

// ---- Starting ----

struct Child {
  char** argv = nullptr;
  char** env = nullptr;
  const char* cwd = nullptr;
  int in = -1, out = -1, err = -1;
  int terminal = -1;
  // Written by the child, which shares this memory until it has executed the program.
  volatile int error = 0;
  volatile Stage stage = Stage::program;
};

// As execvpe, but a file without a known format is an error and not a shell script.
int execute(Child& child) {
  const char* name = child.argv[0];
  if (name[0] == '\0') return ENOENT;
  if (strchr(name, '/') != nullptr) {
    execve(name, child.argv, child.env);
    return errno;
  }
  const char* path = nullptr;
  for (char** e = child.env; *e != nullptr; ++e) {
    if (strncmp(*e, "PATH=", 5) == 0) path = *e + 5;
  }
  if (path == nullptr) path = "/usr/local/bin:/usr/bin:/bin";
  const std::size_t name_length = strlen(name);
  if (name_length > 255) return ENAMETOOLONG;
  bool denied = false;
  for (const char* at = path;;) {
    const char* end = strchrnul(at, ':');
    const auto length = static_cast<std::size_t>(end - at);
    char full[4096];
    if (length + name_length + 2 <= sizeof full) {
      char* to = full;
      if (length > 0) {
        memcpy(to, at, length);
        to += length;
        *to++ = '/';
      }
      memcpy(to, name, name_length + 1);
      execve(full, child.argv, child.env);
      if (errno == EACCES) {
        denied = true;
      } else if (errno != ENOENT && errno != ENOTDIR && errno != ENODEV && errno != ESTALE) {
        return errno;
      }
    }
    if (*end == '\0') break;
    at = end + 1;
  }
  return denied ? EACCES : ENOENT;
}

int run_child(void* data) {
  auto& child = *static_cast<Child*>(data);
  set_score(own_score);  // the agent's, which waits until the program has been executed: this process has its own already
  const auto fail = [&child](int error, Stage stage) {
    child.error = error;
    child.stage = stage;
    _exit(127);
  };
  if (child.terminal >= 0) {
    if (setsid() < 0 || ioctl(child.terminal, TIOCSCTTY, 0) != 0) fail(errno, Stage::stdio);
  } else if (setpgid(0, 0) != 0) {
    fail(errno, Stage::fork);
  }
  // The agent itself has /dev/null in all three, so what is not replaced is right already, and no source lies below 3.
  const int wanted[3] = {child.in, child.out, child.err};
  for (int i = 0; i < 3; ++i) {
    if (wanted[i] >= 0 && dup2(wanted[i], i) < 0) fail(errno, Stage::stdio);
  }
  // What is open is exactly 0, 1 and 2, whatever the agent holds.
  if (syscall(SYS_close_range, 3u, ~0u, 0u) != 0) fail(errno, Stage::stdio);
  // Programs that use select() count on few, and can ask for more themselves.
  const rlimit open_files{own.open_files < 1024 ? own.open_files : 1024, own.open_files};
  if (setrlimit(RLIMIT_NOFILE, &open_files) != 0) fail(errno, Stage::fork);
  if (chdir(child.cwd) != 0) fail(errno, Stage::cwd);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  fail(execute(child), Stage::program);
  return 127;
}

alignas(64) char child_stack[64 * 1024];

void close_all(const int* fds, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (fds[i] >= 0) close(fds[i]);
  }
}

void start_process(const Start& start) {
  if (stopping) return send_failure(start.seq, ECANCELED, Stage::stopping);

  // The strings lie where they are; only the tables of pointers are made.
  const std::size_t pointers = std::size_t{start.argc} + start.envc + 2;
  auto** table = static_cast<char**>(malloc(pointers * sizeof(char*)));
  if (table == nullptr) return send_failure(start.seq, ENOMEM, Stage::fork);
  char* at = const_cast<char*>(start.strings.data());
  Child child;
  child.cwd = at;
  child.argv = table;
  child.env = table + start.argc + 1;
  const auto skip = [&at] { at += strlen(at) + 1; };
  skip();
  for (std::uint32_t i = 0; i < start.argc; ++i, skip()) child.argv[i] = at;
  child.argv[start.argc] = nullptr;
  for (std::uint32_t i = 0; i < start.envc; ++i, skip()) child.env[i] = at;
  child.env[start.envc] = nullptr;

  int ours[3] = {-1, -1, -1};
  int theirs[3] = {-1, -1, -1};
  std::size_t our_count = 0, their_count = 0;
  bool ready = true;
  if ((start.flags & kWithTty) != 0) {
    const int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    int unlock = 0;
    int slave = -1;
    if (master >= 0) ours[our_count++] = master;
    ready = master >= 0 && ioctl(master, TIOCSPTLCK, &unlock) == 0 &&
            (slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) >= 0;
    if (slave >= 0) theirs[their_count++] = slave;
    if (ready && start.width > 0 && start.height > 0) {
      const winsize size{start.height, start.width, 0, 0};
      ioctl(master, TIOCSWINSZ, &size);
    }
    child.terminal = child.in = child.out = child.err = slave;
  } else {
    int ends[2];
    const auto make_pipe = [&](bool input) {
      if (pipe2(ends, O_CLOEXEC) != 0) return -1;
      ours[our_count++] = ends[input ? 1 : 0];
      theirs[their_count++] = ends[input ? 0 : 1];
      return ends[input ? 0 : 1];
    };
    if ((start.flags & kWithStdin) != 0) ready = (child.in = make_pipe(true)) >= 0;
    ready = ready && (child.out = make_pipe(false)) >= 0 && (child.err = make_pipe(false)) >= 0;
  }
  if (!ready) {
    const int error = errno;
    close_all(ours, our_count);
    close_all(theirs, their_count);
    free(table);
    return send_failure(start.seq, error, Stage::stdio);
  }

  // As vfork: the agent waits until the program has been executed, so an error comes back in plain memory, without a pipe for it.
  set_score(own_score + ((start.flags & kMain) != 0 ? kMainScore : kOthersScore));
  const pid_t pid = clone(run_child, child_stack + sizeof child_stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &child);
  const int clone_error = errno;
  set_score(own_score);
  close_all(theirs, their_count);
  free(table);
  if (pid < 0 || child.error != 0) {
    close_all(ours, our_count);
    if (pid < 0) return send_failure(start.seq, clone_error, Stage::fork);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return send_failure(start.seq, child.error, child.stage);
  }

  Record record;
  record.pid = pid;
  record.seq = start.seq;
  record.is_main = (start.flags & kMain) != 0;
  Note note;
  note.seq = start.seq;
  note.pid = static_cast<std::uint32_t>(pid);
  note.detail = static_cast<std::uint8_t>(our_count);
  const bool kept = records.put(record);
  if (kept) ++running;
  const bool sent = kept && send_note(Type::started, note, ours, our_count);
  const int error = kept ? errno : ENOMEM;
  close_all(ours, our_count);
  if (!sent) {
    // Too many descriptors under way, or no memory: nobody could ever talk to the process.
    kill(-pid, SIGKILL);
    records.remove(pid);
    if (kept) --running;
    send_failure(start.seq, error, Stage::stdio);
  }
}

// ---- Files ----

void send_file(std::uint64_t seq, int error, const UniqueFd& fd) {
  Note note;
  note.seq = seq;
  note.value = error;
  const int given = fd.get();
  note.detail = error == 0 && fd ? 1 : 0;
  if (send_note(Type::file_done, note, &given, note.detail)) return;
  // Too many descriptors under way.
  note.value = errno;
  abort_file(seq);
  note.detail = 0;
  send_note(Type::file_done, note);
}

// Whatever else this process has open belongs to nobody but itself, and is to end with it.
void close_all_but(int one, int other) {
  unsigned from = 3;
  for (const int kept : {one < other ? one : other, one < other ? other : one}) {
    const auto number = static_cast<unsigned>(kept);
    if (kept < 3) continue;
    if (number > from) syscall(SYS_close_range, from, number - 1, 0u);
    from = number + 1;
  }
  syscall(SYS_close_range, from, ~0u, 0u);
}

// What may take long runs in a process of its own: `work` gives an errno, which becomes its exit code. It inherits being closed to
// the others in the sandbox, who can kill it, though, as they can kill each other. `source` is what it reads, -1: nothing.
template <class Work>
int start_worker(std::uint64_t seq, int source, UniqueFd result, Work work) {
  if (stopping) return ECANCELED;
  if (workers >= kMaxWorkers) return EAGAIN;
  set_score(own_score + kOthersScore);
  const pid_t pid = fork();
  const int fork_error = errno;
  if (pid != 0) set_score(own_score);
  if (pid < 0) return fork_error;
  if (pid == 0) {
    close_all_but(source, result.get());
    setpgid(0, 0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    alarm(kWorkerSeconds);
    _exit(work());
  }
  Record record;
  record.pid = pid;
  record.seq = seq;
  record.is_worker = true;
  record.result = result.get();
  if (!records.put(record)) {
    kill(pid, SIGKILL);  // reaped as an orphan
    return ENOMEM;
  }
  static_cast<void>(result.release());
  ++workers;
  return 0;
}

void end_worker(const Record& record, int status) {
  const UniqueFd result(record.result);
  const std::uint64_t seq = record.seq;
  records.remove(record.pid);
  --workers;
  const bool late = WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
  int error = WIFEXITED(status) ? WEXITSTATUS(status) : late ? ETIMEDOUT : stopping ? ECANCELED : EIO;
  if (error == 0 && result && lseek(result.get(), 0, SEEK_SET) < 0) error = errno;
  send_file(seq, error, result);
}

// The content of a file of /proc's is copied: the runner must neither wait for it nor read it with rights that are not the
// sandbox's.
int start_copy(std::uint64_t seq, const UniqueFd& from) {
  struct stat status{};
  UniqueFd copy(static_cast<int>(syscall(SYS_memfd_create, "copy", MFD_CLOEXEC)));
  if (!copy || fstat(from.get(), &status) != 0 || fchmod(copy.get(), status.st_mode & 07777) != 0) return errno;
  const int to = copy.get();
  const auto work = [&from, to] { return copy_pseudo(from.get(), to); };
  return start_worker(seq, from.get(), std::move(copy), work);
}

void work_on_file(const FileRequest& request) {
  UniqueFd out;
  bool later = false;
  int error = 0;
  switch (request.op) {
    case FileOp::open:
      error = open_file(request, out, later);
      if (error == 0 && later) error = start_copy(request.seq, out);
      break;
    case FileOp::create:
      error = create_file(request, out);
      break;
    case FileOp::stat:
      error = stat_file(request, out);
      break;
    case FileOp::list:
      error = list_directory(request, out);
      break;
    case FileOp::make_directory:
      error = make_directory(request);
      break;
    case FileOp::remove:
      error = remove_file(request);
      later = error == ENOTEMPTY && (request.flags & kRecursive) != 0;
      if (later) error = start_worker(request.seq, -1, UniqueFd(), [&request] { return remove_tree(request); });
      break;
    case FileOp::rename:
      error = rename_file(request);
      break;
    case FileOp::watch:
      error = watch_file(request, out);
      break;
  }
  if (error == 0 && later) return;
  send_file(request.seq, error, out);
}

// ---- Ending ----

void kill_all() {
  if (!killed) kill(-1, SIGKILL);
  killed = true;
  stop_deadline = now_ms() + kKillGraceMs;
}

void begin_stop(std::int32_t grace_ms) {
  const std::int64_t deadline = now_ms() + (grace_ms < 0 ? 0 : grace_ms);
  if (killed) return;
  if (!stopping || deadline < stop_deadline) stop_deadline = deadline;
  if (grace_ms <= 0) {
    stopping = true;
    kill_all();
  } else if (!stopping) {
    stopping = true;
    // Everything in the namespace but this process; what is stopped must run to see it.
    kill(-1, SIGTERM);
    kill(-1, SIGCONT);
  }
}

// As waitpid. `group`: of which it was, while there are groups of whose end somebody is to hear; it can be asked only before.
pid_t next_ended(int& status, pid_t& group) {
  group = 0;
  if (records.left_behind() == 0) return waitpid(-1, &status, WNOHANG);
  siginfo_t ended{};
  if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) != 0) return -1;
  if (ended.si_pid == 0) return 0;
  group = getpgid(ended.si_pid);
  return waitpid(ended.si_pid, &status, WNOHANG);
}

void reap() {
  for (;;) {
    int status = 0;
    pid_t group = 0;
    const pid_t pid = next_ended(status, group);
    if (pid < 0 && errno == EINTR) continue;
    if (pid < 0 && stopping) leave(0);  // ECHILD: everything has ended, and has been reported
    if (pid <= 0) return;
    Record* record = records.find(pid);
    if (record == nullptr || record->leader_ended) {  // an orphan
      if (group > 0) records.look_at_group(group);
      continue;
    }
    if (record->is_worker) {
      end_worker(*record, status);
      continue;
    }
    Note note;
    note.seq = record->seq;
    note.pid = static_cast<std::uint32_t>(pid);
    note.value = status;
    // A group whose leader has ended can still be signalled while it has members.
    const bool alone = group_gone(pid);
    note.detail = alone ? 0 : 1;
    send_note(Type::exited, note);
    const bool was_main = record->is_main;
    --running;
    if (alone) {
      records.remove(pid);
    } else {
      records.leave_behind(*record);
    }
    if (was_main) begin_stop(kEndGraceMs);
    if (stopping && !killed && running == 0 && !asked_again) {
      // What a leader started while the first request was on its way has not had it, and would wait for the end of the grace.
      asked_again = true;
      kill(-1, SIGTERM);
      kill(-1, SIGCONT);
    }
  }
}

void signal_group(const Note& note) {
  const Record* record = records.find(static_cast<pid_t>(note.pid));
  if (note.pid <= 1 || record == nullptr || record->seq != note.seq || record->is_worker) return;
  if (kill(-record->pid, note.value) != 0 && errno == ESRCH) records.look_at_group(record->pid);
}

// ---- Requests ----

char* buffer = nullptr;
std::size_t buffer_size = 0, buffer_used = 0;
constexpr std::size_t kSmallBuffer = 64 * 1024;

void handle(const Frame& frame) {
  Note note;
  Start start;
  FileRequest file;
  switch (static_cast<Type>(frame.type)) {
    case Type::start:
      if (!read_start(frame.payload, start)) leave(2);
      return start_process(start);
    case Type::signal:
      if (!read_note(frame.payload, note)) leave(2);
      return signal_group(note);
    case Type::stop:
      if (!read_note(frame.payload, note)) leave(2);
      return begin_stop(note.value);
    case Type::file:
      if (!read_file(frame.payload, file)) leave(2);
      return work_on_file(file);
    case Type::commit:
      if (!read_note(frame.payload, note)) leave(2);
      return send_file(note.seq, commit_file(note.seq), UniqueFd());
    case Type::reserve:
      if (!read_note(frame.payload, note)) leave(2);
      return send_file(note.seq, reserve_file(note.seq, note.value), UniqueFd());
    case Type::abort:
      if (!read_note(frame.payload, note)) leave(2);
      return abort_file(note.seq);
    default:
      leave(2);
  }
}

void resize_buffer(std::size_t size) {
  auto* bytes = static_cast<char*>(realloc(buffer, size));
  if (bytes == nullptr) leave(3);
  buffer = bytes;
  buffer_size = size;
}

void read_requests() {
  const ssize_t n = recv(own.control, buffer + buffer_used, buffer_size - buffer_used, MSG_DONTWAIT);
  if (n < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    leave(0);
  }
  if (n == 0) leave(0);  // the runner has gone: so does the sandbox
  buffer_used += static_cast<std::size_t>(n);
  std::string_view bytes(buffer, buffer_used);
  Frame frame;
  for (;;) {
    const Parse parse = take_frame(bytes, kMaxRequest, frame);
    if (parse == Parse::violation) leave(2);
    if (parse == Parse::incomplete) break;
    handle(frame);
  }
  if (!bytes.empty() && bytes.data() != buffer) memmove(buffer, bytes.data(), bytes.size());
  buffer_used = bytes.size();
  if (buffer_used == buffer_size) {
    resize_buffer(buffer_size * 2);  // bounded: take_frame refuses a frame over kMaxRequest before it is buffered
  } else if (buffer_used == 0 && buffer_size > kSmallBuffer) {
    resize_buffer(kSmallBuffer);
  }
}

void on_child(int) {}

}  // namespace

bool prepare_process() {
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC | O_NOCTTY);
  if (null < 0) return false;
  for (int fd = 0; fd < 3; ++fd) {
    if (dup2(null, fd) < 0) return false;
  }
  if (null > 2) close(null);
  umask(022);
  // A dump would go to whoever handles the host's. 1 byte, which the kernel takes for none at all: with 0 it still calls a handler.
  const rlimit core{1, 1};
  setrlimit(RLIMIT_CORE, &core);
  // Descriptors on their way through sockets are counted for a user of the host, all sandboxes together, and held against the limit
  // of whoever sends: this process sends while programs, which may have half as many, have all on their way that they may.
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }

  // A program that is started begins with every signal at its default and none blocked, whatever the gateway's host did.
  for (int number = 1; number < 65; ++number) signal(number, SIG_DFL);
  struct sigaction action{};
  action.sa_handler = on_child;
  sigaction(SIGCHLD, &action, nullptr);
  sigset_t all;
  sigfillset(&all);
  return sigprocmask(SIG_SETMASK, &all, nullptr) == 0;
}

void serve(const AgentOptions& options) {
  own = options;
  read_own_score();
  sigset_t waiting;
  sigfillset(&waiting);
  sigdelset(&waiting, SIGCHLD);

  resize_buffer(kSmallBuffer);
  Note hello;
  hello.value = kVersion;
  send_note(Type::hello, hello);

  // Signals come only while it waits here, so a child that ends is noticed at once and none is missed.
  pollfd fds[2] = {{own.control, POLLIN, 0}, {own.watched, POLLIN, 0}};
  for (;;) {
    timespec timeout{};
    if (stopping) {
      const std::int64_t left = stop_deadline - now_ms();
      if (left <= 0) {
        if (killed) leave(0);
        kill_all();
        continue;
      }
      timeout.tv_sec = static_cast<time_t>(left / 1000);
      timeout.tv_nsec = static_cast<long>(left % 1000) * 1000000;
    }
    const int n = ppoll(fds, 2, stopping ? &timeout : nullptr, &waiting);
    if (n < 0) {
      if (errno != EINTR) leave(3);
      reap();
      continue;
    }
    if (fds[1].revents != 0) leave(0);
    if (fds[0].revents != 0) read_requests();
    if (stopping) reap();
  }
}

}  // namespace cwsandbox::runner::local::agent
