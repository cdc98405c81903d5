// A pure client: built with -Dgateway=false.
#include "client/embedded_gateway.hpp"

namespace cwsandbox::client {

std::shared_ptr<EmbeddedGateway> EmbeddedGateway::get(const LoopManager&) {
  throw SandboxUnavailableError(
      "The endpoint is local:, and this build of cwsandbox has no local runner (it was configured with -Dgateway=false): set "
      "CWSANDBOX_BASE_URL or the option base_url to a gateway");
}

}  // namespace cwsandbox::client
