#!/usr/bin/env python3
"""Runs an example and compares what it prints with a file: check.py PROGRAM FILE"""
import difflib
import pathlib
import subprocess
import sys

program, expected = sys.argv[1], pathlib.Path(sys.argv[2]).read_text(encoding="utf-8")
run = subprocess.run([program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False, text=True, encoding="utf-8")
if run.returncode != 0 or run.stdout != expected:
    sys.stdout.writelines(difflib.unified_diff(expected.splitlines(True), run.stdout.splitlines(True), sys.argv[2], "printed"))
    sys.exit(f"{program}: exit code {run.returncode}")
