#include "runner/kubernetes/early_policy.hpp"

#include "protocol/json_util.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include <utility>

namespace cwsandbox::runner::kubernetes {

namespace {

// Beyond these somebody else makes them as fast as they are removed.
constexpr int kTries = 3;

std::string uid_of(const Json& object) {
  const Json* metadata = object.is_object() ? protocol::json_util::find(object, "metadata") : nullptr;
  const Json* uid = metadata != nullptr && metadata->is_object() ? protocol::json_util::find(*metadata, "uid") : nullptr;
  return uid != nullptr && uid->is_string() ? uid->get<std::string>() : std::string();
}

asio::awaitable<bool> is_there(std::shared_ptr<ApiClient> api, std::string target) {
  try {
    auto asked = api->get(std::move(target));
    static_cast<void>(co_await std::move(asked));
  } catch (const ApiError& e) {
    if (e.code() == ErrorCode::not_found) co_return false;
    throw;
  }
  co_return true;
}

// Nobody is told whether it works.
asio::awaitable<void> remove_policy(std::shared_ptr<ApiClient> api, std::string target, std::string uid) {
  DeleteOptions options;
  options.uid = std::move(uid);
  try {
    auto removed = api->remove(std::move(target), std::move(options));
    static_cast<void>(co_await std::move(removed));
  } catch (const RunnerError&) {
  }
}

}  // namespace

asio::awaitable<std::unique_ptr<EarlyPolicy>> EarlyPolicy::post(std::shared_ptr<ApiClient> api, std::string collection,
                                                                std::string pod, Json policy) {
  std::unique_ptr<EarlyPolicy> made(new EarlyPolicy(api));
  const std::string target = collection + "/" + policy["metadata"]["name"].get<std::string>();
  for (int tries = 1;; ++tries) {
    bool taken = false;
    try {
      auto posting = api->post(collection, policy);
      const Json posted = co_await std::move(posting);
      made->target_ = target;
      made->uid_ = uid_of(posted);
    } catch (const ApiError& e) {
      if (e.code() != ErrorCode::already_exists || tries == kTries) throw;
      taken = true;
    }
    if (!taken) co_return made;
    auto asking = is_there(api, pod);
    if (co_await std::move(asking)) co_return made;
    auto removing = remove_policy(api, target, std::string());
    co_await std::move(removing);
  }
}

EarlyPolicy::~EarlyPolicy() {
  if (target_.empty()) return;
  const auto executor = api_->executor();
  asio::co_spawn(executor, remove_policy(std::move(api_), std::move(target_), std::move(uid_)), asio::detached);
}

asio::awaitable<void> EarlyPolicy::give_to(Json owner) {
  if (target_.empty()) co_return;
  Json patch = Json::object();
  patch["metadata"]["ownerReferences"] = Json::array({std::move(owner)});
  auto patching = api_->patch(target_, PatchType::merge, std::move(patch));
  static_cast<void>(co_await std::move(patching));
  target_.clear();
}

}  // namespace cwsandbox::runner::kubernetes
