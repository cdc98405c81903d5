#include <cwsandbox/defaults.hpp>

#include <algorithm>
#include <stdexcept>

namespace cwsandbox {

SandboxDefaults::SandboxDefaults() : SandboxDefaults(SandboxOptions()) {}
SandboxDefaults::SandboxDefaults(SandboxOptions options) : options_(std::make_shared<const SandboxOptions>(std::move(options))) {}

SandboxOptions SandboxDefaults::merge(const SandboxOptions& wanted) const {
  SandboxOptions merged = *options_;
  const auto take = [](auto& into, const auto& from) {
    if (!from.empty()) into = from;
  };
  const auto take_if_set = [](auto& into, const auto& from) {
    if (from) into = from;
  };
  take(merged.image_, wanted.image_);
  take(merged.command_, wanted.command_);
  for (const auto& [name, value] : wanted.env_) merged.env_.insert_or_assign(name, value);
  take_if_set(merged.working_dir_, wanted.working_dir_);
  for (const auto& tag : wanted.tags_)
    if (std::find(merged.tags_.begin(), merged.tags_.end(), tag) == merged.tags_.end()) merged.tags_.push_back(tag);
  for (const auto& [name, value] : wanted.annotations_) merged.annotations_.insert_or_assign(name, value);
  take_if_set(merged.max_lifetime_, wanted.max_lifetime_);
  take_if_set(merged.resources_, wanted.resources_);
  take(merged.files_, wanted.files_);
  for (const auto& secret : wanted.secrets_) {
    const auto same = std::find_if(merged.secrets_.begin(), merged.secrets_.end(),
                                   [&](const Secret& known) { return known.env_var() == secret.env_var(); });
    if (same == merged.secrets_.end())
      merged.secrets_.push_back(secret);
    else if (*same != secret)
      throw std::invalid_argument("cwsandbox: secrets: the variable " + secret.env_var() + " is wanted by two of them");
  }
  take(merged.volumes_, wanted.volumes_);
  take(merged.services_, wanted.services_);
  take_if_set(merged.network_, wanted.network_);
  take_if_set(merged.image_pull_credentials_, wanted.image_pull_credentials_);
  take_if_set(merged.security_context_, wanted.security_context_);
  take(merged.runner_ids_, wanted.runner_ids_);
  take(merged.instance_type_, wanted.instance_type_);
  if (wanted.mode_ != SandboxMode::unspecified) merged.mode_ = wanted.mode_;
  take(merged.runtime_class_, wanted.runtime_class_);
  return merged;
}

}  // namespace cwsandbox
