"""Name, read and hash the files that decide what a network answers, without what only a build or a server needs."""

import fcntl
import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from data_pipeline.files import WITHOUT_LOCKS

# Beside the network in a version's folder: images with PyTorch's answers, what the server's Python backend runs, and
# the labels' names, one a line.
GOLDEN, CODE, LABELS = "golden.npz", "model.py", "labels.txt"
# The parameters of a configuration that hold hashes: of the files of its version, and of all of it.
FILES_HASH, HASH = "files_sha256", "sha256"


def possible_files(network: Path) -> list[Path]:
    """List a network's file, and the companions that it may have."""
    return [
        network,
        network.with_suffix(".bin"),  # the weights of OpenVINO's IR
        network.with_name(network.name + ".data"),  # the weights of an ONNX file that keeps them apart
        network.with_suffix(".layers.json"),  # what TensorRT made of each layer
    ]


def network_files(network: Path) -> list[Path]:
    """List a network's file, and the companions of it that exist."""
    return [network, *(file for file in possible_files(network)[1:] if file.exists())]


def network_fingerprint(network: Path) -> str:
    """Hash a network's file and its companions (SHA-256).

    Raises OSError where one of them cannot be read.
    """
    # The companions hold the weights: a hash of the named file alone would pass an engine whose weights were changed.
    return fingerprint(*network_files(network))


def fingerprint(*files: Path) -> str:
    """Hash the content of files, one after the other (SHA-256).

    Raises OSError where one of them cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_version(folder: Path, network: str) -> dict[str, bytes]:
    """Read every file of a served version's folder that decides its answers, by name.

    Raises OSError where one of them cannot be read.
    """
    files = [*network_files(folder / network), folder / GOLDEN, folder / CODE]
    # The first versions had none.
    files += [folder / LABELS] if (folder / LABELS).exists() else []
    return {file.name: file.read_bytes() for file in files}


def version_fingerprint(contents: Mapping[str, bytes]) -> str:
    """Hash what `read_version` returns (SHA-256)."""
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        # With names and lengths: two files could else exchange their bytes.
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def hold(folder: Path) -> int:
    """Mark a version's folder as served until the descriptor that is returned is closed, or its process ends.

    Raises OSError where it cannot be opened.
    """
    descriptor = os.open(folder / CODE, os.O_RDONLY | os.O_CLOEXEC)
    # A file system without locks has no builds beside the server either: they lock their folder.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def is_held(folder: Path) -> bool:
    """Return whether a server has marked a version's folder, by this path or by a hard link to its file."""
    try:
        descriptor = os.open(folder / CODE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Without locks nothing is marked. In doubt, as on NFS, which locks only what is open for writing, it is held: a
        # version that is kept costs a place, one that is removed a server's files.
        return error.errno not in WITHOUT_LOCKS
    finally:
        os.close(descriptor)
    return False
