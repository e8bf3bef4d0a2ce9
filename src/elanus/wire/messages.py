"""Milvus's protobuf messages, taken from the installed `pymilvus` without importing it.

`import pymilvus` costs 0.3 s and 100 MB, and the default descriptor pool holds each message name only once per process.
So the generated `*_pb2.py` files of whichever pymilvus is installed are read as text, the serialized descriptors in
them are lifted out of their syntax trees, and message classes are made in a pool of our own. A pymilvus imported
beside the server in one process, of the same version or another, is not disturbed.

`messages()` is the catalogue; it is built once, at its first call.
"""

from __future__ import annotations

import ast
import importlib
import os
from dataclasses import dataclass
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from elanus.base.errors import InvariantError

SERVICE: Final = "milvus.proto.milvus.MilvusService"
STATUS: Final = "milvus.proto.common.Status"
_ROOT_FILE: Final = "milvus.proto"
_GOOGLE_PREFIX: Final = "google/protobuf/"


@dataclass(frozen=True, slots=True)
class Method:
    """One call of the service: names of its request and response classes, and whether it streams."""

    name: str
    request: Any
    response: Any
    streaming: bool


class Messages:
    """Message classes by short name, where names are unique over Milvus's packages, and the service's methods."""

    def __init__(self, classes: dict[str, Any], methods: dict[str, Method], enums: dict[str, dict[str, int]]) -> None:
        self._classes = classes
        self.methods = methods
        self.enums = enums

    def __getattr__(self, name: str) -> Any:
        try:
            return self._classes[name]
        except KeyError:
            raise AttributeError(f"the installed pymilvus has no message {name}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._classes


@cache
def messages() -> Messages:
    """The catalogue of the installed pymilvus."""
    return load_messages(_generated_folder())


def load_messages(folder: str) -> Messages:
    """The catalogue of the `*_pb2.py` files in `folder`."""
    pool = descriptor_pool.DescriptorPool()
    files = _add_file(pool, folder, _ROOT_FILE, set())
    classes: dict[str, Any] = {}
    enums: dict[str, dict[str, int]] = {}
    for file in files:
        prefix = f"{file.package}." if file.package else ""
        for message in file.message_type:
            descriptor = pool.FindMessageTypeByName(prefix + message.name)
            classes[message.name] = message_factory.GetMessageClass(descriptor)
        for enum in file.enum_type:
            enums[enum.name] = {value.name: value.number for value in enum.value}
    methods = {
        method.name: Method(
            method.name,
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
            method.client_streaming or method.server_streaming,
        )
        for method in pool.FindServiceByName(SERVICE).methods
    }
    return Messages(classes, methods, enums)


def _generated_folder() -> str:
    spec = find_spec("pymilvus")
    if spec is None or not spec.submodule_search_locations:
        raise InvariantError("the pymilvus package, whose message definitions the wire needs, is not installed")
    return os.path.join(spec.submodule_search_locations[0], "grpc_gen")


def _add_file(pool: Any, folder: str, name: str, seen: set[str]) -> list[Any]:
    """Add a file after those it imports; gives Milvus's own files in that order."""
    if name in seen:
        return []
    seen.add(name)
    serialized = _google_descriptor(name) if name.startswith(_GOOGLE_PREFIX) else _serialized_descriptor(folder, name)
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    added = [found for dependency in file.dependency for found in _add_file(pool, folder, dependency, seen)]
    pool.AddSerializedFile(serialized)
    return added if name.startswith(_GOOGLE_PREFIX) else [*added, file]


def _google_descriptor(name: str) -> bytes:
    module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    serialized: bytes = module.DESCRIPTOR.serialized_pb
    return serialized


def _serialized_descriptor(folder: str, name: str) -> bytes:
    """The argument of the `AddSerializedFile(b'…')` call in the generated file."""
    path = os.path.join(folder, name.removesuffix(".proto") + "_pb2.py")
    source = SourceFileLoader(name, path).get_data(path)
    for statement in ast.parse(source).body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call)):
            continue
        function, arguments = statement.value.func, statement.value.args
        if isinstance(function, ast.Attribute) and function.attr == "AddSerializedFile" and len(arguments) == 1:
            serialized = ast.literal_eval(arguments[0])
            if isinstance(serialized, bytes):
                return serialized
    raise InvariantError(f"{path} holds no serialized descriptor")
