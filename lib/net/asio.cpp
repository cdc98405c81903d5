// The functions of Asio's TLS and of Beast that are no templates; lib/core/asio.cpp says why and how.
#ifdef __clang__
#define BOOST_ASIO_DECL __attribute__((weak))
#else
#define BOOST_ASIO_DECL inline __attribute__((used))
#endif
#include <boost/beast/core/detail/config.hpp>
#undef BOOST_BEAST_DECL
#define BOOST_BEAST_DECL BOOST_ASIO_DECL
#include <boost/asio/ssl/impl/src.hpp>
#include <boost/beast/src.hpp>
