// cp: files and directories between this machine and sandboxes.
#pragma once

#include "output.hpp"
#include "system.hpp"

#include <string>

namespace cli {

class CopyArguments {
 public:
  std::string source, destination;
  bool recursive = false, preserve = false, no_clobber = false, quiet = false;
};

int copy(const cwsandbox::Client& client, const CopyArguments& arguments, Format format, const Signals& signals);

}  // namespace cli
