/// \file
/// The version of this library. Releases follow semantic versioning; while the major version is 0, a minor release may break.
#pragma once

#include <cwsandbox/export.hpp>

#include <string_view>

// meson.build holds the version and refuses to configure when these differ from it.
///@{
/// The version that is compiled against.
#define CWSANDBOX_VERSION_MAJOR 0
#define CWSANDBOX_VERSION_MINOR 1
#define CWSANDBOX_VERSION_PATCH 0
#define CWSANDBOX_VERSION_STRING "0.1.0"
///@}

/// One number to compare: `#if CWSANDBOX_VERSION >= CWSANDBOX_VERSION_NUMBER(0, 1, 0)`.
#define CWSANDBOX_VERSION_NUMBER(major, minor, patch) ((major) * 1000000L + (minor) * 1000L + (patch))
/// The number of the version that is compiled against.
#define CWSANDBOX_VERSION CWSANDBOX_VERSION_NUMBER(CWSANDBOX_VERSION_MAJOR, CWSANDBOX_VERSION_MINOR, CWSANDBOX_VERSION_PATCH)

namespace cwsandbox {

///@{
/// The version of the headers that a file is compiled with; for `#if` there are the macros.
inline constexpr int kVersionMajor = CWSANDBOX_VERSION_MAJOR;
inline constexpr int kVersionMinor = CWSANDBOX_VERSION_MINOR;
inline constexpr int kVersionPatch = CWSANDBOX_VERSION_PATCH;
inline constexpr std::string_view kVersion = CWSANDBOX_VERSION_STRING;
///@}

/// The version of the library that is linked, as "major.minor.patch"; compare with kVersion, what was compiled against.
[[nodiscard]] CWSANDBOX_EXPORT std::string_view version() noexcept;

}  // namespace cwsandbox
