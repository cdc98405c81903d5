// A program as a user of the library would write one, built in every way that the library can be had: see scripts/consumers. It
// runs commands with blocking calls and on an io_context of its own, and ends with 0 when all came out as it should.
#include <cwsandbox/cwsandbox.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>

static_assert(CWSANDBOX_VERSION >= CWSANDBOX_VERSION_NUMBER(0, 1, 0));
static_assert(CWSANDBOX_VERSION ==
              CWSANDBOX_VERSION_NUMBER(cwsandbox::kVersionMajor, cwsandbox::kVersionMinor, cwsandbox::kVersionPatch));
static_assert(cwsandbox::kVersion == CWSANDBOX_VERSION_STRING);

namespace asio = boost::asio;

namespace {

void expect(bool held, const char* what) {
  if (!held) throw std::runtime_error(what);
}

void with_blocking_calls() {
  auto sandbox = cwsandbox::Sandbox::run();
  auto process = sandbox.exec({"sh", "-c", "read line; echo \"got $line\"; exit 3"}, cwsandbox::ExecOptions().with_stdin());
  process.std_in()->writeline("a line").get();
  process.std_in()->close().get();
  const auto result = process.result();
  expect(result.std_out == "got a line\n" && result.returncode == 3, "blocking calls");
  // Exceptions cross the border of the library with their type.
  try {
    sandbox.exec({"/no/such/program"}).result();
    expect(false, "no exception for a program that is not there");
  } catch (const cwsandbox::CWSandboxError& error) {
    expect(std::string(error.what()).find("/no/such/program") != std::string::npos, error.what());
  }
}

asio::awaitable<void> with_coroutines(cwsandbox::Client client) {
  auto sandbox = cwsandbox::Sandbox::run(client);
  auto sort = sandbox.exec(cwsandbox::argv("sort", "-n"), cwsandbox::ExecOptions().with_stdin());
  co_await sort.std_in()->write("10\n9\n");
  co_await sort.std_in()->close();
  std::string text;
  while (auto chunk = co_await sort.std_out().next()) text += *chunk;
  const auto result = co_await sort;
  expect(result.ok() && text == "9\n10\n", "coroutines");
}

}  // namespace

int main() {
  try {
    expect(cwsandbox::version() == cwsandbox::kVersion, "linked with another version than compiled with");
    with_blocking_calls();
    asio::io_context context;
    asio::co_spawn(context, with_coroutines(cwsandbox::Client(context.get_executor())), [](const std::exception_ptr& error) {
      if (error) std::rethrow_exception(error);
    });
    context.run();
    std::cout << "cwsandbox " << cwsandbox::version() << ", C++ " << __cplusplus << '\n';
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "consumer: " << error.what() << '\n';
    return 1;
  }
}
