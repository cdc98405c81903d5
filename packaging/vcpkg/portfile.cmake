# An overlay port: copied to overlay-ports/cwsandbox/, it builds the tree that CWSANDBOX_SOURCE names, for example
#   CWSANDBOX_SOURCE=$PWD VCPKG_KEEP_ENV_VARS=CWSANDBOX_SOURCE vcpkg install cwsandbox --overlay-ports=packaging/vcpkg
# A port of a registry has vcpkg_from_github with the release's hash instead of that.
if(NOT DEFINED ENV{CWSANDBOX_SOURCE})
  message(FATAL_ERROR "set CWSANDBOX_SOURCE to the folder of cwsandbox, and VCPKG_KEEP_ENV_VARS=CWSANDBOX_SOURCE")
endif()
set(SOURCE_PATH "$ENV{CWSANDBOX_SOURCE}")

# The triplet says which of the two; meson's default here is both.
if(VCPKG_LIBRARY_LINKAGE STREQUAL "static")
  set(library static)
else()
  set(library shared)
endif()
set(gateway false)
if("gateway" IN_LIST FEATURES)
  set(gateway true)
endif()
set(kubernetes disabled)
if("kubernetes" IN_LIST FEATURES)
  set(kubernetes enabled)
endif()

vcpkg_configure_meson(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    -Ddefault_library=${library}
    -Dgateway=${gateway}
    -Dkubernetes=${kubernetes}
    -Dtools=false
    -Dtests=false
    -Dbench=false
    -Dexamples=false)
vcpkg_install_meson()
vcpkg_fixup_pkgconfig()
vcpkg_cmake_config_fixup(PACKAGE_NAME cwsandbox CONFIG_PATH lib/cmake/cwsandbox)
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
