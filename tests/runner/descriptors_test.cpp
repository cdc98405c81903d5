// With few open files, and with none left: what cannot be had is said, nothing hangs, and what is there goes on.
#include <boost/asio/io_context.hpp>

#include <sys/resource.h>

#include <csignal>

#include "room.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

using runner::RunnerError;

namespace {

// This process can open so many files more while it lives. Its children can open as many as ever.
class FewDescriptors {
 public:
  explicit FewDescriptors(std::size_t left) {
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
    rlimit few = before_;
    for (few.rlim_cur = 0;; ++few.rlim_cur) {
      if (::fcntl(static_cast<int>(few.rlim_cur), F_GETFD) >= 0 || errno != EBADF) continue;
      if (left-- == 0) break;
    }
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
  }
  ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  FewDescriptors(const FewDescriptors&) = delete;
  FewDescriptors& operator=(const FewDescriptors&) = delete;

 private:
  rlimit before_{};
};

void check_lack(const RunnerError& error) {
  INFO(error.what());
  CHECK(error.code() == base::ErrorCode::resource_exhausted);
  CHECK(std::string(error.what()).find("RLIMIT_NOFILE") != std::string::npos);
}

}  // namespace

TEST_CASE("with any number of open files left a sandbox starts, or what it lacks is said", "[runner][descriptors]") {
  Room first;  // for what the loop itself opens
  asio::io_context& loop = first.loop;
  std::size_t refused = 0, started = 0;
  for (std::size_t left = 0; left < 48; ++left) {
    INFO(left);
    auto runner = runner::local::make_local_runner(loop.get_executor());
    std::unique_ptr<runner::Sandbox> sandbox;
    {
      const FewDescriptors few(left);
      try {
        sandbox = run(loop, runner->create(sandbox_spec()));
        ++started;
        CHECK(run(loop, exec_sh(*sandbox, "echo here")).out == "here\n");
      } catch (const RunnerError& error) {
        check_lack(error);
        ++refused;
      }
    }
    // It was not the sandbox that had too few.
    if (sandbox) CHECK(run(loop, exec_sh(*sandbox, "echo there")).out == "there\n");
  }
  CHECK(refused > 8);
  CHECK(started > 8);
}

TEST_CASE("a process whose streams cannot be taken is ended, and its sandbox goes on", "[runner][descriptors]") {
  Room in;
  const auto other = run(in.loop, in.sandbox->start(command(sh("read x <>/dev/zero; echo never"))));
  for (std::size_t left = 0; left < 3; ++left) {
    INFO(left);
    runner::ProcessSpec spec = command(sh("exec sleep 54321"));
    spec.use_stdin = true;
    const FewDescriptors few(left);
    try {
      run(in.loop, in.sandbox->start(spec));
      FAIL("it has started");
    } catch (const RunnerError& error) {
      check_lack(error);
    }
  }
  CHECK(in("while grep -q '5432[1]' /proc/[0-9]*/cmdline 2>/dev/null; do sleep 0.01; done; echo gone").out == "gone\n");
  other->signal_group(SIGKILL);
  CHECK(run(in.loop, wait_exit(*other)).value == SIGKILL);
}

TEST_CASE("a file that cannot be taken is an error, and its sandbox goes on", "[runner][descriptors]") {
  Room in;
  CHECK(in("echo content >/tmp/f").exit.value == 0);
  {
    const FewDescriptors few(0);
    try {
      static_cast<void>(run(in.loop, in.sandbox->files().open("/tmp/f")));
      FAIL("it is open");
    } catch (const runner::FileFailed& error) {
      CHECK(error.error() == EMFILE);
    }
    runner::FileWriteSpec spec;
    spec.path = "/tmp/g";
    try {
      static_cast<void>(run(in.loop, in.sandbox->files().create(spec)));
      FAIL("it was made");
    } catch (const runner::FileFailed& error) {
      CHECK(error.error() == EMFILE);
    }
  }
  CHECK(in("ls -A /tmp; cat /tmp/f").out == "f\ncontent\n");
}

}  // namespace cwsandbox::test
