"""Test files, folders and interruptions that a run must outlive: one line each, and the rest goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.files import locked
from deploy.client import Client, ServerFault, ServerUnavailable
from deploy.client.__main__ import main
from deploy.client.image import Wanted, segment
from deploy.client.plan import find_files
from deploy.client.summary import RESULT_FILE, read_results
from deploy.contract import sample_image
from deploy.server import Server

MakeImage = Callable[..., bytes]


def test_pipes_loops_and_long_names_cost_one_line_each(
    server: Server, make_image: MakeImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    long = folder / f"{'x' * 246}.png"
    long.write_bytes(make_image())
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "up").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    bad = [folder / "loop.png", folder / "pipe.png", Path("y" * 300), Path("/dev/zero"), folder / "gone.png"]
    output = folder / "out"
    command = [str(folder), *map(str, bad), "--url", server.grpc_url, "--output", str(output)]
    assert main(command) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": ")[0] for line in errors] == list(map(str, bad))
    result = json.loads((output / RESULT_FILE).read_text())
    assert [image["file"] for image in result["images"]] == [str(long)]
    # The overlays of a run are no images of the next one, also where they lie among these.
    assert find_files([folder], output) == [long]


def test_two_runs_do_not_share_an_output(
    server: Server, make_image: MakeImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(make_image())
    output = tmp_path / "out"
    output.mkdir()
    with locked(output):
        assert main([str(tmp_path / "a.png"), "--url", server.grpc_url, "--output", str(output)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: another run writes into {output}")
    assert not list(output.iterdir())


def test_answers_of_another_model_are_not_resumed(server: Server, make_image: MakeImage, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_image())
    output = tmp_path / "out"
    arguments = [str(tmp_path / "a.png"), "--url", server.grpc_url, "--output", str(output), "--resume"]
    assert main(arguments) == 0
    first = json.loads((output / RESULT_FILE).read_text())
    labels = first["images"][0]["classes"]
    # Of other names, and of the same names from other weights.
    for change in ({"classes": {"another label": 0.5}}, {"sha256": "0" * 64, "classes": dict.fromkeys(labels, 0.5)}):
        changed = first["images"][0] | change
        (output / RESULT_FILE).write_text(json.dumps(first | {"images": [changed]}))
        assert main(arguments) == 0
        assert json.loads((output / RESULT_FILE).read_text())["images"][0]["classes"] == labels


@pytest.mark.parametrize(
    "change",
    [
        {"file": 1},
        {"stamp": {"bytes": 1}},
        {"name": "../outside"},
        {"overlay": None},
        {"overlay": "../../outside.png"},
        {"mask": "/etc/a.png"},
        {"raw_mask": 1},
        {"spacing": []},
        {"notes": [1]},
        {"components": {"lesion": {}}},
        {"width": "4"},
        {"height": 4.5},
        {"width": True},
        {"classes": [1]},
        {"classes": {"a": "b"}},
        {"areas": {"lesion": 3}},
        {"areas": {"lesion": {"pixels": 3}}},
        {"timings": {}},
        {"request_id": []},
        {"unknown": 1},
    ],
)
def test_damaged_results_are_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    written = {"wanted": Wanted().to_fields(), "volumes": []}
    record: dict[str, Any] = {
        "file": "a.png",
        "overlay": "a.overlay.png",
        "mask": "a.mask.png",
        "raw_mask": None,
        "spacing": None,
        "components": {},
        "cleaning": None,
        "dicom": [],
        "notes": [],
        "width": 4,
        "height": 4,
        "classes": {"a": 0.5},
        "areas": {"lesion": {"pixels": 4, "percent": 25.0}},
        "timings": {"request_ms": 1.0, "total_ms": 2.0},
        "request_id": "1",
    }
    (tmp_path / "a.overlay.png").touch()
    (tmp_path / "a.mask.png").touch()
    (tmp_path / RESULT_FILE).write_text(json.dumps(written | {"images": [record]}))
    assert set(read_results(tmp_path, Wanted())) == {"a.png"}
    (tmp_path / RESULT_FILE).write_text(json.dumps(written | {"images": [record | change]}))
    with pytest.raises(ValueError, match="is not a result of this command"):
        read_results(tmp_path, Wanted())


class Deadly(Client):
    """Stand for a client whose server goes down with one image, or with all."""

    def __init__(self, *deadly: bytes, everything: bool = False) -> None:
        self.deadly, self.everything = deadly, everything

    def segment(self, data: bytes, *, probabilities: bool = False, own_size: bool = False) -> Any:
        if self.everything or data in self.deadly:
            raise ServerUnavailable("gone")
        return data


def test_an_image_that_ends_the_server_is_named_and_the_rest_goes_on() -> None:
    with pytest.raises(ServerFault, match="goes down with this image, and answers for others"):
        segment(Deadly(b"bomb"), b"bomb")
    # A server that is gone for every image ends the run.
    with pytest.raises(ServerUnavailable):
        segment(Deadly(everything=True), b"bomb")
    assert segment(Deadly(b"bomb"), sample_image()) == sample_image()  # type: ignore[comparison-overlap]


def test_ctrl_c_ends_a_run_that_waits_for_a_server_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    # Takes the connection and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "deploy.client", str(tmp_path / "a.png"), "--url", url, "--protocol", "http"]
        run = subprocess.Popen([*command, "--output", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
        silent.accept()
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert errors.splitlines() == ["interrupted: the same command with --resume goes on from here"]
