// Files of a sandbox.
#include <cwsandbox/cwsandbox.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

using namespace cwsandbox;

namespace {

void rethrow(const std::exception_ptr& error) {
  if (error) std::rethrow_exception(error);
}

asio::awaitable<void> whole(Sandbox sandbox) {
  // snippet: whole
  co_await sandbox.write_file("/workspace/main.py", "print('hello')\n");
  std::string text = co_await sandbox.read_file("/workspace/main.py");
  std::string part = co_await sandbox.read_file("/workspace/main.py", ReadFileOptions().with_offset(6).with_length(7));
  // end snippet
  std::cout << text << part << '\n';
}

asio::awaitable<void> streams(Sandbox sandbox) {
  // snippet: write-stream
  auto out = sandbox.write_file_stream("/workspace/data/numbers", WriteFileOptions().with_mode(0640).with_make_parents());
  for (int i = 0; i < 100'000; ++i) co_await out.writer.writeline(std::to_string(i));  // waits when the network is slower
  co_await out.writer.close();
  co_await out.done;  // now the file has its name
  // end snippet

  // snippet: append
  co_await sandbox.write_file("/workspace/data/numbers", "100000\n", WriteFileOptions().with_append());
  // end snippet

  // snippet: read-stream
  auto in = sandbox.read_file_stream("/workspace/data/numbers");
  std::uint64_t bytes = 0;
  while (auto chunk = co_await in.next()) bytes += chunk->size();
  in.close();  // earlier: ends the transfer
  // end snippet
  std::cout << bytes << '\n';

  // snippet: read-lines
  auto lines = sandbox.read_lines("/workspace/data/numbers");
  int odd = 0;
  while (auto line = co_await lines.next()) odd += (line->back() - '0') % 2;
  // end snippet
  std::cout << odd << " odd\n";
}

asio::awaitable<void> copies(Sandbox sandbox) {
  // snippet: copies
  co_await sandbox.upload_file("model.bin", "/workspace/model.bin",
                               WriteFileOptions().with_progress([](std::uint64_t done, std::optional<std::uint64_t> total) {
                                 if (done == total) std::cout << "all " << done << " bytes\n";
                               }));
  co_await sandbox.download_file("/workspace/model.bin", "copy.bin");
  // end snippet
}

asio::awaitable<void> tree(Sandbox sandbox) {
  // snippet: tree
  co_await sandbox.make_directory("/workspace/a/b", true);  // with its parents
  co_await sandbox.write_file("/workspace/a/b/old", "12345");
  co_await sandbox.rename_file("/workspace/a/b/old", "/workspace/a/b/new");
  auto entries = co_await sandbox.list_files("/workspace/a/b");
  for (const FileInfo& entry : entries) std::cout << entry.name << ' ' << to_string(entry.type) << ' ' << entry.size << '\n';
  co_await sandbox.remove_file("/workspace/a", true);  // with all that is in it
  try {
    co_await sandbox.stat_file("/workspace/a");
  } catch (const SandboxFileError& error) {
    std::cout << error.path() << ' ' << error.error_name() << ' ' << error.reason() << '\n';
  }
  // end snippet
}

asio::awaitable<void> watch(Sandbox sandbox) {
  // snippet: watch
  co_await sandbox.make_directory("/workspace/out");
  auto events = co_await sandbox.watch("/workspace/out");  // nothing is missed from here on
  auto job = sandbox.exec(argv("sh", "-c", "echo 42 >result.tmp; mv result.tmp result"), ExecOptions().with_cwd("/workspace/out"));
  while (auto event = co_await events.next()) {
    if (event->kind == FileEventKind::overflow) std::cout << "some are missing: look with list_files()\n";
    if (event->kind == FileEventKind::renamed) std::cout << event->old_name << " is now " << event->name << '\n';
    if (event->name == "result") break;
  }
  events.close();  // as the last copy going does
  // end snippet
  co_await job;
}

asio::awaitable<void> all(Client client) {
  auto sandbox = Sandbox::run(client);
  co_await whole(sandbox);
  co_await streams(sandbox);
  co_await copies(sandbox);
  co_await tree(sandbox);
  co_await watch(sandbox);
}

}  // namespace

int main() {
  // A directory of its own for the local files of this example.
  std::string name = (std::filesystem::temp_directory_path() / "cwsandbox-example-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) return 1;
  std::filesystem::current_path(name);
  std::ofstream("model.bin") << std::string(3'000'000, 'm');

  asio::io_context context;
  asio::co_spawn(context, all(Client(context.get_executor())), rethrow);
  context.run();

  std::cout << std::filesystem::file_size("copy.bin") << '\n';
  std::filesystem::current_path("/");
  std::filesystem::remove_all(name);
}
