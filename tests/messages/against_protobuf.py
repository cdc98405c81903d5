#!/usr/bin/env python3
"""Usage: against_protobuf.py RECODE [COUNT [SEED]]

Every message of lib/messages/ against Google's protobuf: the .proto text that our tables give is compiled by protoc, and COUNT random
messages of each type go through RECODE (recode.cpp), from JSON and from binary to JSON and to binary. What comes back must be what was
sent, as Google's library reads it. The fields' numbers and types are compared with those of the published package (published.txt).

Ends with 77 (skipped) where protoc or python3-protobuf is missing.
"""
import base64
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

try:
    from google.protobuf import descriptor, descriptor_pb2, descriptor_pool, json_format, message_factory
    from google.protobuf import empty_pb2, field_mask_pb2, timestamp_pb2  # noqa: F401 (the pool needs them)
except ImportError:
    print("skipped: python3-protobuf is not installed")
    sys.exit(77)
if shutil.which("protoc") is None:
    print("skipped: protobuf-compiler is not installed")
    sys.exit(77)

F = descriptor.FieldDescriptor
HERE = pathlib.Path(__file__).resolve().parent
# Reserved in the newest version of the API, and served as long as there are clients that send them.
OLDER = {("SandboxSpec", 2), ("SandboxSpec", 12), ("PartialSandboxSpec", 2), ("PartialSandboxSpec", 12)}
# A map of messages and a google.protobuf.Struct, which no table has; see the heads of the files.
LEFT_OUT = {("CreateSandboxFromFileRequest", 17), ("SandboxTemplate", 10)}
# A part of the first of these, and one that no method has.
LEFT_OUT_MESSAGES = {"BuildContextObject", "RuntimeClassMapping"}
# Parts that are there whether anything is in them or not.
ALWAYS_THERE = {"spec", "status", "sandbox"}


def load(recode: str):
    """The descriptors of our messages, by way of their .proto text."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([recode, "--proto", folder], check=True)
        files = [str(p.relative_to(folder)) for p in pathlib.Path(folder).rglob("*.proto")]
        subprocess.run(["protoc", "--descriptor_set_out=set", *files], cwd=folder, check=True)
        text = pathlib.Path(folder, "set").read_bytes()
    pool = descriptor_pool.Default()
    files = descriptor_pb2.FileDescriptorSet.FromString(text).file
    for file in files:
        pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    out = []
    for file in files:
        for message in file.message_type:
            out.append(pool.FindMessageTypeByName(f"{file.package}.{message.name}"))
    return out


def class_of(message):
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(message)
    return message_factory.MessageFactory().GetPrototype(message)


def type_of(field) -> str:
    """As published.txt writes it."""
    names = {F.TYPE_STRING: "string", F.TYPE_BYTES: "bytes", F.TYPE_BOOL: "bool", F.TYPE_INT32: "int32", F.TYPE_INT64: "int64",
             F.TYPE_UINT32: "uint32", F.TYPE_UINT64: "uint64"}
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        return f"map<{type_of(entry['key'])},{type_of(entry['value'])}>"
    name = field.message_type.full_name if field.message_type else field.enum_type.full_name if field.enum_type else names[field.type]
    if field.label == F.LABEL_REPEATED:
        return "repeated " + name
    oneof = field.containing_oneof
    if oneof is not None and not oneof.name.startswith("_"):
        return f"{name} of {oneof.name}"
    return ("optional " if oneof is not None else "") + name


def compare_with_published(messages) -> int:
    ours = {}
    enums = {}
    for message in messages:
        if not message.full_name.startswith("coreweave."):
            continue
        for field in message.fields:
            ours[(message.name, field.number)] = f"{field.name} {type_of(field)}"
            if field.enum_type:
                for value in field.enum_type.values:
                    enums[(field.enum_type.full_name, value.number)] = value.name
    theirs = {}
    faults = 0
    for line in (HERE / "published.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, number, rest = line.split(" ", 2)
        if line.startswith("enum:"):
            name = name[5:]
            if enums.get((name, int(number))) != rest:
                faults += 1
                print(f"{name} {number} is {rest}, here {enums.get((name, int(number)))}")
        elif name not in LEFT_OUT_MESSAGES:
            theirs[(name, int(number))] = rest
    for key in sorted(set(ours) | set(theirs)):
        if ours.get(key) != theirs.get(key) and key not in (OLDER if key in ours else LEFT_OUT):
            faults += 1
            print(f"{key[0]} {key[1]} is {theirs.get(key)}, here {ours.get(key)}")
    return faults


ALPHABET = "aZ09 _-/.\"\\\n\t\x01\x7f<>&'éß€語😀\u2028"


def text(rng, most=12) -> str:
    return "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, most)))


def scalar(rng, field):
    edges = {F.TYPE_INT32: (-2**31, 2**31 - 1), F.TYPE_INT64: (-2**63, 2**63 - 1), F.TYPE_UINT32: (0, 2**32 - 1), F.TYPE_UINT64: (0, 2**64 - 1)}
    if field.type == F.TYPE_STRING:
        return text(rng) if rng.random() < 0.9 else ""
    if field.type == F.TYPE_BYTES:
        if field.name.endswith("_bytes"):
            return b"\xff" + rng.randbytes(rng.randrange(5))  # text would be written as text
        return rng.randbytes(rng.randrange(9))
    if field.type == F.TYPE_BOOL:
        return rng.random() < 0.7
    if field.type == F.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    low, high = edges[field.type]
    return rng.choice([low, high, 0, 1, rng.randint(low, high), rng.randint(max(low, -1000), 1000)])


def fill(rng, message, depth=0):
    by_name = message.DESCRIPTOR.fields_by_name
    groups = {}
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is not None and not oneof.name.startswith("_"):
            groups.setdefault(oneof.name, []).append(field)
            continue
        twin = by_name.get(field.name + "_bytes") or (by_name.get(field.name[:-6]) if field.name.endswith("_bytes") else None)
        if twin is not None and twin.number < field.number:
            continue
        if twin is not None:  # text or bytes, and a path is needed
            chosen = rng.choice([field, twin])
            setattr(message, chosen.name, scalar(rng, chosen) or text(rng))
        elif rng.random() < (0.6 if depth < 4 else 0.2):
            put(rng, message, field, depth)
    for fields in groups.values():
        if rng.random() < 0.8:
            put(rng, message, rng.choice(fields), depth)
    return message


def put(rng, message, field, depth):
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        for _ in range(rng.randrange(1, 4)):
            getattr(message, field.name)[text(rng)] = scalar(rng, kind.fields_by_name["value"])
    elif field.label == F.LABEL_REPEATED:
        for _ in range(rng.randrange(1, 4)):
            if kind is not None:
                part(rng, getattr(message, field.name).add(), depth)
            else:
                getattr(message, field.name).append(scalar(rng, field))
    elif kind is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        part(rng, inner, depth)
    else:
        setattr(message, field.name, scalar(rng, field))


def part(rng, inner, depth):
    name = inner.DESCRIPTOR.full_name
    if name == "google.protobuf.Timestamp":
        inner.seconds = rng.randint(-9_000_000_000, 9_000_000_000)
        inner.nanos = rng.choice([0, 1, 999_999_999, 120_000_000, 123_456_000, rng.randrange(10**9)])
    elif name == "google.protobuf.FieldMask":
        inner.paths.extend(rng.choice(["spec", "spec.read_only", "display_name"]) for _ in range(rng.randrange(3)))
    elif rng.random() < 0.9:
        fill(rng, inner, depth + 1)


def drop_empty(message):
    """Without the parts of which only the content counts."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.label == F.LABEL_REPEATED else [value]:
            drop_empty(inner)
        if field.label != F.LABEL_REPEATED and field.name in ALWAYS_THERE and not value.ListFields():
            if message.DESCRIPTOR.name in ("Sandbox", "CreateSandboxRequest"):
                message.ClearField(field.name)


def main() -> int:
    recode = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    count = max(count // int(os.environ.get("CWSANDBOX_TEST_PARTS", 1)), 5)  # where a sanitizer makes it slow
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    messages = load(recode)
    faults = compare_with_published(messages)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it speaks of each text that was cut in a character
    lines, wanted = [], []
    for kind in messages:
        cls = class_of(kind)
        for _ in range(count):
            sent = fill(rng, cls())
            drop_empty(sent)
            binary = sent.SerializeToString()
            snake = rng.random() < 0.3
            defaults = {"including_default_value_fields": True} if rng.random() < 0.1 else {}
            written = json_format.MessageToJson(sent, preserving_proto_field_name=snake, **defaults).encode()
            # What a newer version of a message might have.
            unknown = b"\xfa\x3f\x03abc\xc0\x3f\x07" if rng.random() < 0.2 else b""
            for form, data in (("json", written), ("protobuf", binary + unknown)):
                for to in ("json", "protobuf"):
                    lines.append(f"{kind.full_name} {form} {to} {base64.b64encode(data).decode()}")
                    wanted.append((cls, sent, to))
            if binary:  # cut off somewhere: both read the same, or none does
                cut = binary[:rng.randrange(len(binary))]
                try:
                    got = cls.FromString(cut)
                except Exception:
                    got = None
                lines.append(f"{kind.full_name} protobuf protobuf {base64.b64encode(cut).decode()}")
                wanted.append((cls, got, "cut"))
    answers = subprocess.run([recode], input="\n".join(lines) + "\n", capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(answers) == len(lines), f"{len(answers)} answers to {len(lines)} messages"
    for line, answer, (cls, sent, to) in zip(lines, answers, wanted):
        word, _, rest = answer.partition(" ")
        got = None
        if word == "ok":
            data = base64.b64decode(rest)
            got = json_format.Parse(data, cls()) if to == "json" else cls.FromString(data)
        if sent is not None:
            drop_empty(sent)
        if to == "cut" and word == "error" and rest.endswith("must be there and not be empty"):
            continue  # a rule of ours, not of the encoding
        if got != sent:
            faults += 1
            if faults < 10:
                print(f"{line}\n  gave {answer[:300]}\n  as   {str(got)[:600]!r}\n  not  {str(sent)[:600]!r}")
    print(f"{len(messages)} messages, {len(lines)} encodings compared, {faults} faults (seed {seed})")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
