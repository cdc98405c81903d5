#include "messages/logs.hpp"

namespace cwsandbox::messages {
namespace {

constexpr Field kStreamLogsRequest[] = {
    field<&StreamLogsRequest::sandbox_id>(1, "sandbox_id"),
    field<&StreamLogsRequest::follow>(2, "follow"),
    field<&StreamLogsRequest::tail_lines>(3, "tail_lines"),
    field<&StreamLogsRequest::since_time>(4, "since_time"),
    field<&StreamLogsRequest::container>(5, "container"),
    field<&StreamLogsRequest::timestamps>(6, "timestamps"),
    field<&StreamLogsRequest::resume_log_session_id>(7, "resume_log_session_id"),
    field<&StreamLogsRequest::resume_log_offset>(8, "resume_log_offset"),
};

constexpr Field kLogStreamError[] = {
    field<&LogStreamError::message>(1, "message"),
    field<&LogStreamError::code>(2, "code"),
};

constexpr Field kLogEntry[] = {
    field<&LogEntry::data>(1, "data").bytes(),
    field<&LogEntry::timestamp>(2, "timestamp"),
    field<&LogEntry::log_session_id>(3, "log_session_id"),
    field<&LogEntry::next_log_offset>(4, "next_log_offset"),
    field<&LogEntry::error>(5, "error"),
};

}  // namespace

constinit const Type StreamLogsRequest::kType =
    table<StreamLogsRequest>("coreweave.sandbox.v1.StreamLogsRequest", kStreamLogsRequest);
constinit const Type LogStreamError::kType = table<LogStreamError>("coreweave.sandbox.v1.LogStreamError", kLogStreamError);
constinit const Type LogEntry::kType = table<LogEntry>("coreweave.sandbox.v1.LogEntry", kLogEntry);

}  // namespace cwsandbox::messages
