#!/usr/bin/env python3
"""Usage: protobuf_clients.py CWSANDBOXD RECODE

The gateway, called over Connect in the binary encoding by Google's protobuf library, with the .proto text that our tables give and nothing
else of ours: creation, commands, files, lists, the log as a stream, errors.

Ends with 77 (skipped) where protoc, python3-protobuf or bubblewrap is missing.
"""
import http.client
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "messages"))
from against_protobuf import class_of, load  # noqa: E402 (skips, too, where protobuf is missing)

if shutil.which("bwrap") is None:
    print("skipped: bubblewrap is not installed")
    sys.exit(77)

PACKAGE = "coreweave.sandbox.v1"


class Gateway:
    def __init__(self, program: str, folder: str):
        token = os.path.join(folder, "token")
        pathlib.Path(token).write_text("a-token-of-this-test-alone\n")
        os.chmod(token, 0o600)
        self.path = os.path.join(folder, "socket")
        self.process = subprocess.Popen([program, "--listen", f"unix:{self.path}", "--token-file", token], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, env={**os.environ, "TMPDIR": folder})
        # It says when it listens; before that its socket's file may be there and refuse.
        said = []
        late = threading.Timer(60, self.process.kill)
        late.start()
        for line in self.process.stdout:
            said.append(line)
            if "listening on unix:" in line:
                break
        else:
            raise SystemExit("the gateway did not start:\n" + "".join(said))
        late.cancel()
        # What it says later is read, so that it never waits for that.
        self.reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        self.reader.start()

    def post(self, path: str, body: bytes, content_type: str):
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(self.path)
        headers = {"Content-Type": content_type, "Authorization": "Bearer a-token-of-this-test-alone", "Connect-Protocol-Version": "1"}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.getheader("Content-Type"), data

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def check(condition, what):
    if not condition:
        raise SystemExit(f"failed: {what}")


def main() -> int:
    program, recode = sys.argv[1:3]
    of = {kind.full_name: class_of(kind) for kind in load(recode)}

    with tempfile.TemporaryDirectory(prefix="cws-") as folder:
        gateway = Gateway(program, folder)
        try:
            def call(method, request, answer, service=f"{PACKAGE}.SandboxService"):
                status, kind, data = gateway.post(f"/{service}/{method}", request.SerializeToString(), "application/proto")
                check(status == 200, f"{method}: {status} {data[:300]}")
                check(kind == "application/proto", f"{method}: {kind}")
                return of[answer].FromString(data)

            def new(name, **fields):
                return of[f"{PACKAGE}.{name}"](**fields)

            request = new("CreateSandboxRequest", request_id="one")
            container = request.sandbox.spec.containers.add(command="/bin/sh", args=["-c", "echo hello; exec sleep 1000"])
            container.environment_variables["WORD"] = "ü"
            request.sandbox.spec.tags.append("binary")
            sandbox = call("CreateSandbox", request, f"{PACKAGE}.Sandbox")
            check(sandbox.sandbox_id.startswith("sb-"), "an id")
            check(sandbox.status.HasField("create_time"), "a time of creation")
            again = call("CreateSandbox", request, f"{PACKAGE}.Sandbox")
            check(again.sandbox_id == sandbox.sandbox_id, "the same request makes no second sandbox")

            exec_request = new("ExecRequest", sandbox_id=sandbox.sandbox_id, command=["sh", "-c", 'printf "%s\\377" $A; echo e >&2; exit 7'])
            exec_request.env["A"] = "a"
            result = call("Exec", exec_request, f"{PACKAGE}.ExecResponse")
            check((result.stdout, result.stderr, result.exit_code) == (b"a\xff", b"e\n", 7), f"Exec gave {result}")

            call("WriteFile", new("WriteFileRequest", sandbox_id=sandbox.sandbox_id, path="/tmp/f", content=b"\0\xff"), f"{PACKAGE}.WriteFileResponse")
            read = call("ReadFile", new("ReadFileRequest", sandbox_id=sandbox.sandbox_id, path="/tmp/f"), f"{PACKAGE}.ReadFileResponse")
            check(read.content == b"\0\xff", "the file's bytes")
            info = call("Stat", of["cwsandbox.v1.StatFileRequest"](sandbox_id=sandbox.sandbox_id, path_bytes=b"/tmp/f"), "cwsandbox.v1.FileInfo",
                        "cwsandbox.v1.FileService")
            check(info.size == 2 and info.name == "f", f"Stat gave {info}")

            page = call("ListSandboxes", new("ListSandboxesRequest", tags=["binary"]), f"{PACKAGE}.ListSandboxesResponse")
            check([one.sandbox_id for one in page.sandboxes] == [sandbox.sandbox_id], "the list")
            check(page.sandboxes[0].status.state == 2, "STATE_RUNNING")

            log = new("StreamLogsRequest", sandbox_id=sandbox.sandbox_id).SerializeToString()
            status, kind, data = gateway.post(f"/{PACKAGE}.SandboxService/StreamLogs", struct.pack(">BI", 0, len(log)) + log, "application/connect+proto")
            check(status == 200 and kind == "application/connect+proto", f"StreamLogs: {status} {kind}")
            text = b""
            while data:
                flags, size = struct.unpack(">BI", data[:5])
                part, data = data[5:5 + size], data[5 + size:]
                if flags & 2:
                    check(part == b"{}" and not data, f"the end of the stream: {part}")
                else:
                    text += of[f"{PACKAGE}.LogEntry"].FromString(part).data
            check(text == b"hello\n", f"the log: {text}")

            # Errors are JSON in both encodings; bytes that are no message are refused by their place.
            status, kind, data = gateway.post(f"/{PACKAGE}.SandboxService/GetSandbox", new("GetSandboxRequest", sandbox_id="sb-none").SerializeToString(),
                                              "application/proto")
            check((status, kind) == (404, "application/json") and b"not_found" in data, f"an error: {status} {kind} {data}")
            status, _, data = gateway.post(f"/{PACKAGE}.SandboxService/CreateSandbox", b"\x0a\x02\x12\x07", "application/proto")
            check(status == 400 and b"sandbox: is not protobuf" in data, f"no message: {status} {data}")
            status, _, data = gateway.post(f"/{PACKAGE}.SandboxService/GetSandbox", b"", "application/grpc")
            check(status == 415, f"another content type: {status} {data}")

            call("DeleteSandbox", new("DeleteSandboxRequest", sandbox_id=sandbox.sandbox_id), f"{PACKAGE}.DeleteSandboxResponse")
        finally:
            gateway.stop()
    print("a client of Google's protobuf library was served")
    return 0


if __name__ == "__main__":
    sys.exit(main())
