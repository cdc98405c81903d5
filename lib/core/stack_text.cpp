#include "core/stack_text.hpp"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <string_view>

namespace cwsandbox::core {

namespace {

constexpr std::size_t kLongestName = 240;
// So many frames are shown whatever they are.
constexpr std::size_t kInnermost = 4;

/// The functions of a program or a library, also those that it does not export: its own are hidden, and dladdr() does not know
/// them.
class Symbols {
 public:
  explicit Symbols(const std::string& file) {
    const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    struct stat status{};
    if (::fstat(fd, &status) == 0 && status.st_size > 0) {
      void* const at = ::mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
      if (at != MAP_FAILED) image_ = {static_cast<const char*>(at), static_cast<std::size_t>(status.st_size)};
    }
    ::close(fd);
    find_tables();
  }
  ~Symbols() {
    if (!image_.empty()) ::munmap(const_cast<char*>(image_.data()), image_.size());
  }
  Symbols(const Symbols&) = delete;
  Symbols& operator=(const Symbols&) = delete;

  /// Empty when there is none.
  [[nodiscard]] std::string name_of(std::uint64_t address) const {
    for (const ElfW(Sym) & symbol : symbols_) {
      if ((symbol.st_info & 0xf) != STT_FUNC || address < symbol.st_value || address - symbol.st_value >= symbol.st_size) continue;
      if (symbol.st_name >= names_.size()) continue;
      const std::string_view rest = names_.substr(symbol.st_name);
      return std::string(rest.substr(0, rest.find('\0')));
    }
    return {};
  }

 private:
  template <class T>
  [[nodiscard]] std::span<const T> array(std::uint64_t offset, std::uint64_t bytes) const {
    if (offset > image_.size() || bytes > image_.size() - offset || offset % alignof(T) != 0) return {};
    return {reinterpret_cast<const T*>(image_.data() + offset), bytes / sizeof(T)};
  }
  void find_tables() {
    const auto header = array<ElfW(Ehdr)>(0, sizeof(ElfW(Ehdr)));
    if (header.empty() || std::string_view(reinterpret_cast<const char*>(header[0].e_ident), SELFMAG) != ELFMAG) return;
    const auto sections = array<ElfW(Shdr)>(header[0].e_shoff, std::uint64_t{header[0].e_shnum} * sizeof(ElfW(Shdr)));
    for (const ElfW(Shdr) & section : sections) {
      if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
      symbols_ = array<ElfW(Sym)>(section.sh_offset, section.sh_size);
      const auto names = array<char>(sections[section.sh_link].sh_offset, sections[section.sh_link].sh_size);
      names_ = {names.data(), names.size()};
    }
  }

  std::string_view image_, names_;
  std::span<const ElfW(Sym)> symbols_;
};

std::string demangled(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), &std::free);
  std::string out = text ? text.get() : name;
  if (out.size() > kLongestName) out.replace(kLongestName, std::string::npos, "…");
  return out;
}

/// Whether it only hands on: of a coroutine's stack, that is most.
bool plumbing(const std::string& name) {
  const std::string_view head = std::string_view(name).substr(0, name.find_first_of("(<"));
  for (const std::string_view library : {"boost::", "boost_asio_", "std::"})
    if (const auto at = head.find(library); at != std::string_view::npos && (at == 0 || head[at - 1] == ' ')) return true;
  return head == "decltype ";
}

std::string hex(std::uint64_t value) {
  char digits[2 * sizeof value];
  const auto end = std::to_chars(std::begin(digits), std::end(digits), value, 16).ptr;
  return "0x" + std::string(digits, end);
}

}  // namespace

std::string stack_text(std::span<void* const> addresses) {
  std::map<std::string, std::unique_ptr<Symbols>> files;
  std::string out;
  std::size_t number = 0;
  for (void* const address : addresses) {
    // The call, not what comes after it: that may be another function.
    const auto at = reinterpret_cast<std::uintptr_t>(address) - 1;
    Dl_info info{};
    link_map* module = nullptr;
    // The address of a byte, which nobody reads.
    const void* const place = reinterpret_cast<const void*>(at);  // NOLINT(performance-no-int-to-ptr)
    if (::dladdr1(place, &info, reinterpret_cast<void**>(&module), RTLD_DL_LINKMAP) == 0 || module == nullptr) {
      out += "  ? (" + hex(at) + ")\n";
      continue;
    }
    const bool program = module->l_name == nullptr || *module->l_name == '\0';
    const std::string file = program ? "/proc/self/exe" : module->l_name;
    auto& symbols = files[file];
    if (!symbols) symbols = std::make_unique<Symbols>(file);
    const std::uint64_t offset = at - module->l_addr;
    std::string name = symbols->name_of(offset);
    if (name.empty() && info.dli_sname != nullptr) name = info.dli_sname;
    const std::string shown = program && info.dli_fname != nullptr ? info.dli_fname : file;
    const std::string text = name.empty() ? "?" : demangled(name);
    if (++number > kInnermost && plumbing(text)) continue;
    out += "  " + text + " (" + shown + "+" + hex(offset) + ")\n";
  }
  return out;
}

}  // namespace cwsandbox::core
