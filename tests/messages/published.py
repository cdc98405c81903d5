#!/usr/bin/env python3
"""Usage: published.py > published.txt

What the published client package `cwsandbox` says of the API: each field with its number and type, each value of an enum. Run it where that
package is installed, in a virtual environment say, when a newer version is out.
"""
import importlib.metadata
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from against_protobuf import type_of  # noqa: E402

from cwsandbox._proto import (discovery_pb2, runtime_class_pb2, sandbox_data_plane_pb2, sandbox_pb2, sandbox_template_pb2,  # noqa: E402
                              settings_pb2, volume_pb2)

print(f"# Facts of coreweave.sandbox.v1 as the PyPI package cwsandbox {importlib.metadata.version('cwsandbox')} has them; see published.py.")
enums = {}
for module in (sandbox_pb2, sandbox_data_plane_pb2, discovery_pb2, sandbox_template_pb2, settings_pb2, volume_pb2, runtime_class_pb2):
    for message in module.DESCRIPTOR.message_types_by_name.values():
        for field in message.fields:
            print(message.name, field.number, field.name, type_of(field))
            if field.enum_type:
                enums[field.enum_type.full_name] = field.enum_type
for name, enum in sorted(enums.items()):
    for value in enum.values:
        print(f"enum:{name}", value.number, value.name)
