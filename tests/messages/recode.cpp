// Reads messages and writes them again, for against_protobuf.py: what comes is decoded into our structs, and what goes is written
// from them.
//
// A line of input is "TYPE FROM TO BASE64", where FROM and TO are "json" or "protobuf"; the line of output for it is "ok BASE64" or
// "error WHY". With --proto, the .proto text of all messages goes to the files of a folder instead; with --check, the files that a
// folder has are compared with it.
#include "base/base64.hpp"
#include "messages/json.hpp"
#include "messages/protobuf.hpp"
#include "messages/services.hpp"
#include "proto_text.hpp"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

namespace {

using namespace cwsandbox;
using messages::proto_files;

std::string recoded(const std::string& name, const std::string& from, const std::string& to, const std::string& encoded) {
  for (const messages::Type* type : messages::all_types()) {
    if (type->name != name) continue;
    const auto bytes = base::base64_decode(encoded);
    if (!bytes) return "error not base64";
    const messages::AnyMessage message = type->make();
    std::string out;
    try {
      from == "json" ? messages::read_json(*bytes, *type, message.get()) : messages::read_protobuf(*bytes, *type, message.get());
      to == "json" ? messages::append_json(out, *type, message.get()) : messages::append_protobuf(out, *type, message.get());
    } catch (const messages::ParseError& e) {
      return std::string("error ") + e.what();
    }
    return "ok " + base::base64_encode(out);
  }
  return "error there is no " + name;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--proto") {
    for (const auto& [path, text] : proto_files()) {
      const auto file = std::filesystem::path(argv[2]) / path;
      std::filesystem::create_directories(file.parent_path());
      std::ofstream(file) << text;
    }
    return 0;
  }
  if (argc == 3 && std::string(argv[1]) == "--check") {
    int differ = 0, found = 0;
    for (const auto& [path, text] : proto_files()) {
      std::ifstream file(std::filesystem::path(argv[2]) / path);
      if (!file) continue;
      ++found;
      const std::string there((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
      if (there == text) continue;
      ++differ;
      std::cerr << path << " is not what the tables say: run scripts/proto\n";
    }
    return differ == 0 && found > 0 ? 0 : 1;
  }
  std::string type, from, to, bytes;
  while (std::cin >> type >> from >> to) {
    std::getline(std::cin, bytes);
    bytes.erase(0, bytes.find_first_not_of(' '));
    std::cout << recoded(type, from, to, bytes) << '\n';
  }
  return 0;
}
