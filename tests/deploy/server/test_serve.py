"""Test `python -m deploy.serve`: its start, its failures in one line each, and its end."""

import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format

from deploy.access import read_token
from deploy.client import Client, ServerUnavailable
from deploy.content import FILES_HASH, is_held
from deploy.contract import PIPELINE_MODEL, Contract
from deploy.files import CONFIGURATION, read_config, version_of, write_config
from deploy.network.golden import Golden
from deploy.repository import write_repository
from deploy.serve import MOST_MEGABYTES, main
from deploy.server import Server, ServerError
from deploy.server.log import Log
from deploy.server.options import FREE_PORTS
from tests.helpers.serving import start


def test_the_command_imports_grpc_after_it_has_chosen_its_engine() -> None:
    """Hold the choice to come first, since gRPC reads it once."""
    script = "import sys, deploy.serve; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_sigterm_answers_what_it_accepted_and_leaves_nothing(
    repository: Path, make_image: Callable[..., bytes]
) -> None:
    server = start(repository)
    answered, refused = [], []

    def call() -> None:
        with Client(server.grpc) as client:
            try:
                while True:
                    answered.append(client.segment(make_image()).mask.shape)
            except ServerUnavailable as error:
                refused.append(str(error))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    # Stopped under load, with requests in flight.
    while len(answered) < 20:
        callers[0].join(0.05)
    assert server.files()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    for caller in callers:
        caller.join(10)
    # Each caller ends by being turned away, never by an answer lost on its way: that would be another error.
    assert len(refused) == len(callers)
    assert server.files() == []


@pytest.mark.parametrize("side", ["http", "grpc", "metrics"])
def test_taken_port_is_the_servers_own_reason(repository: Path, side: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = dict.fromkeys(("http", "grpc", "metrics"), "0") | {side: str(port)}
        # The other two pick free ports, so that only the taken one can fail.
        flags = [argument for name, value in ports.items() for argument in (f"--{name}-port", value)]
        assert main(["--repository", str(repository), *flags]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(port) in line


def test_a_server_that_did_not_start_holds_no_version(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model_repository"
    shutil.copytree(repository, copy)
    folder = copy / PIPELINE_MODEL / version_of(read_config(copy / PIPELINE_MODEL))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Server(copy, replace(FREE_PORTS, http_port=taken.getsockname()[1]))
        assert is_held(folder)
        with pytest.raises(ServerError, match="the proxy cannot start"), server:
            pass
    assert not is_held(folder)


def older(root: Path) -> None:
    """Take away what the builds of earlier versions did not write."""
    config = read_config(root / "resformer")
    del config.parameters[FILES_HASH]
    write_config(root / "resformer", config)


def open_to_all(root: Path) -> None:
    """Leave a file that the server reads beside the models, for every user to change."""
    (root / "tuning.json").write_text("{}")
    (root / "tuning.json").chmod(0o666)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda root: shutil.rmtree(root), "no model repository"),
        (lambda root: (root / "resformer" / CONFIGURATION).write_text("name: 3"), "cannot be read"),
        (lambda root: shutil.rmtree(root / "resformer"), "holds no model resformer"),
        (lambda root: edit(root, "backend", "tensorrt"), "tensorrt backend"),
        (lambda root: (root / "resformer" / "1" / "model.onnx").write_bytes(b"no network"), "not the network that was"),
        (lambda root: (root / "resformer" / "1" / "model.onnx").unlink(), "model.onnx cannot be read: No such file"),
        (lambda root: (root / "resformer" / "1" / "model.bin").write_bytes(b"added"), "not the network that was"),
        (lambda root: (root / "resformer" / "1" / "model.py").unlink(), "no model.py"),
        (lambda root: (root / "resformer" / "1" / "model.py").chmod(0o666), "can be changed by every user"),
        (lambda root: shutil.copytree(root / "resformer", root / "resformer.bak"), "is a copy of the model resformer"),
        (lambda root: root.parent.chmod(0o777), "can put another folder in the place of .*/model_repository"),
        (open_to_all, "tuning.json can be changed by every user"),
        (older, "is of an older version of this project: build it again"),
    ],
    ids=[
        *(
            "missing",
            "no configuration",
            "no pipeline",
            "for a GPU",
            "edited",
            "no network",
            "other weights",
            "no code",
            "open to all",
            "a copy beside it",
            "open above it",
            "open beside the models",
        ),
        "of an older version",
    ],
)
def test_broken_repository(repository: Path, tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    # The repository is shared by all tests, so a copy is damaged.
    copy = tmp_path / "model_repository"
    shutil.copytree(repository, copy)
    damage(copy)
    with pytest.raises(ServerError, match=says) as error, Server(copy, FREE_PORTS):
        pass
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_place_for_temporary_files_that_a_shell_would_read_is_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a place").mkdir()
    monkeypatch.setattr("deploy.server.server.gettempdir", lambda: str(tmp_path / "a place"))
    monkeypatch.setattr("deploy.server.server.LONGEST_SOCKET", 1000)
    with pytest.raises(ServerError, match="set TMPDIR to such a folder"), Server(repository, FREE_PORTS):
        pass
    assert not list((tmp_path / "a place").iterdir())


@pytest.mark.parametrize("name", ["with a space, a comma=", "it's", "$(touch PWNED)"])
def test_a_repository_may_be_called_anything(
    repository: Path, tmp_path: Path, name: str, make_image: Callable[..., bytes]
) -> None:
    bytecode = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repository, tmp_path / name / "model_repository", ignore=bytecode)
    with Server(tmp_path / name / "model_repository", FREE_PORTS) as server, Client(server.grpc_url) as client:
        assert client.segment(make_image()).mask.shape == (51, 51)
    assert not list(tmp_path.rglob("PWNED")) and not Path("PWNED").exists()
    assert not list((tmp_path / name).rglob("__pycache__"))


def test_network_that_does_not_load(contract: Contract, golden: Golden, tmp_path: Path) -> None:
    # Its fingerprint is right, so that only the worker can find out.
    (tmp_path / "model.onnx").write_bytes(b"no network")
    repository = write_repository(tmp_path, contract, tmp_path / "model.onnx", golden)
    with pytest.raises(ServerError, match="resformer") as error, Server(repository, FREE_PORTS):
        pass
    assert "\n" not in str(error.value)


def edit(root: Path, field: str, value: str) -> None:
    """Change one field of a model's configuration."""
    config = read_config(root / "resformer")
    setattr(config, field, value)
    (root / "resformer" / CONFIGURATION).write_text(text_format.MessageToString(config))


def test_without_pytriton(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.server.process.installation.find_spec", lambda name: None)
    # It is installed here, so only the replacement can make the server miss it.
    assert importlib.util.find_spec("pytriton") is not None
    with pytest.raises(ServerError, match="pip install"), Server(repository, FREE_PORTS):
        pass


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"two\nlines", "für alle".encode(), b"\xff\0"])
def test_a_file_without_a_token_is_an_error(
    repository: Path, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_bytes(content)
    assert main(["--repository", str(repository), "--token-file", str(tmp_path / "token")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("must hold one token of printable ASCII characters without spaces, 4,096 at most")


def test_a_file_without_an_end_is_no_token() -> None:
    with pytest.raises(ValueError, match="must hold one token"):
        read_token(Path("/dev/zero"))


@pytest.mark.parametrize(
    "arguments", [("--http-port", "70000"), ("--max-request-mb", "2047"), ("--max-request-mb", "0.5")], ids=" ".join
)
def test_what_is_out_of_range_is_misuse(arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert f"error: argument {arguments[0]}: " in capsys.readouterr().err


def test_the_largest_limit_on_requests_can_be_served(repository: Path, make_image: Callable[..., bytes]) -> None:
    options = replace(FREE_PORTS, max_request_bytes=MOST_MEGABYTES * 2**20)
    with Server(repository, options) as server, Client(server.grpc_url) as client:
        assert client.segment(make_image()).mask.shape == (51, 51)


def test_every_line_of_the_log_has_a_message(tmp_path: Path) -> None:
    """Log the title of a table of settings, which the server writes as an empty message, and a line of words."""
    with (tmp_path / "log").open("wb") as file:
        log = Log(file.fileno())
        for quoted in ('"', "", '"Collecting CPU metrics"'):
            log.server_line(f"2026-11-25T23:31:58Z I 4711 server.cc:604] {quoted}")
        log.close()
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["message"] == "Collecting CPU metrics"
