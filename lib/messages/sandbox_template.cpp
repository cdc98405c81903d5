#include "messages/sandbox_template.hpp"

namespace cwsandbox::messages {
namespace {

constexpr Field kSandboxTemplate[] = {
    field<&SandboxTemplate::sandbox_template_id>(1, "sandbox_template_id"),
    field<&SandboxTemplate::display_name>(2, "display_name"),
    field<&SandboxTemplate::spec>(3, "spec"),
    field<&SandboxTemplate::revision>(4, "revision"),
    field<&SandboxTemplate::create_time>(5, "create_time"),
    field<&SandboxTemplate::update_time>(6, "update_time"),
    field<&SandboxTemplate::delete_time>(7, "delete_time"),
    field<&SandboxTemplate::create_user_id>(8, "create_user_id"),
    field<&SandboxTemplate::deleted>(9, "deleted"),
    field<&SandboxTemplate::requires_cks>(11, "requires_cks"),
};

constexpr Field kCreateSandboxTemplateRequest[] = {
    field<&CreateSandboxTemplateRequest::sandbox_template>(1, "sandbox_template"),
    field<&CreateSandboxTemplateRequest::request_id>(2, "request_id"),
};

constexpr Field kGetSandboxTemplateRequest[] = {
    field<&GetSandboxTemplateRequest::sandbox_template_id>(1, "sandbox_template_id"),
    field<&GetSandboxTemplateRequest::show_deleted>(2, "show_deleted"),
};

constexpr Field kListSandboxTemplatesRequest[] = {
    field<&ListSandboxTemplatesRequest::page_size>(1, "page_size"),
    field<&ListSandboxTemplatesRequest::page_token>(2, "page_token"),
    field<&ListSandboxTemplatesRequest::show_deleted>(3, "show_deleted"),
};

constexpr Field kListSandboxTemplatesResponse[] = {
    field<&ListSandboxTemplatesResponse::sandbox_templates>(1, "sandbox_templates").at_most(kMaxPage),
    field<&ListSandboxTemplatesResponse::next_page_token>(2, "next_page_token"),
};

constexpr Field kUpdateSandboxTemplateRequest[] = {
    field<&UpdateSandboxTemplateRequest::sandbox_template_id>(1, "sandbox_template_id"),
    field<&UpdateSandboxTemplateRequest::sandbox_template>(2, "sandbox_template"),
    field<&UpdateSandboxTemplateRequest::update_mask>(3, "update_mask"),
};

constexpr Field kDeleteSandboxTemplateRequest[] = {
    field<&DeleteSandboxTemplateRequest::sandbox_template_id>(1, "sandbox_template_id"),
};

}  // namespace

constinit const Type SandboxTemplate::kType = table<SandboxTemplate>("coreweave.sandbox.v1.SandboxTemplate", kSandboxTemplate);
constinit const Type CreateSandboxTemplateRequest::kType =
    table<CreateSandboxTemplateRequest>("coreweave.sandbox.v1.CreateSandboxTemplateRequest", kCreateSandboxTemplateRequest);
constinit const Type GetSandboxTemplateRequest::kType =
    table<GetSandboxTemplateRequest>("coreweave.sandbox.v1.GetSandboxTemplateRequest", kGetSandboxTemplateRequest);
constinit const Type ListSandboxTemplatesRequest::kType =
    table<ListSandboxTemplatesRequest>("coreweave.sandbox.v1.ListSandboxTemplatesRequest", kListSandboxTemplatesRequest);
constinit const Type ListSandboxTemplatesResponse::kType =
    table<ListSandboxTemplatesResponse>("coreweave.sandbox.v1.ListSandboxTemplatesResponse", kListSandboxTemplatesResponse);
constinit const Type UpdateSandboxTemplateRequest::kType =
    table<UpdateSandboxTemplateRequest>("coreweave.sandbox.v1.UpdateSandboxTemplateRequest", kUpdateSandboxTemplateRequest);
constinit const Type DeleteSandboxTemplateRequest::kType =
    table<DeleteSandboxTemplateRequest>("coreweave.sandbox.v1.DeleteSandboxTemplateRequest", kDeleteSandboxTemplateRequest);

}  // namespace cwsandbox::messages
