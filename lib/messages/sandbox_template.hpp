// coreweave.sandbox.v1, sandbox_template.proto: templates of sandboxes.
//
// `attachments` of SandboxTemplate, a google.protobuf.Struct, is not among the fields.
#pragma once

#include "messages/fields.hpp"
#include "messages/sandbox.hpp"

namespace cwsandbox::messages {

struct SandboxTemplate {
  std::string sandbox_template_id;
  std::string display_name;
  std::optional<PartialSandboxSpec> spec;
  std::int64_t revision = 0;
  Timestamp create_time;
  Timestamp update_time;
  Timestamp delete_time;
  std::string create_user_id;
  bool deleted = false;
  bool requires_cks = false;

  static const Type kType;
};

struct CreateSandboxTemplateRequest {
  std::optional<SandboxTemplate> sandbox_template;
  std::string request_id;

  static const Type kType;
};

struct GetSandboxTemplateRequest {
  std::string sandbox_template_id;
  bool show_deleted = false;

  static const Type kType;
};

struct ListSandboxTemplatesRequest {
  std::int32_t page_size = 0;
  std::string page_token;
  bool show_deleted = false;

  static const Type kType;
};

struct ListSandboxTemplatesResponse {
  std::vector<SandboxTemplate> sandbox_templates;
  std::string next_page_token;

  static const Type kType;
};

struct UpdateSandboxTemplateRequest {
  std::string sandbox_template_id;
  std::optional<SandboxTemplate> sandbox_template;
  std::optional<FieldMask> update_mask;

  static const Type kType;
};

struct DeleteSandboxTemplateRequest {
  std::string sandbox_template_id;

  static const Type kType;
};

}  // namespace cwsandbox::messages
