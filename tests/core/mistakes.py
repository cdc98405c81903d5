"""[TY-3] mistakes.py INCLUDE COMPILER…: what is misused does not compile, and the compiler says why in one error."""
import subprocess
import sys

ARGV = "cwsandbox::argv: every part is a string, an integer, a float or a double"
EXEC = "cwsandbox: exec() takes the program and each of its arguments apart"
RESULTS = "cwsandbox::results: takes one list, of processes or of tasks of one type"
SANDBOX = "#include <cwsandbox/cwsandbox.hpp>\nusing namespace cwsandbox;\nextern Sandbox sandbox;\nextern Process p, q;\n"
COMMANDS = ("#include <cwsandbox/exec_options.hpp>\n"
            "#define CHECKED(...) auto x = cwsandbox::__VA_ARGS__\n")
CHECKED = SANDBOX + "#define CHECKED(...) inline void f() { static_cast<void>(__VA_ARGS__); }\n"
CASES = [
    (COMMANDS, ['argv("ls", 5, 0.5)'], None),
    (COMMANDS, ['argv("ls", true)', "argv('a')", "argv(nullptr)", "argv(std::vector<int>())"], ARGV),
    (CHECKED, ['sandbox.exec({"ls", "-l"})', 'sandbox.exec({"ls"})', 'sandbox.exec(argv("ls"))', "sandbox.exec(p.command())",
               'sandbox.exec({"ls"}, ExecOptions().with_check())', "results(std::vector{p, q})", "results({p, q})",
               "results(std::vector{p.pid(), q.pid()})"], None),
    (CHECKED, ['sandbox.exec("ls -l")', 'sandbox.exec(std::string("ls"))', "sandbox.exec(5)",
               "sandbox.exec(std::vector<const char*>())", 'sandbox.exec("ls", ExecOptions().with_check())'], EXEC),
    (CHECKED, ["results(p, q)", "results(p)", "results(std::vector<Sandbox>())", "results(std::vector<int>())", "results()"], RESULTS),
]

include, compiler = sys.argv[1], sys.argv[2:]
failed = 0


def compile_one(head, expressions):
    source = head + "".join(f"namespace n{i} {{\nCHECKED({e});\n}}\n" for i, e in enumerate(expressions))
    return subprocess.run([*compiler, "-std=c++20", "-fsyntax-only", "-I" + include, "-x", "c++", "-"], input=source, text=True,
                          capture_output=True)


for head, expressions, why in CASES:
    if why is None:
        done = compile_one(head, expressions)
        right = done.returncode == 0
    else:
        # All at once, since the headers take the time: one error each, and short.
        done = compile_one(head, expressions)
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        right = len(errors) == len(expressions) and all(why in error for error in errors)
        right = right and len(done.stderr.splitlines()) < 20 * len(expressions)
    if not right:
        failed = 1
        print(f"{expressions}:\n{done.stderr}")
sys.exit(failed)
