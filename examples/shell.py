#!/usr/bin/env python3
"""Runs the shell blocks of pages as somebody would type them, one shell for each page: shell.py TOOLS PAGE…

TOOLS is the folder of the built programs; the pages call it build/tools. Before a ```sh block stands one of

    <!-- run -->           it must succeed
    <!-- run: server -->   its last command goes on in the background until the page is over; it must listen at 127.0.0.1:8080
    <!-- setup: CMD -->    what a reader has: a file, a variable

and `<!-- prints -->` before the ```text block that follows says what comes out, where `…` stands for anything. The port 8080 is replaced
by a free one, and everything happens in a folder of its own.
"""
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PART = re.compile(r"<!-- (run|run: server|prints) -->\n```\w*\n(.*?)^```$|<!-- setup: (.*?) -->", re.M | re.S)
DEADLINE = 300  # seconds for a page


def script(text, port):
    """The page as one script: each block's output goes into a file of its own."""
    lines, expected, blocks = ["set -euo pipefail", "trap '[ -z \"$server\" ] || kill $server || true; wait' EXIT", "server="], {}, 0
    for match in PART.finditer(text):
        kind, body, setup = match.groups()
        if kind == "prints":
            expected[blocks] = body
            continue
        blocks += 1
        where = f"line {text.count(chr(10), 0, match.start()) + 1}"
        lines.append(f"echo {where} >at")
        body = (body or setup + "\n").replace("127.0.0.1:8080", f"127.0.0.1:{port}")
        if kind == "run: server":
            *before, last = body.rstrip("\n").split("\n")
            lines += [*before, f"{last} >server.log 2>&1 &", "server=$!", f"wait_for {port}"]
        else:
            # Not in a subshell: what it sets is there for the next block.
            lines.append("{\n" + body + f"}} >out.{blocks}")
    return "\n".join(lines) + "\n", expected, blocks


WAIT_FOR = """wait_for() {
  for _ in $(seq 500); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
    kill -0 "$server" || { cat server.log >&2; exit 1; }
    sleep 0.05
  done
  echo "nobody listens at port $1" >&2
  exit 1
}
"""


def run_page(tools, page):
    text = page.read_text(encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    body, expected, blocks = script(text, port)
    if not blocks:
        return [f"{page}: no block is marked to be run"]
    with tempfile.TemporaryDirectory(prefix="cwsandbox-doc-") as folder:
        scratch = pathlib.Path(folder)
        (scratch / "build").mkdir()
        (scratch / "build" / "tools").symlink_to(tools)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CWSANDBOX_")}
        shell = subprocess.Popen(["bash", "-c", WAIT_FOR + body], cwd=scratch, env=environment, stdin=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            _, errors = shell.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGTERM)
            time.sleep(1)
            os.killpg(shell.pid, signal.SIGKILL)
            return [f"{page}: not done after {DEADLINE} s, at {(scratch / 'at').read_text()}"]
        if shell.returncode != 0:
            return [f"{page}: {(scratch / 'at').read_text().strip()}: exit code {shell.returncode}\n{errors}"]
        bad = []
        for block, wanted in expected.items():
            got = (scratch / f"out.{block}").read_text(encoding="utf-8")
            if not re.fullmatch(re.escape(wanted).replace("…", ".*"), got, re.S):
                bad.append(f"{page}: block {block} printed\n{got}where the page says\n{wanted}")
        print(f"{page.relative_to(ROOT)}: {blocks} blocks, {len(expected)} outputs")
        return bad


def main():
    tools = pathlib.Path(sys.argv[1]).resolve()
    bad = [line for page in sys.argv[2:] for line in run_page(tools, ROOT / page)]
    if bad:
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
