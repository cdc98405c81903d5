// The functions of Asio that are no templates. Every other file is compiled with BOOST_ASIO_SEPARATE_COMPILATION (see meson.build),
// and so without their bodies. Here they stay inline, so that the optimizer sees through them, and are all emitted. A program with
// an Asio of its own can still link the static library: to the linker these are what any file with Asio in it has, any copy of
// which will do.
#ifdef __clang__
#define BOOST_ASIO_DECL __attribute__((weak))  // of an inline constructor it would emit one of the two that are called
#else
#define BOOST_ASIO_DECL inline __attribute__((used))
#endif
#include <boost/asio/impl/src.hpp>
