#include <cwsandbox/terminal.hpp>

namespace cwsandbox {

TerminalSession::TerminalSession(task<TerminalResult> result, std::vector<std::string> command, StreamReader<std::string> output,
                                 StreamWriter input, std::shared_ptr<detail::ProcessControl> control)
    : task(std::move(result)),
      command_(std::make_shared<const std::vector<std::string>>(std::move(command))),
      output_(std::move(output)),
      input_(std::move(input)),
      control_(std::move(control)) {}

const std::vector<std::string>& TerminalSession::command() const noexcept {
  const auto* told = control_->told_command();
  return told ? *told : *command_;
}

void TerminalSession::resize(int width, int height) const {
  constexpr int most = 65535;
  if (width < 1 || width > most) throw std::invalid_argument("cwsandbox: the terminal's width must be from 1 to 65535");
  if (height < 1 || height > most) throw std::invalid_argument("cwsandbox: the terminal's height must be from 1 to 65535");
  control_->resize(static_cast<std::uint16_t>(width), static_cast<std::uint16_t>(height));
}

void TerminalSession::signal(std::string_view name) const { control_->signal(name); }

}  // namespace cwsandbox
