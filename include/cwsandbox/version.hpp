/// \file
/// The version of this library. Releases follow semantic versioning; while the major version is 0, a minor release may break.
#pragma once

#include <cwsandbox/export.hpp>

#include <string_view>

///@{
/// The version that is compiled against.
#define CWSANDBOX_VERSION_MAJOR 0
#define CWSANDBOX_VERSION_MINOR 1
#define CWSANDBOX_VERSION_PATCH 0
#define CWSANDBOX_VERSION_STRING "0.1.0"
///@}

namespace cwsandbox {

/// The version of the library that is linked, as "major.minor.patch"; compare with CWSANDBOX_VERSION_STRING, what was compiled
/// against.
[[nodiscard]] CWSANDBOX_EXPORT std::string_view version() noexcept;

}  // namespace cwsandbox
