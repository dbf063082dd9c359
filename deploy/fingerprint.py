"""What an engine was made of, as one hash: where it is unchanged, nothing is built again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model.checkpoint import Checkpoint

EXPORT_TOOLS = ("torch", "onnx", "onnxscript")
OWN_PACKAGES = ("kernels", "model", "data_pipeline", "deploy")


def fingerprint(**parts: Any) -> str:
    """SHA-256 of JSON-able parts, independent of their order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """Of every weight's bytes and of what they mean."""
    digest = hashlib.sha256(json.dumps(asdict(checkpoint.info), sort_keys=True).encode())
    for name, tensor in sorted(checkpoint.state.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@cache
def code_fingerprint() -> str:
    """Of this project's own source, so that a changed rewrite or check rebuilds what it would change."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for file in sorted(file for package in OWN_PACKAGES for file in (root / package).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def export_tools() -> dict[str, str]:
    """Versions of what turns the network into ONNX."""
    return {name: version(name) for name in EXPORT_TOOLS}
