#include "messages/exec.hpp"

namespace cwsandbox::messages {
namespace {

constexpr std::array<std::string_view, 3> kOutputStreamNames = {"STREAM_UNSPECIFIED", "STREAM_STDOUT", "STREAM_STDERR"};
constexpr EnumType kOutputStream{"coreweave.sandbox.v1.ExecStreamOutput.Stream", kOutputStreamNames};

constexpr Field kExecRequest[] = {
    field<&ExecRequest::sandbox_id>(1, "sandbox_id"),
    field<&ExecRequest::command>(2, "command"),
    field<&ExecRequest::env>(3, "env"),
    field<&ExecRequest::max_output_bytes>(4, "max_output_bytes"),
    field<&ExecRequest::container>(5, "container"),
};

constexpr Field kExecResponse[] = {
    field<&ExecResponse::std_out>(1, "stdout").bytes(),
    field<&ExecResponse::std_err>(2, "stderr").bytes(),
    field<&ExecResponse::exit_code>(3, "exit_code"),
    field<&ExecResponse::stdout_truncated>(4, "stdout_truncated"),
    field<&ExecResponse::stderr_truncated>(5, "stderr_truncated"),
    field<&ExecResponse::stdout_bytes_produced>(6, "stdout_bytes_produced"),
    field<&ExecResponse::stderr_bytes_produced>(7, "stderr_bytes_produced"),
};

constexpr Field kExecStreamInit[] = {
    field<&ExecStreamInit::sandbox_id>(1, "sandbox_id"),
    field<&ExecStreamInit::command>(2, "command"),
    field<&ExecStreamInit::tty>(3, "tty"),
    field<&ExecStreamInit::tty_width>(4, "tty_width"),
    field<&ExecStreamInit::tty_height>(5, "tty_height"),
    field<&ExecStreamInit::env>(6, "env"),
    field<&ExecStreamInit::container>(7, "container"),
};

constexpr Field kExecStreamResize[] = {
    field<&ExecStreamResize::width>(1, "width"),
    field<&ExecStreamResize::height>(2, "height"),
};

constexpr Field kExecStreamRequest[] = {
    field<&ExecStreamRequest::init>(1, "init").one_of("message"),
    field<&ExecStreamRequest::std_in>(2, "stdin").bytes().one_of("message"),
    field<&ExecStreamRequest::resize>(3, "resize").one_of("message"),
    field<&ExecStreamRequest::close>(4, "close").one_of("message"),
};

constexpr Field kExecStreamReady[] = {
    field<&ExecStreamReady::ready_time>(1, "ready_time"),
};

constexpr Field kExecStreamOutput[] = {
    field<&ExecStreamOutput::stream>(1, "stream"),
    field<&ExecStreamOutput::data>(2, "data").bytes(),
};

constexpr Field kExecStreamExit[] = {
    field<&ExecStreamExit::exit_code>(1, "exit_code"),
    field<&ExecStreamExit::completed_time>(2, "completed_time"),
};

constexpr Field kExecStreamError[] = {
    field<&ExecStreamError::message>(1, "message"),
    field<&ExecStreamError::code>(2, "code"),
};

constexpr Field kExecStreamResponse[] = {
    field<&ExecStreamResponse::ready>(1, "ready").one_of("message"),
    field<&ExecStreamResponse::output>(2, "output").one_of("message"),
    field<&ExecStreamResponse::exit>(3, "exit").one_of("message"),
    field<&ExecStreamResponse::error>(4, "error").one_of("message"),
};

}  // namespace

const EnumType& describe(OutputStream) noexcept { return kOutputStream; }

constinit const Type ExecRequest::kType = table<ExecRequest>("coreweave.sandbox.v1.ExecRequest", kExecRequest);
constinit const Type ExecResponse::kType = table<ExecResponse>("coreweave.sandbox.v1.ExecResponse", kExecResponse);
constinit const Type ExecStreamInit::kType = table<ExecStreamInit>("coreweave.sandbox.v1.ExecStreamInit", kExecStreamInit);
constinit const Type ExecStreamResize::kType = table<ExecStreamResize>("coreweave.sandbox.v1.ExecStreamResize", kExecStreamResize);
constinit const Type ExecStreamClose::kType = table<ExecStreamClose>("coreweave.sandbox.v1.ExecStreamClose", {});
constinit const Type ExecStreamRequest::kType =
    table<ExecStreamRequest>("coreweave.sandbox.v1.ExecStreamRequest", kExecStreamRequest);
constinit const Type ExecStreamReady::kType = table<ExecStreamReady>("coreweave.sandbox.v1.ExecStreamReady", kExecStreamReady);
constinit const Type ExecStreamOutput::kType = table<ExecStreamOutput>("coreweave.sandbox.v1.ExecStreamOutput", kExecStreamOutput);
constinit const Type ExecStreamExit::kType = table<ExecStreamExit>("coreweave.sandbox.v1.ExecStreamExit", kExecStreamExit);
constinit const Type ExecStreamError::kType = table<ExecStreamError>("coreweave.sandbox.v1.ExecStreamError", kExecStreamError);
constinit const Type ExecStreamResponse::kType =
    table<ExecStreamResponse>("coreweave.sandbox.v1.ExecStreamResponse", kExecStreamResponse);

}  // namespace cwsandbox::messages
