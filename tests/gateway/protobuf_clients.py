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
import time

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2, field_mask_pb2, message_factory, timestamp_pb2  # noqa: F401
except ImportError:
    print("skipped: python3-protobuf is not installed")
    sys.exit(77)
for program in ("protoc", "bwrap"):
    if shutil.which(program) is None:
        print(f"skipped: {program} is not installed")
        sys.exit(77)

PACKAGE = "coreweave.sandbox.v1"


def classes(recode: str):
    """The message classes by their full names."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([recode, "--proto", folder], check=True)
        names = [str(p.relative_to(folder)) for p in pathlib.Path(folder).rglob("*.proto")]
        subprocess.run(["protoc", "--descriptor_set_out=set", *names], cwd=folder, check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(folder, "set").read_bytes()).file
    pool = descriptor_pool.Default()
    out = {}
    for file in files:
        pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    for file in files:
        for message in file.message_type:
            name = f"{file.package}.{message.name}"
            kind = pool.FindMessageTypeByName(name)
            make = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory().GetPrototype
            out[name] = make(kind)
    return out


class Gateway:
    def __init__(self, program: str, folder: str):
        self.log = open(os.path.join(folder, "log"), "w+")
        token = os.path.join(folder, "token")
        pathlib.Path(token).write_text("a-token-of-this-test-alone\n")
        os.chmod(token, 0o600)
        self.path = os.path.join(folder, "socket")
        self.process = subprocess.Popen([program, "--listen", f"unix:{self.path}", "--token-file", token], stdout=self.log,
                                        stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": folder})
        deadline = time.monotonic() + 60
        while not os.path.exists(self.path):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the gateway did not start:\n" + pathlib.Path(self.log.name).read_text())
            time.sleep(0.01)  # there is nothing to wait on

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
    of = classes(recode)

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
