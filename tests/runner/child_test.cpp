// Children that change their user or their namespaces by the agent's program, and what is said when that fails.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "runner/local/child.hpp"
#include "support/catch.hpp"

extern "C" {
extern const char cwsandbox_agent_image[];
extern const char cwsandbox_agent_image_end[];
}

using namespace cwsandbox::runner::local;

namespace {

UniqueFd in_memory(std::string_view bytes, mode_t mode = 0555) {
  const UniqueFd writable(::memfd_create("cwsandbox-test", MFD_CLOEXEC));
  REQUIRE(::write(writable.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  REQUIRE(::fchmod(writable.get(), mode) == 0);
  return UniqueFd(::open(("/proc/self/fd/" + std::to_string(writable.get())).c_str(), O_RDONLY | O_CLOEXEC));
}

UniqueFd agent_program() {
  return in_memory({cwsandbox_agent_image, static_cast<std::size_t>(cwsandbox_agent_image_end - cwsandbox_agent_image)});
}

// That program with those three descriptors, as another user, by the helper that stands behind them.
template <std::size_t N>
UniqueFd start_as_nobody(const UniqueFd& helper, const char* program, char* const (&argv)[N], int out, ChildFailure& failure) {
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const int fds[] = {null.get(), out < 0 ? null.get() : out, null.get(), helper.get()};
  ChildPlan plan;
  plan.program = program;
  plan.argv = argv;
  plan.fds = fds;
  plan.fd_count = 4;
  plan.helper = 3;
  plan.drop = true;
  plan.uid = plan.gid = 65534;
  return start_child(plan, failure);
}

// What a shell says when it is started as that user by that helper.
std::string said(const UniqueFd& helper, const char* program, ChildFailure& failure) {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  std::string words[] = {"sh", "-c", "id -u; id -G; echo /proc/self/fd/*; umask; pwd"};
  char* argv[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
  const UniqueFd child = start_as_nobody(helper, program, argv, writer.get(), failure);
  writer.reset();
  std::string text;
  char part[256];
  for (ssize_t n = 0; (n = ::read(reader.get(), part, sizeof part)) > 0;) text.append(part, static_cast<std::size_t>(n));
  if (child && has_ended(child.get(), -1)) CHECK(reap(child.get()));
  return text;
}

}  // namespace

TEST_CASE("the agent's program changes the user before bubblewrap is run", "[runner][EV-17]") {
  if (::geteuid() != 0 || try_to_become(65534, 65534).error != 0) {
    WARN("skipped: this process cannot change users");
    return;
  }
  ChildFailure failure;
  // The descriptor by which it would have reported is not there any more.
  CHECK(said(agent_program(), "/bin/sh", failure) ==
        "65534\n65534\n/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3 /proc/self/fd/4\n0022\n/\n");
  CHECK(failure.error == 0);

  CHECK(said(agent_program(), "/nonexistent", failure).empty());
  CHECK(failure.error == ENOENT);
  CHECK(std::string_view(failure.step) == "exec");

  // A host that does not run it: the caller finds another way.
  failure = {};
  CHECK(said(in_memory("no program"), "/bin/sh", failure).empty());
  CHECK(failure.error == ENOEXEC);
  CHECK(static_cast<const void*>(failure.step) == kHelperStep);
}

TEST_CASE("a copy of this process that is made meanwhile holds up no child", "[runner][EV-17]") {
  if (::geteuid() != 0 || try_to_become(65534, 65534).error != 0) {
    WARN("skipped: this process cannot change users");
    return;
  }
  const UniqueFd helper = agent_program();
  // Copies that live on with all descriptors, made all the time while children are started.
  std::atomic<bool> done{false};
  std::vector<pid_t> copies;
  std::thread copying([&] {
    while (!done && copies.size() < 200) {
      const pid_t copy = ::fork();
      if (copy == 0) {
        ::alarm(300);
        for (;;) ::pause();
      }
      if (copy > 0) copies.push_back(copy);
    }
  });
  ChildFailure failure;
  for (int i = 0; i < 20; ++i) {
    std::string word = "true";
    char* argv[] = {word.data(), nullptr};
    const UniqueFd child = start_as_nobody(helper, "/bin/true", argv, -1, failure);
    REQUIRE(child);
    CHECK(has_ended(child.get(), -1));
    CHECK(reap(child.get()));
  }
  done = true;
  copying.join();
  for (const pid_t copy : copies) {
    CHECK(::kill(copy, SIGKILL) == 0);
    CHECK(::waitpid(copy, nullptr, 0) == copy);
  }
}

TEST_CASE("mounts are changed by the agent's program, and it says which could not be", "[runner][EV-17]") {
  const UniqueFd helper = agent_program();
  const UniqueFd user(::open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC)), mount(::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));
  const char* const places[] = {"/nonexistent"};
  // Nobody enters the user namespace that he is in.
  const ChildFailure failure = remount(user.get(), mount.get(), places, "size=1", helper.get());
  CHECK(failure.error == EINVAL);
  CHECK(std::string_view(failure.step) == "setns");
}
