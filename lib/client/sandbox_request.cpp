#include "client/sandbox_request.hpp"

#include "client/rpc.hpp"
#include "protocol/messages.hpp"

#include <stdexcept>

namespace cwsandbox::client {

namespace {

void check_text(const std::string& text, const char* what) {
  if (text.find('\0') != std::string::npos) throw std::invalid_argument(std::string("cwsandbox: ") + what + " holds a NUL");
}

protocol::CreateSandboxRequest make_request(const SandboxOptions& options, const Settings& settings) {
  protocol::CreateSandboxRequest request;
  request.request_id = make_uuid();
  auto& spec = request.sandbox.spec;
  protocol::Container container;
  container.name = "main";
  check_text(options.image(), "the image");
  container.image = options.image();
  std::vector<std::string> command = options.command();
  // Our gateway has defaults of its own; the public service wants to be told.
  if (settings.endpoint.tls() && settings.endpoint.host == "api.cwsandbox.com") {
    if (container.image.empty()) container.image = "python:3.11";
    if (command.empty()) command = {"/bin/sh", "-c", "trap \"exit 0\" TERM INT; sleep infinity & wait"};
  }
  for (const auto& part : command) check_text(part, "the command");
  if (!command.empty()) {
    if (command.front().empty()) throw std::invalid_argument("cwsandbox: the command's first part is empty: it names the program");
    container.command = command.front();
    container.args.assign(command.begin() + 1, command.end());
  }
  for (const auto& [name, value] : options.env()) {
    if (name.empty() || name.find('=') != std::string::npos)
      throw std::invalid_argument("cwsandbox: an environment name is empty or holds a '='");
    check_text(name, "an environment name");
    check_text(value, "an environment value");
  }
  container.environment_variables = options.env();
  if (options.working_dir()) {
    if (options.working_dir()->empty() || options.working_dir()->front() != '/')
      throw std::invalid_argument("cwsandbox: the working directory must be an absolute path");
    check_text(*options.working_dir(), "the working directory");
    container.working_dir = *options.working_dir();
  }
  if (options.max_lifetime()) {
    if (options.max_lifetime()->count() <= 0 || options.max_lifetime()->count() > INT32_MAX)
      throw std::invalid_argument("cwsandbox: the maximal lifetime must be between 1 s and 2^31 s");
    spec.max_lifetime_seconds = static_cast<std::int32_t>(options.max_lifetime()->count());
  }
  spec.containers.push_back(std::move(container));
  spec.primary_container = "main";
  spec.tags = options.tags();
  spec.annotations = options.annotations();
  return request;
}

}  // namespace

std::string make_create_request(const SandboxOptions& options, const Settings& settings) {
  try {
    return protocol::to_json(make_request(options, settings));
  } catch (const protocol::ParseError& error) {
    throw std::invalid_argument("cwsandbox: " + (error.field.empty() ? std::string() : error.field + ": ") + error.what());
  }
}

}  // namespace cwsandbox::client
