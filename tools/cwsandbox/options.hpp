// The command line: what it may say, and what it says.
#pragma once

#include "copy.hpp"
#include "output.hpp"

#include <optional>
#include <string>
#include <vector>

namespace cli {

enum class CommandName { run, exec, sh, logs, ls, get, stop, remove, cp, completion };

/// What the command line says, for all commands.
class Arguments {
 public:
  CommandName name = CommandName::ls;
  std::vector<std::string> command, env, ids, tags;
  std::string base_url, image, id, cwd, status, since, shell;
  std::string output = "text";
  double grace = 10, resume_grace = 60;
  std::optional<double> timeout, drain;
  int tail = 0;
  bool use_stdin = false, no_stdin = false, tty = false, all = false, follow = false, timestamps = false, missing_ok = false,
       detach = false;
  std::optional<char> escape = '~';
  CopyArguments copy;

  [[nodiscard]] Format format() const { return output == "json" ? Format::json : output == "ids" ? Format::ids : Format::text; }
};

/// Reads the command line. A number is this program's exit code, because all has been said: help, the version, an error.
[[nodiscard]] std::optional<int> parse(int argc, char** argv, Arguments& arguments);

}  // namespace cli
