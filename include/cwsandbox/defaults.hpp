/// \file
/// SandboxDefaults: what several sandboxes have in common.
#pragma once

#include <cwsandbox/sandbox_options.hpp>

#include <memory>

namespace cwsandbox {

/// Options that others are merged into. Immutable: `with(…)` gives another one, so that one object can serve many sessions.
///
/// \par How they merge (LC-17)
/// Environment and annotations are joined, and what is said explicitly wins. Tags are joined, each once, the defaults' first.
/// Secrets are joined, each once; two that differ and want the same variable are an error. Of everything else the explicit value
/// is taken where there is one.
///
/// \par Thread safety
/// Immutable: safe.
class CWSANDBOX_EXPORT SandboxDefaults {
 public:
  SandboxDefaults();
  /// Options to begin with.
  explicit SandboxDefaults(SandboxOptions options);

  /// What they say now.
  [[nodiscard]] const SandboxOptions& options() const noexcept { return *options_; }

  /// These, with `options` merged in.
  /// \throws std::invalid_argument where two secrets want one variable.
  [[nodiscard]] SandboxDefaults with(const SandboxOptions& options) const { return SandboxDefaults(merge(options)); }
  ///@{
  /// The same with one option merged in.
  [[nodiscard]] SandboxDefaults with_image(std::string image) const { return with(SandboxOptions().with_image(std::move(image))); }
  [[nodiscard]] SandboxDefaults with_env(std::string name, std::string value) const {
    return with(SandboxOptions().with_env(std::move(name), std::move(value)));
  }
  [[nodiscard]] SandboxDefaults with_tag(std::string tag) const { return with(SandboxOptions().with_tag(std::move(tag))); }
  [[nodiscard]] SandboxDefaults with_annotation(std::string name, std::string value) const {
    return with(SandboxOptions().with_annotation(std::move(name), std::move(value)));
  }
  [[nodiscard]] SandboxDefaults with_secret(Secret secret) const { return with(SandboxOptions().with_secret(std::move(secret))); }
  [[nodiscard]] SandboxDefaults with_max_lifetime(Duration lifetime) const {
    return with(SandboxOptions().with_max_lifetime(lifetime));
  }
  [[nodiscard]] SandboxDefaults with_resources(Resources resources) const {
    return with(SandboxOptions().with_resources(std::move(resources)));
  }
  ///@}

  /// What a sandbox made with `explicit_options` under these defaults is like.
  /// \throws std::invalid_argument as above.
  [[nodiscard]] SandboxOptions merge(const SandboxOptions& explicit_options) const;

 private:
  std::shared_ptr<const SandboxOptions> options_;
};

}  // namespace cwsandbox
