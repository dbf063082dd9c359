"""Fetch the source archives of other projects by package name, for the images that they are tested with."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

IMAGES = (".apng", ".avif", ".bmp", ".gif", ".heic", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".png",
          ".psd", ".tif", ".tiff", ".webp")  # fmt: skip
MINUTE = 60
FETCH = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Accept": sys.argv[2]})
sys.stdout.buffer.write(urllib.request.urlopen(request, timeout=60).read())
"""


class ArchiveError(Exception):
    """Report that an archive cannot be fetched here."""


def images_of(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each image file in an archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            content = files.extractfile(member)
            if content is not None and PurePosixPath(member.name).suffix.lower() in IMAGES:
                yield member.name, content.read()


def python_archive(package: str) -> bytes:
    """Fetch the newest source distribution of a Python package from the index that pip takes by default."""
    from pip._internal.models.index import PyPI

    page = json.loads(_fetch(f"{PyPI.simple_url}/{package}/", "application/vnd.pypi.simple.v1+json"))
    sources = [file["url"] for file in page["files"] if file["filename"].endswith(".tar.gz")]
    return _fetch(sources[-1])


def debian_archive(package: str, folder: Path) -> bytes:
    """Fetch the original archive of a Debian package, with lists of sources in a folder of its own."""
    lists = folder / "lists" / "partial"
    lists.mkdir(parents=True)
    binary = Path("/etc/apt/sources.list.d/debian.sources")
    if shutil.which("apt-get") is None or not binary.is_file():
        raise ArchiveError("not a machine with Debian's packages")
    (folder / "debian.sources").write_text(
        binary.read_text(encoding="utf-8").replace("Types: deb\n", "Types: deb-src\n")
    )
    options = {
        "Dir::State::lists": lists.parent,
        "Dir::Cache": folder,
        "Dir::Etc::sourcelist": folder / "debian.sources",
        "Dir::Etc::sourceparts": "-",
    }
    command = ["apt-get", "-qq", *(f"--option={name}={value}" for name, value in options.items())]
    _run([*command, "update"])
    # Each line: 'address' name size hash
    listed = _run([*command, "source", "--print-uris", package]).splitlines()
    (address,) = (line.split("'")[1] for line in listed if ".orig.tar" in line and ".asc" not in line)
    return _fetch(address)


def _run(command: list[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=5 * MINUTE)
    if finished.returncode:
        raise ArchiveError(finished.stderr.strip())
    return finished.stdout


def _fetch(address: str, accept: str = "*/*") -> bytes:
    # In a process that does without PYTHONPATH: the tests fail where one of theirs asks for another host.
    command = [sys.executable, "-I", "-c", FETCH, address, accept]
    finished = subprocess.run(command, capture_output=True, timeout=5 * MINUTE)
    if finished.returncode:
        raise ArchiveError(f"{address}: {finished.stderr.decode().splitlines()[-1]}")
    return finished.stdout
