// The .proto text of the services and messages, from their tables: for readers, and for tools that speak gRPC.
#pragma once

#include <map>
#include <string>

namespace cwsandbox::messages {

/// The text of each package's file, by its path ("cwsandbox/v1/cwsandbox.proto").
[[nodiscard]] std::map<std::string, std::string> proto_files();

}  // namespace cwsandbox::messages
