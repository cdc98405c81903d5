// Which version is compiled against, and which one runs.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;

int main() {
  // snippet: version
#if CWSANDBOX_VERSION < CWSANDBOX_VERSION_NUMBER(0, 1, 0)
#error "cwsandbox 0.1 is needed"
#endif
  if (version() != kVersion) std::cerr << "compiled with " << kVersion << ", running with " << version() << '\n';
  // end snippet
  std::cout << (version() == CWSANDBOX_VERSION_STRING) << '\n';
}
