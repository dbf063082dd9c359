"""Say in each response of an inference which network gave it: the hash of the version that the response names.

tritonserver names the version, whose number only says which folder it lies in. Its Python backend has no parameters of
responses yet, so the hash is added on the way to the client.
"""

import json
import re
from collections.abc import Callable

from deploy.content import HASH

# The hash of a model's version, empty where it is not known.
HashOf = Callable[[str, str], str]

# What a response in JSON begins with. An id before it cannot hold these quotes unescaped.
_NAMES = re.compile(rb'"model_name":"([^"]*)","model_version":"([^"]*)"')
# Of ModelInferResponse on the wire: the fields model_name, model_version and parameters, and of an entry of the last
# the key, the value, and in it string_param.
_NAME, _VERSION, _PARAMETERS, _KEY, _VALUE, _STRING = b"\x0a", b"\x12", b"\x22", b"\x0a", b"\x12", b"\x1a"
_SHORT = 0x80  # lengths below it take one byte


def identified_message(message: bytes, hash_of: HashOf) -> bytes:
    """Return a serialised ModelInferResponse with the hash as its parameter `sha256`, or as it is where none is known.

    The fields of a message may come in any order, so the parameter is put behind it.
    """
    name, place = _text(message, 0, _NAME)
    version, _ = _text(message, place, _VERSION)
    value = hash_of(name, version).encode()
    if not value:
        return message
    entry = _field(_KEY, HASH.encode()) + _field(_VALUE, _field(_STRING, value))
    return message + _field(_PARAMETERS, entry)


def identified_json(body: bytes, json_length: int, hash_of: HashOf) -> tuple[bytes, int]:
    """Return a response's body, and the length of its JSON part, with the hash as its parameter `sha256`.

    Args:
        body: JSON, and the bytes of tensors after it.
        json_length: bytes of the JSON part.
        hash_of: knows the hash.
    """
    names = _NAMES.search(body, 0, json_length)
    value = hash_of(*(part.decode(errors="replace") for part in names.groups())) if names else ""
    if not value:
        return body, json_length
    added = b'{"parameters":' + json.dumps({HASH: value}).encode() + b","
    return added + body[1:], json_length + len(added) - 1


def _text(message: bytes, place: int, tag: bytes) -> tuple[str, int]:
    """Return the short text of the field that begins at a place, empty where another does, and the place behind it."""
    if message[place : place + 1] != tag or len(message) <= place + 1 or message[place + 1] >= _SHORT:
        return "", place
    end = place + 2 + message[place + 1]
    return message[place + 2 : end].decode(errors="replace"), end


def _field(tag: bytes, content: bytes) -> bytes:
    assert len(content) < _SHORT
    return tag + bytes([len(content)]) + content
