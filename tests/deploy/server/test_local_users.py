"""Test a server as another user of its machine, who must get at no image, no socket of the server's and no secret."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.client import Client
from deploy.client.transport import Access
from deploy.server.process.workers import children_of
from tests.helpers.serving import Served, served

NOBODY = 65534
TOKEN = "open-sesame"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

# Becomes another user (here: root's Python may be closed to others) and runs until a file appears. It opens every
# region the moment it exists, since what is open stays open. At the end it tries every socket and every process.
SPY = """
import glob, json, os, socket, sys, time
os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
end, opened, tried = sys.argv[1], set(), set()
while not os.path.exists(end):
    for region in glob.glob("/dev/shm/resformer*"):
        tried.add(region)
        try:
            os.close(os.open(region, os.O_RDONLY))
            opened.add(region)
        except OSError:
            pass
    time.sleep(0.0005)
connected = []
for line in open("/proc/net/unix"):
    path = line.split()[-1]
    if "resformer" in path:
        tried.add(path)
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(path)
            connected.append(path)
        except OSError:
            pass
words = {}
for name in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
    try:
        words[name] = open(name, errors="replace").read()
    except OSError:
        pass
folders = [name for name in glob.glob("/tmp/resformer-server-*") if os.access(name, os.R_OK | os.X_OK)]
print(json.dumps(dict(opened=sorted(opened), tried=sorted(tried), connected=connected, words=words, folders=folders)))
"""


@dataclass(frozen=True)
class Seen:
    """Hold what the other user saw, and the server that was looked at: its process, workers and files."""

    report: dict[str, Any]
    server: Served
    files: list[Path]


@pytest.fixture(scope="module")
def seen(
    repository: Path, make_image: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seen]:
    """Start a server under the eyes of another user, and send it an image."""
    folder = tmp_path_factory.mktemp("users")
    end, token = Path("/tmp", f"end-of-spying-{os.getpid()}"), folder / "token.txt"
    token.write_text(TOKEN)
    spy = subprocess.Popen([sys.executable, "-I", "-S", "-c", SPY, str(end), str(NOBODY)], stdout=subprocess.PIPE)
    try:
        with served(repository, "--token-file", str(token)) as server:
            with Client(server.grpc, access=Access(token=TOKEN)) as client:
                client.segment(make_image())
            time.sleep(0.1)
            end.touch()
            yield Seen(json.loads(spy.communicate(timeout=60)[0]), server, server.files())
    finally:
        spy.kill()
        end.unlink(missing_ok=True)


def test_no_image_can_be_read(seen: Seen) -> None:
    regions = [str(file) for file in seen.files if file.parent == Path("/dev/shm")]
    assert len(regions) == 2, "one for each model, or there is nothing to protect"
    assert set(regions) <= set(seen.report["tried"])
    # Other servers may run on this machine.
    assert set(seen.report["opened"]).isdisjoint(regions)
    assert [oct(Path(region).stat().st_mode & 0o777) for region in regions] == ["0o600", "0o600"]


def test_no_socket_can_be_reached(seen: Seen) -> None:
    folder = next(str(file) for file in seen.files if file.is_dir())
    assert len([path for path in seen.report["tried"] if path.startswith(folder)]) == 3
    assert not [path for path in seen.report["connected"] if path.startswith(folder)]
    assert folder not in seen.report["folders"]


def test_no_module_is_taken_from_where_the_server_was_started(seen: Seen) -> None:
    # Python looks into the current folder of a worker, and anybody may write into some, such as /tmp.
    processes = [seen.server.tritonserver, *children_of(seen.server.tritonserver)]
    folders = [Path(f"/proc/{pid}/cwd").readlink() for pid in processes]
    assert folders == [path for path in seen.files if path.is_dir()] * 3


def test_no_secret_can_be_read(seen: Seen) -> None:
    read = seen.report["words"]
    processes = [seen.server.process.pid, *seen.server.processes()]
    assert all(f"/proc/{pid}/cmdline" in read for pid in processes), "command lines are open to everybody"
    assert not [pid for pid in processes if f"/proc/{pid}/environ" in read]
    assert not [pid for pid in processes if TOKEN in read[f"/proc/{pid}/cmdline"]]


def test_only_the_ports_for_clients_are_open(seen: Seen) -> None:
    open_ports = {port for pid in (seen.server.process.pid, *seen.server.processes()) for port in listening(pid)}
    known = (seen.server.grpc, seen.server.http, seen.server.metrics)
    assert open_ports == {int(url.rpartition(":")[2]) for url in known}
    assert len(children_of(seen.server.tritonserver)) == 2


def listening(pid: int) -> set[int]:
    """Return the TCP ports that a process listens on."""
    inodes = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()}
    # sl local_address rem_address st ... inode, in hexadecimal but for the last.
    rows = [
        line.split()
        for version in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{version}").read_text(encoding="utf-8").splitlines()[1:]
    ]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}
