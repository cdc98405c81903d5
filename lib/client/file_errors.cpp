#include "client/file_errors.hpp"

#include "base/text.hpp"
#include "client/errors.hpp"

#include <string_view>
#include <utility>

namespace cwsandbox::client::files {

std::string doing(const char* verb, const std::string& path) {
  return std::string("Cannot ") + verb + " '" + base::printable(path, 200) + "'";
}

SandboxFileError file_error(const std::string& text, const std::string& path, ErrorCode code, const char* reason) {
  ErrorFields fields;
  fields.code = base::to_string(code);
  fields.reason = reason;
  fields.metadata.emplace("filepath", path);
  return SandboxFileError(text, fields);
}

std::exception_ptr about(const char* verb, const std::string& path) {
  const auto error = from_transport(std::current_exception());
  try {
    std::rethrow_exception(error);
  } catch (const SandboxFileError& failed) {
    auto fields = failed.fields();
    fields.metadata.insert_or_assign("filepath", path);
    const std::string_view text = failed.what();
    const bool said = text.starts_with("Cannot ");
    return std::make_exception_ptr(
        SandboxFileError(said ? std::string(text) : doing(verb, path) + ": " + std::string(text), fields));
  } catch (...) {
    return error;
  }
}

bool is_unimplemented(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const CWSandboxError& e) {
    return e.code() == base::to_string(ErrorCode::unimplemented);
  } catch (...) {
    return false;
  }
}

}  // namespace cwsandbox::client::files
