"""[TY-3] mistakes.py INCLUDE COMPILER…: what is misused does not compile, and the compiler says why in one error."""
import subprocess
import sys

WHY = "cwsandbox::argv: every part is a string, an integer, a float or a double"
CASES = [("argv(\"ls\", 5, 0.5)", None), ("argv(\"ls\", true)", WHY), ("argv('a')", WHY), ("argv(nullptr)", WHY),
         ("argv(std::vector<int>())", WHY)]

include, compiler = sys.argv[1], sys.argv[2:]
failed = 0
for expression, why in CASES:
    source = f"#include <cwsandbox/exec_options.hpp>\nauto x = cwsandbox::{expression};\n"
    done = subprocess.run([*compiler, "-std=c++20", "-fsyntax-only", "-I" + include, "-x", "c++", "-"], input=source, text=True,
                          capture_output=True)
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    right = done.returncode == 0 if why is None else len(errors) == 1 and why in errors[0] and len(done.stderr.splitlines()) < 20
    if not right:
        failed = 1
        print(f"{expression}:\n{done.stderr}")
sys.exit(failed)
