// How a sandbox, a client and its credentials are described.
#include <cwsandbox/cwsandbox.hpp>

#include <fstream>
#include <iostream>

using namespace cwsandbox;
using namespace std::chrono_literals;

int main() {
  // snippet: sandbox
  SandboxOptions options;
  options.with_image("python:3.11")
      .with_env("MODE", "test")
      .with_file(FileMount("/etc/app.conf", "verbose = 1\n"))
      .with_resources(Resources().with_cpu("2").with_memory("4Gi"))  // requests and limits alike
      .with_network(NetworkOptions().with_egress_name("*.pypi.org"))
      .with_secret(Secret("vault", "API_TOKEN"))  // becomes the variable API_TOKEN
      .with_max_lifetime(10min);
  // end snippet

  // snippet: refused
  try {
    Sandbox::run(Client(ClientOptions().with_base_url("local:")), options).wait().result();
  } catch (const CWSandboxError& error) {
    std::cout << error.code() << '\n';  // unimplemented
    std::cerr << error.what() << '\n';  // and which option it was
  }
  // end snippet

  // snippet: invalid
  try {
    auto sandbox = Sandbox::run(SandboxOptions().with_working_dir("not/absolute"));
  } catch (const std::invalid_argument&) {
    std::cout << "refused before anything was sent\n";
  }
  // end snippet

  // snippet: auth
  register_auth_mode("corporate", [] {
    std::string token;
    std::ifstream("/run/secrets/token") >> token;
    return AuthHeaders().with_header("Authorization", "Bearer " + token).with_expiry(std::chrono::system_clock::now() + 5min);
  });
  Client client(ClientOptions().with_base_url("https://sandboxes.example.com").with_auth_mode("corporate"));
  std::cout << client.base_url() << '\n';
  // end snippet

  // snippet: proxy
  ClientOptions settings;
  settings.with_base_url("https://sandboxes.example.com").with_proxy("http://user:pass%20word@proxy.example.com:3128");
  Client behind(settings);
  // end snippet
}
