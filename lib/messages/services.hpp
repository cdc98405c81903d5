// The services and their methods, as data: each method says its messages and which way it streams. All messages are reached from
// here.
#pragma once

#include "messages/fields.hpp"

namespace cwsandbox::messages {

enum class Streaming : std::uint8_t { none, server, both };

struct MethodType {
  std::string_view name;
  const Type* request;
  const Type* answer;  ///< of each, where it streams
  Streaming streaming = Streaming::none;
};

struct ServiceType {
  std::string_view name;  ///< qualified with its package
  std::span<const MethodType> methods;
};

[[nodiscard]] std::span<const ServiceType> services() noexcept;

/// Every message that a method has, or that is part of one, each once; the parts of a message come before it.
[[nodiscard]] std::vector<const Type*> all_types(std::span<const ServiceType> of = services());

}  // namespace cwsandbox::messages
