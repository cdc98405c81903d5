#!/bin/sh
# Usage: embed.sh NAME FILE [NAME FILE…]: a C++ header that holds the texts of files.
set -eu
echo '#pragma once'
echo 'namespace cli {'
while [ $# -gt 0 ]; do
  printf 'inline constexpr const char* %s = R"EMBEDDED(' "$1"
  cat "$2"
  printf ')EMBEDDED";\n'
  shift 2
done
echo '}'
