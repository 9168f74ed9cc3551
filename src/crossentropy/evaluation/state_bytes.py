"""A state as bytes, to be kept or sent to where the parts are merged: compressed JSON, never anything that executes."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

# Raised when a reader of the old form would misread the new one.
VERSION = 1
_MAGIC = b"crossentropy evaluation\n"
# A corrupt length must not ask for all memory; the largest state (10,000 classes) takes some 20 MB.
_MOST_BYTES = 2**30


def to_bytes(state: Any) -> bytes:
    """Write a dataclass of arrays, numbers, texts and such dataclasses."""
    return _MAGIC + zlib.compress(json.dumps({"version": VERSION, "state": _plain(state)}).encode(), 1)


def from_bytes(data: bytes, types: Iterable[type]) -> Any:
    """Read what `to_bytes` wrote; only the dataclasses in `types` are made.

    Raises
    ------
    ValueError : the bytes are damaged, from another version or something else
    """
    if not data.startswith(_MAGIC):
        raise ValueError("these bytes are not a saved evaluation")
    try:
        reader = zlib.decompressobj()
        text = reader.decompress(data[len(_MAGIC) :], _MOST_BYTES)
        if not reader.eof:
            raise ValueError("the data is cut off")
        content = json.loads(text)
        if content["version"] != VERSION:
            raise ValueError(f"it is of version {content['version']}, this is version {VERSION}")
        return _restored(content["state"], {type.__name__: type for type in types})
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise ValueError(f"the saved evaluation is damaged or of another version: {error}") from None


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {"type": type(value).__name__, **{f.name: _plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        content = base64.b64encode(array.tobytes()).decode()
        return {"type": "array", "dtype": array.dtype.str, "shape": array.shape, "content": content}
    if isinstance(value, frozenset):
        return {"type": "frozenset", "items": sorted(value)}
    if isinstance(value, dict):
        return {"type": "dict", "items": [[key, _plain(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _restored(value: Any, types: dict[str, type]) -> Any:
    if isinstance(value, list):
        return tuple(_restored(item, types) for item in value)
    if not isinstance(value, dict):
        return value
    kind = value["type"]
    if kind == "array":
        array = np.frombuffer(base64.b64decode(value["content"]), value["dtype"]).reshape(value["shape"])
        return array.astype(array.dtype.newbyteorder("="))
    if kind == "frozenset":
        return frozenset(value["items"])
    if kind == "dict":
        return {key: _restored(item, types) for key, item in value["items"]}
    return types[kind](**{name: _restored(item, types) for name, item in value.items() if name != "type"})
