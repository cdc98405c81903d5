#include "runner/local/launcher.hpp"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <utility>

#include "base/descriptor_limit.hpp"
#include "runner/local/agent_protocol.hpp"

extern "C" {
extern const char cwsandbox_agent_image[] __attribute__((visibility("hidden")));
extern const char cwsandbox_agent_image_end[] __attribute__((visibility("hidden")));
}

namespace cwsandbox::runner::local {

namespace {

namespace fs = std::filesystem;

[[nodiscard]] RunnerError unavailable(const std::string& what) { return {ErrorCode::failed_precondition, kUnavailable, what}; }

[[nodiscard]] bool has_run_out(int error) { return error == EAGAIN || error == EMFILE || error == ENFILE || error == ENOMEM; }

[[nodiscard]] RunnerError out_of(const std::string& what, int error = errno) {
  return {ErrorCode::resource_exhausted, kUnavailable,
          "cannot start a sandbox: " + what + ": " + std::strerror(error) + base::descriptor_hint(error)};
}

// ---- What the sandbox sees ----

// In memory, and all that can be written in a sandbox.
struct WritablePlace {
  const char *path, *mode;
};
constexpr WritablePlace kWritable[] = {{"/dev/shm", "1777"},      {"/tmp", "1777"},       {"/var/tmp", "1777"},
                                       {"/home/sandbox", "0755"}, {"/workspace", "0755"}, {"/run", "0755"}};

struct SmallFile {
  const char* path;
  std::string_view text;
};

constexpr SmallFile kOwnFiles[] = {
    {"/etc/passwd",
     "root:x:0:0:root:/root:/usr/sbin/nologin\nsandbox:x:1000:1000:sandbox:/home/sandbox:/bin/sh\n"
     "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
    {"/etc/group", "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n"},
    {"/etc/hosts", "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n"},
    {"/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\nprotocols: files\n"},
    {"/etc/hostname", "sandbox\n"},
    {"/etc/resolv.conf", ""},
};

// Parts of /etc without which ordinary programs do not work, and none of which holds a secret. Folders are mounted; files, being
// small, are copied, because with bubblewrap a mount costs ten times as much (it reads the table of all mounts for each).
constexpr const char* kEtcFolders[] = {
    "/etc/alternatives",    "/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted",
    "/etc/crypto-policies", "/etc/perl",      "/etc/fonts",         "/etc/terminfo"};
constexpr std::string_view kEtcPrefixes[] = {"python3", "java"};
constexpr const char* kEtcFiles[] = {"/etc/ld.so.cache", "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf",
                                     "/etc/localtime",   "/etc/timezone",        "/etc/mime.types",
                                     "/etc/services",    "/etc/protocols"};
constexpr off_t kMaxCopied = 1 << 20;
constexpr int kFilterFd = agent::kImageFd + 1;  // and the next; bubblewrap closes both
constexpr int kFirstFileFd = kFilterFd + 2;
static_assert(kFirstFileFd + std::size(kOwnFiles) + std::size(kEtcFiles) < kMaxInherited);  // and one by which the child reports

constexpr const char* kSystemLinks[] = {"/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32"};

void add(std::vector<std::string>& to, std::initializer_list<std::string_view> words) {
  for (const std::string_view word : words) to.emplace_back(word);
}

void add_host_path(std::vector<std::string>& to, const fs::path& path) {
  std::error_code ec;
  const fs::file_status status = fs::symlink_status(path, ec);
  if (ec || !fs::exists(status)) return;
  if (fs::is_symlink(status)) {
    const fs::path target = fs::read_symlink(path, ec);
    if (!ec) add(to, {"--symlink", target.native(), path.native()});
  } else {
    add(to, {"--ro-bind-try", path.native(), path.native()});
  }
}

[[nodiscard]] bool is_program(const std::string& path) {
  struct stat status{};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && ::access(path.c_str(), X_OK) == 0;
}

[[nodiscard]] std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return is_program(name) ? fs::absolute(name).native() : std::string();
  const char* path = ::secure_getenv("PATH");
  std::string_view left = path != nullptr && *path != '\0' ? path : "/usr/local/bin:/usr/bin:/bin";
  for (;;) {
    const std::size_t end = left.find(':');
    const std::string_view directory = left.substr(0, end);
    // A relative entry would make it depend on where the gateway was started.
    if (!directory.empty() && directory.front() == '/') {
      std::string full = std::string(directory) + "/" + name;
      if (is_program(full)) return full;
    }
    if (end == std::string_view::npos) return {};
    left.remove_prefix(end + 1);
  }
}

[[nodiscard]] bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

[[nodiscard]] UniqueFd reopen(int fd) {
  return UniqueFd(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC));
}

// The agent's program, in memory: nothing to clean up, nothing that another user could put something else in the place of.
[[nodiscard]] UniqueFd make_image() {
  constexpr unsigned kNoexecSeal = 0x0008;
  constexpr unsigned kExec = 0x0010;
  int fd = -1;
  for (const unsigned more : {kExec, 0u, kNoexecSeal}) {  // what older kernels do not know, what they do, what a strict one allows
    fd = ::memfd_create("cwsandbox-agent", MFD_CLOEXEC | MFD_ALLOW_SEALING | more);
    if (fd >= 0) break;
  }
  if (fd < 0) throw out_of("memfd_create");
  UniqueFd writable(fd);
  if (!write_all(fd, {cwsandbox_agent_image, static_cast<std::size_t>(cwsandbox_agent_image_end - cwsandbox_agent_image)}) ||
      ::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    throw out_of("the agent's image");
  }
  ::fchmod(fd, 0555);
  // A file that is open for writing cannot be executed.
  UniqueFd readable = reopen(fd);
  if (!readable) throw out_of("/proc/self/fd");
  return readable;
}

[[nodiscard]] std::string first_word(const char* path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

// Since 5.14 the kernel counts a user's processes in each user namespace apart, and so in each sandbox.
[[nodiscard]] bool counts_by_namespace() {
  utsname name{};
  unsigned major = 0, minor = 0;
  return ::uname(&name) == 0 && std::sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
         (major > 5 || (major == 5 && minor >= 14));
}

// Root of the first of all user namespaces, whatever its number is here: that one owns this directory.
[[nodiscard]] bool is_root_of_the_machine() {
  struct stat status{};
  return ::stat("/proc/sys", &status) != 0 || status.st_uid == ::geteuid();
}

// Above this process's own by so much.
constexpr int kOomScore = 300;

constexpr const char* kControllerNames[] = {"memory", "CPU", "number of processes"};

constexpr const char* kInstall =
    "Install it (Debian and Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap), or use a gateway elsewhere by setting "
    "CWSANDBOX_BASE_URL.";

}  // namespace

Launcher::Launcher(const asio::any_io_executor& executor, LocalRunnerOptions options)
    : executor_(executor), options_(std::move(options)) {}

void Launcher::prepare() {
  if (prepared_) return;
  program_ = find_program(options_.bwrap);
  if (program_.empty()) {
    throw unavailable("sandboxes on this machine need bubblewrap, and the program '" + options_.bwrap + "' was not found. " +
                      kInstall);
  }
  find_user();
  if (!image_) image_ = make_image();
  if (!filters_.calls) filters_ = compile_syscall_filters();
  if (!self_) self_ = open_pidfd(::getpid());
  if (!self_ && has_run_out(errno)) throw out_of("pidfd_open");
  if (!self_)
    throw unavailable("sandboxes on this machine need Linux 5.9 or newer (pidfd_open: " + std::string(std::strerror(errno)) + ")");

  if (!groups_) groups_ = std::make_unique<ControlGroups>();
  own_pid_limits_ = counts_by_namespace() && !as_root_;  // the kernel does not count root's
  const std::string score = first_word("/proc/self/oom_score_adj");
  oom_score_ = std::to_string(std::min(1000, std::atoi(score.c_str()) + kOomScore));

  system_arguments_.clear();
  add(system_arguments_, {"--ro-bind", "/usr", "/usr"});
  for (const char* path : kSystemLinks) add_host_path(system_arguments_, path);
  std::error_code ec;
  for (const char* path : kEtcFolders) {
    if (!fs::is_empty(path, ec) && !ec) add_host_path(system_arguments_, path);
  }
  copied_.clear();
  for (const char* path : kEtcFiles) {
    if (fs::is_symlink(path, ec)) {
      add_host_path(system_arguments_, path);
    } else if (fs::is_regular_file(path, ec)) {
      copied_.emplace_back(path);
    }
  }
  for (fs::directory_iterator it("/etc", ec), end; !ec && it != end; it.increment(ec)) {
    const std::string name = it->path().filename().native();
    for (const std::string_view prefix : kEtcPrefixes) {
      if (name.starts_with(prefix)) add_host_path(system_arguments_, it->path());
    }
  }
  prepared_ = true;
}

void Launcher::find_user() {
  ChildFailure failure{EPERM, "setuid"};
  if (::geteuid() == 0) failure = try_to_become(options_.uid, options_.gid);
  // For anything but these nothing is to be run with more rights than it should have.
  if (failure.error != 0 && failure.error != EPERM && failure.error != EINVAL) throw out_of(failure.step, failure.error);
  drop_privileges_ = failure.error == 0;
  if (drop_privileges_ && options_.own_uids > 0) {
    // A namespace may know of fewer.
    const std::uint32_t last = options_.first_own_uid + options_.own_uids - 1;
    own_users_ = try_to_become(options_.first_own_uid, options_.gid).error == 0 && try_to_become(last, options_.gid).error == 0;
  }
  as_root_ = !drop_privileges_ && is_root_of_the_machine();
  if (as_root_) {
    say("sandboxes have root's user id on this machine, though not its rights, and a read-only /proc: this process is root there "
        "and "
        "cannot change users (" +
        std::string(failure.step) + ": " + std::strerror(failure.error) + ")");
  }
}

void Launcher::say(const std::string& what) const {
  if (options_.log) options_.log(what);
}

GroupLimits Launcher::group_limits(const ResourceSpec& resources) {
  const LocalLimits& all = options_.limits;
  GroupLimits limits;
  limits.memory = resources.memory_limit.value_or(all.memory);
  limits.cpu = resources.cpu_limit.value_or(all.cpu);
  limits.cpu_request = resources.cpu_request.value_or(all.cpu_share);
  // Where the kernel counts a sandbox's processes by itself, a group would cost time and add nothing.
  if (!own_pid_limits_) limits.pids = all.pids;
  const auto check = [this](ControlGroups::Controller controller, bool asked, std::initializer_list<std::uint32_t*> values) {
    const std::string& why = groups_->why_not(controller);
    if (why.empty()) return true;
    const std::string what = std::string("this machine cannot limit the ") + kControllerNames[controller] + " of a sandbox: " + why;
    if (asked) throw RunnerError(ErrorCode::unimplemented, "CWSANDBOX_NOT_IMPLEMENTED", what);
    if (said_[controller] != what) say(what);
    said_[controller] = what;
    for (std::uint32_t* value : values) *value = 0;
    return false;
  };
  if (limits.memory != 0 && !check(ControlGroups::memory, resources.memory_limit.has_value(), {})) limits.memory = 0;
  if (limits.cpu != 0 || limits.cpu_request != 0) {
    static_cast<void>(check(ControlGroups::cpu, resources.cpu_limit || resources.cpu_request, {&limits.cpu, &limits.cpu_request}));
  }
  if (limits.pids != 0) static_cast<void>(check(ControlGroups::pids, false, {&limits.pids}));
  return limits;
}

std::uint64_t Launcher::disk(const ResourceSpec& resources) const noexcept {
  const std::uint64_t memory = resources.memory_limit.value_or(options_.limits.memory);
  // Files are memory: whoever fills one place is to be told that it is full, not killed.
  return memory == 0 ? options_.limits.disk : std::min(options_.limits.disk, memory / 2);
}

class Launcher::Removal final : public WorkItem {
 public:
  explicit Removal(ControlGroup& of) : group(of) {}
  void work() noexcept override { gone = group.remove(); }

  ControlGroup& group;
  bool gone = false;
};

asio::awaitable<bool> Launcher::remove(std::shared_ptr<Launcher> self, ControlGroup& group) {
  Removal item(group);
  auto done = WorkQueue::run(self->threads_, item);
  co_await std::move(done);
  co_return item.gone;
}

class Launcher::Remount final : public WorkItem {
 public:
  void work() noexcept override { failure = remount(owner.get(), mounts.get(), places, options.c_str(), helper); }

  UniqueFd mounts, owner;
  int helper = -1;
  std::vector<const char*> places;
  std::string options;
  ChildFailure failure;
};

asio::awaitable<void> Launcher::limit_files(std::shared_ptr<Launcher> self, pid_t agent, ResourceSpec resources) {
  const std::uint64_t most = self->options_.limits.files;
  if (most == 0) co_return;
  Remount item;
  if (self->helper_) item.helper = self->image_.get();
  item.options = "size=" + std::to_string(self->disk(resources)) + ",nr_inodes=" + std::to_string(most);
  const std::string path = "/proc/" + std::to_string(agent) + "/ns/mnt";
  item.mounts.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  item.owner.reset(item.mounts ? ::ioctl(item.mounts.get(), NS_GET_USERNS) : -1);
  if (!item.owner) {
    item.failure = {errno, "its namespaces"};
  } else {
    for (const WritablePlace& place : kWritable) item.places.push_back(place.path);
    auto done = WorkQueue::run(self->threads_, item);
    co_await std::move(done);
  }
  const ChildFailure& failure = item.failure;
  if (failure.error == 0) co_return;
  if (has_run_out(failure.error)) throw out_of(failure.step, failure.error);
  const std::string what = "this machine cannot limit the number of files of a sandbox: " + std::string(failure.step) + ": " +
                           std::strerror(failure.error);
  if (self->said_files_ != what) self->say(what);
  self->said_files_ = what;
}

std::vector<std::string> Launcher::arguments(const std::vector<std::string>& copied, const ResourceSpec& resources) const {
  std::vector<std::string> to;
  to.reserve(200);
  add(to, {"bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--unshare-net"});
  if (disable_userns_) add(to, {"--disable-userns"});
  add(to, {"--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--new-session", "--cap-drop", "ALL", "--as-pid-1"});
  add(to, {"--add-seccomp-fd", std::to_string(kFilterFd), "--add-seccomp-fd", std::to_string(kFilterFd + 1)});
  to.insert(to.end(), system_arguments_.begin(), system_arguments_.end());
  int fd = kFirstFileFd;
  for (const SmallFile& file : kOwnFiles) add(to, {"--perms", "0444", "--file", std::to_string(fd++), file.path});
  for (const std::string& path : copied) add(to, {"--perms", "0444", "--file", std::to_string(fd++), path});
  add(to, {"--proc", "/proc", "--dev", "/dev"});
  const std::string size = std::to_string(disk(resources));
  for (const WritablePlace& place : kWritable) add(to, {"--perms", place.mode, "--size", size, "--tmpfs", place.path});
  std::string program = "/proc/self/fd/" + std::to_string(agent::kImageFd);
  if (image_as_data_) {
    program = "/run/cwsandbox/agent";
    add(to, {"--perms", "0555", "--ro-bind-data", std::to_string(agent::kImageFd), program});
  }
  // The machine's settings are in there, and root's to change, without any capability.
  if (as_root_) add(to, {"--remount-ro", "/proc"});
  // What bubblewrap builds on is a tmpfs without a limit that the sandbox's user owns.
  add(to, {"--remount-ro", "/dev", "--remount-ro", "/", "--", program});
  rlimit open{};
  ::getrlimit(RLIMIT_NOFILE, &open);
  rlim_t most = open.rlim_max == RLIM_INFINITY ? open.rlim_max : open.rlim_max / 2;  // see agent::prepare_process
  if (options_.limits.open_files != 0) most = std::min<rlim_t>(most, options_.limits.open_files);
  add(to, {std::to_string(most), std::to_string(own_pid_limits_ ? options_.limits.pids : 0)});
  return to;
}

// How long a child that nobody wants any more is waited for, which is killed: milliseconds.
constexpr int kEndMs = 1000;

/// A child that is being made, with all that it needs.
class Launcher::Launch final : public WorkItem {
 public:
  Launch() = default;
  // What nobody has taken is nobody's: the agent goes with its socket.
  ~Launch() override {
    if (!launched.monitor) return;
    launched.control.reset();
    kill_pidfd(launched.monitor.get(), SIGKILL);
    if (has_ended(launched.monitor.get(), kEndMs)) static_cast<void>(reap(launched.monitor.get()));
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
  void work() noexcept override {
    try {
      if (limits.any()) launched.group = groups->make(limits, owner);
      if (launched.group) {
        for (const UniqueFd& door : launched.group->doors()) doors.push_back(door.get());
      }
    } catch (...) {
      error = std::current_exception();
      return;
    }
    plan.doors = doors.data();
    plan.door_count = doors.size();
    launched.monitor = start_child(plan, failure);
    if (failure.error == 0 || failure.step != kHelperStep) return;
    plan.helper = -1;
    failure = {};
    launched.monitor = start_child(plan, failure);
  }

  ControlGroups* groups = nullptr;
  GroupLimits limits;
  std::string owner;
  std::exception_ptr error;
  Launched launched;
  std::vector<UniqueFd> files;  // those of `fds` that are this launch's own
  std::vector<int> fds, doors;
  std::string program, oom_score;
  std::vector<std::string> words;
  std::vector<char*> argv;
  ChildPlan plan;
  ChildFailure failure;
};

asio::awaitable<Launched> Launcher::launch(std::shared_ptr<Launcher> self, Shape shape) {
  Launch launch;
  launch.owner = std::move(shape.owner);
  self->plan(launch, shape.resources);
  if (!self->threads_) self->threads_ = std::make_shared<WorkQueue>(self->executor_, kLaunchWork);
  auto made = WorkQueue::run(self->threads_, launch);
  co_await std::move(made);
  co_return self->take(launch);
}

void Launcher::plan(Launch& launch, const ResourceSpec& resources) {
  prepare();
  launch.limits = group_limits(resources);
  launch.groups = groups_.get();
  const auto keep = [&launch](UniqueFd fd) {
    launch.fds.push_back(fd.get());
    launch.files.push_back(std::move(fd));
  };
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw out_of("socketpair");
  launch.launched.control.reset(ends[0]);
  UniqueFd theirs(ends[1]);
  if (::pipe2(ends, O_CLOEXEC) != 0) throw out_of("pipe");
  launch.launched.errors.reset(ends[0]);
  UniqueFd complaints(ends[1]);
  ::fcntl(launch.launched.errors.get(), F_SETFL, O_NONBLOCK);
  UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) throw out_of("/dev/null");
  // Descriptions of its own, because bubblewrap reads them to their ends.
  UniqueFd image = reopen(image_.get()), calls = reopen(filters_.calls.get()), arguments_filter = reopen(filters_.arguments.get());
  if (!image || !calls || !arguments_filter) throw out_of("what every sandbox gets");

  static_assert(agent::kControlFd == 3 && agent::kGatewayFd == 4 && agent::kImageFd == 5);
  launch.fds.push_back(null.get());
  keep(std::move(null));
  keep(std::move(complaints));
  keep(std::move(theirs));
  launch.fds.push_back(self_.get());
  keep(std::move(image));
  keep(std::move(calls));
  keep(std::move(arguments_filter));
  for (const SmallFile& file : kOwnFiles) {
    // Each is far smaller than a pipe.
    if (::pipe2(ends, O_CLOEXEC) != 0) throw out_of("pipe");
    keep(UniqueFd(ends[0]));
    const UniqueFd writer(ends[1]);
    if (!write_all(writer.get(), file.text)) throw out_of("pipe");
  }

  std::vector<std::string> copied;
  for (const std::string& path : copied_) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!file && has_run_out(errno)) throw out_of(path);
    struct stat status{};
    // It may have been replaced since; and what not everybody may read is not for a sandbox.
    if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) || (status.st_mode & S_IROTH) == 0) continue;
    if (status.st_size > kMaxCopied) continue;
    keep(std::move(file));
    copied.push_back(path);
  }
  launch.words = arguments(copied, resources);
  launch.argv.reserve(launch.words.size() + 1);
  for (std::string& word : launch.words) launch.argv.push_back(word.data());
  launch.argv.push_back(nullptr);

  ChildPlan& plan = launch.plan;
  launch.program = program_;
  launch.oom_score = oom_score_;
  plan.program = launch.program.c_str();
  plan.argv = launch.argv.data();
  plan.fds = launch.fds.data();
  plan.fd_count = static_cast<int>(launch.fds.size());
  if (helper_) plan.helper = agent::kImageFd;
  plan.drop = drop_privileges_;
  plan.uid = launch.launched.uid = next_user();
  plan.gid = options_.gid;
  plan.oom_score = launch.oom_score.c_str();
  plan.oom_score_size = launch.oom_score.size();
}

Launched Launcher::take(Launch& launch) {
  if (launch.error) std::rethrow_exception(launch.error);
  if (launch.plan.helper < 0) helper_ = false;
  if (!launch.launched.monitor) {
    const ChildFailure& failure = launch.failure;
    if (has_run_out(failure.error)) throw out_of(failure.step, failure.error);
    prepared_ = false;  // the program may have been replaced
    if (std::strcmp(failure.step, "exec") == 0) {
      throw unavailable("sandboxes on this machine need bubblewrap, and '" + program_ +
                        "' cannot be run: " + std::strerror(failure.error) + ". " + kInstall);
    }
    throw unavailable("cannot start bubblewrap: " + std::string(failure.step) + ": " + std::strerror(failure.error));
  }
  if (launch.launched.group) launch.launched.group->close_doors();
  return std::exchange(launch.launched, {});
}

uid_t Launcher::next_user() const noexcept {
  if (!drop_privileges_) return ::geteuid();
  if (!own_users_) return options_.uid;
  // One number for all of this process. Another gateway on this machine begins elsewhere: where they meet, two sandboxes share what
  // the kernel counts, no more.
  static std::atomic<std::uint32_t> number{static_cast<std::uint32_t>(::getpid()) * 64u};
  return options_.first_own_uid + number.fetch_add(1, std::memory_order_relaxed) % options_.own_uids;
}

gid_t Launcher::gid() const noexcept { return drop_privileges_ ? options_.gid : ::getegid(); }

bool Launcher::adapt(std::string_view complaint) {
  if (disable_userns_ && complaint.find("disable-userns") != std::string_view::npos) {
    disable_userns_ = false;
    return true;
  }
  if (!image_as_data_ && complaint.find("execvp /proc/self/fd/") != std::string_view::npos) {
    image_as_data_ = true;
    return true;
  }
  return false;
}

RunnerError Launcher::failure(std::string_view complaint, std::string_view why) const {
  const auto says = [complaint](std::string_view part) { return complaint.find(part) != std::string_view::npos; };
  std::string text = "the sandbox did not start: " + std::string(why);
  if (says("namespace") || says("uid map") || says("gid map") || says("loopback") || says("Operation not permitted") ||
      says("Permission denied")) {
    text = "sandboxes on this machine need user namespaces that ordinary users may create, and this system does not allow them.";
    if (first_word("/proc/sys/kernel/unprivileged_userns_clone") == "0") {
      text += " Allow them: sysctl -w kernel.unprivileged_userns_clone=1.";
    }
    if (first_word("/proc/sys/user/max_user_namespaces") == "0") text += " Allow them: sysctl -w user.max_user_namespaces=15000.";
    if (first_word("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1") {
      text +=
          " AppArmor restricts them here: install a profile that allows them to bwrap (Ubuntu: apt install apparmor-profiles, then "
          "the profile bwrap-userns-restrict), or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0.";
    }
    text +=
        " In a container, it must be started with user namespaces allowed. Or use a gateway elsewhere by setting "
        "CWSANDBOX_BASE_URL.";
  } else if (says("SECCOMP")) {
    text = "sandboxes on this machine need a kernel with filters of system calls (CONFIG_SECCOMP_FILTER).";
  } else if (says("Unknown option") || says("nrecognized")) {
    text = "sandboxes on this machine need bubblewrap 0.6 or newer.";
  }
  std::map<std::string, std::string> metadata;
  if (!complaint.empty()) {
    std::string said(complaint.substr(0, complaint.find_last_not_of(" \n\r\t") + 1));
    for (char& c : said) {
      if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    }
    text += " (" + said + ")";
    metadata["bwrap"] = said;
  }
  return {ErrorCode::failed_precondition, kUnavailable, text, std::move(metadata)};
}

}  // namespace cwsandbox::runner::local
