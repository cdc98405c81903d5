// Compiled as C++23 where the compiler has it: only there can a string grow without being zeroed.
#include "net/storage.hpp"

namespace cwsandbox::net {

std::string make_storage(std::size_t size) {
  std::string storage;
#ifdef __cpp_lib_string_resize_and_overwrite
  storage.resize_and_overwrite(size, [](char*, std::size_t n) { return n; });
#else
  storage.resize(size);
#endif
  return storage;
}

}  // namespace cwsandbox::net
