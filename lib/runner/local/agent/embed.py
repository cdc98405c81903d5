#!/usr/bin/env python3
"""Writes a C++ source that holds a program's bytes. The digest makes the text change with the program, so that every kind of
compiler cache sees it."""
import hashlib
import pathlib
import sys

program, output = map(pathlib.Path, sys.argv[1:3])
digest = hashlib.sha256(program.read_bytes()).hexdigest()
path = str(program.resolve()).replace("\\", "\\\\").replace('"', '\\"')
output.write_text(f'''// Made by embed.py from {program.name}, sha256 {digest}.
asm(R"(
    .pushsection .rodata
    .balign 16
    .global cwsandbox_agent_image
    .hidden cwsandbox_agent_image
    .global cwsandbox_agent_image_end
    .hidden cwsandbox_agent_image_end
cwsandbox_agent_image:
    .incbin "{path}"
cwsandbox_agent_image_end:
    .byte 0
    .popsection
)");
''')
