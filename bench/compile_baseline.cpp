// What B7 is set beside: the one header of Asio that any callback at a border needs, and the standard headers that the library's
// public headers use.
#include <boost/asio/any_completion_handler.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <iosfwd>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

boost::asio::any_completion_handler<void(int)> keep(boost::asio::any_completion_handler<void(int)> handler) { return handler; }
