#!/usr/bin/env python3
"""Runs an example and compares what it prints: check.py PROGRAM EXPECTED"""
import subprocess
import sys

program, expected = sys.argv[1], sys.argv[2].encode().decode("unicode_escape")
run = subprocess.run([program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=100, check=False, text=True)
if run.returncode != 0 or run.stdout != expected:
    sys.exit(f"{program}: exit code {run.returncode}, printed {run.stdout!r}, expected {expected!r}")
