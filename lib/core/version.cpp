#include <cwsandbox/version.hpp>

namespace cwsandbox {

std::string_view version() noexcept { return CWSANDBOX_VERSION_STRING; }

}  // namespace cwsandbox
