"""Send the server many requests over both protocols, and kill a client in the middle of its work.

`-m slow` runs the long form.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.client import Client
from deploy.client.__main__ import main
from deploy.client.transport import Protocol
from deploy.server import Server
from tests.helpers.memory import resident_bytes

MakeImage = Callable[..., bytes]


@pytest.mark.parametrize("requests", [600, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_answer_is_lost_or_anothers(
    server: Server, make_image: MakeImage, protocol: Protocol, requests: int
) -> None:
    """Send different images from four callers at once, and expect each one's known mask every time."""
    url = server.grpc_url if protocol == "grpc" else server.http_url
    images = [make_image(seed=seed) for seed in range(4)]
    with Client(server.grpc_url) as client:
        known = [client.segment(image).mask.tobytes() for image in images]
    # Different masks, or a mixed-up answer would go unnoticed.
    assert len(set(known)) == len(images)

    def right(number: int, count: int) -> int:
        with Client(url, protocol) as client:
            return sum(client.segment(images[number]).mask.tobytes() == known[number] for _ in range(count))

    def ask_all(count: int) -> None:
        with ThreadPoolExecutor(len(images)) as pool:
            shares = [count // len(images)] * len(images)
            assert list(pool.map(right, range(len(images)), shares)) == shares

    # The first requests fill caches and pools: only growth after them is a leak.
    ask_all(min(requests, 1000))
    before = resident_bytes(server)
    ask_all(requests)
    assert resident_bytes(server) < 1.05 * before


def test_a_killed_client_harms_nobody_and_is_resumed(server: Server, make_image: MakeImage, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03}.png").write_bytes(make_image((120, 90), seed=number))
    arguments = [str(folder), "--url", server.grpc_url, "--output", str(output)]
    client = subprocess.Popen([sys.executable, "-m", "deploy.client", *arguments], stderr=subprocess.DEVNULL)
    while len(list(output.glob("*.png"))) < 20:
        time.sleep(0.01)
    # SIGKILL leaves it no chance to clean up or to write its results.
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert len(list(output.glob("*.png"))) < 200, "it was to be killed in the middle"
    assert main([*arguments, "--resume"]) == 0
    answered = json.loads((output / "result.json").read_text())["images"]
    assert sorted(Path(image["file"]).name for image in answered) == sorted(file.name for file in folder.iterdir())
    # The kill may have come while an overlay was being written.
    assert all((output / image["overlay"]).stat().st_size for image in answered)
