"""Run the commands with an empty home folder, and show that none asks for another host or leaves an identity."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import LOG
from tests.helpers.imports import ROOT

# Lists of fonts, which matplotlib keeps for itself.
HARMLESS = (".cache/matplotlib",)
NO_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
AS_TELEMETRY_DOES = """
import subprocess, sys
from pathlib import Path
identity = Path.home() / "intel" / "openvino_ga_cid"
identity.parent.mkdir()
identity.write_text("1")
ask = "import socket; socket.create_connection(('telemetry.example', 443))"
subprocess.run([sys.executable, "-c", ask], stderr=subprocess.DEVNULL)
"""
# What `--precision int8` does, without the calibration images and the search for layers to leave out.
QUANTISE = """
import numpy, onnx
from deploy.precision.quantize import quantize
images = numpy.random.default_rng(0).standard_normal((16, 3, 64, 64), numpy.float32)
quantize(onnx.load("built/model.onnx"), "int8", images, lambda model: 0.0, lambda phase, share: None)
"""
# By these the libraries know a machine of tests, where they are quieter than with a user; a proxy hides whom they ask.
QUIETENS = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY", "http_proxy", "https_proxy", "all_proxy")


class Newcomer:
    """Run Python as a user whose home folder was empty."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder / "home", folder
        self.home.mkdir()
        # Without what the tests' own imports have turned off: each command has to do it by itself.
        quietens = {*QUIETENS, *(name.upper() for name in QUIETENS)}
        inherited = {name: value for name, value in os.environ.items() if name not in quietens}
        # The folder is where the tool writes, so the packages must be found from elsewhere.
        paths = os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT)])
        self.environment = {**inherited, "HOME": str(self.home), "PYTHONPATH": paths}
        self.environment.pop("PYTEST_CURRENT_TEST", None)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start Python with these arguments."""
        command = [sys.executable, *arguments]
        return subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> None:
        """Run Python with these arguments to its good end."""
        with self.start(*arguments) as process:
            process.communicate()
        assert process.returncode == 0

    def left_at_home(self) -> Sequence[str]:
        """List the files that were left in the home folder, without the harmless ones."""
        files = [str(file.relative_to(self.home)) for file in self.home.rglob("*") if file.is_file()]
        return sorted(file for file in files if not file.startswith(HARMLESS))


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    """Give a new user."""
    return Newcomer(tmp_path)


def test_a_process_that_asks_or_leaves_a_file_is_noticed(newcomer: Newcomer) -> None:
    """Check that the traps catch something, or the other tests would pass on anything.

    As OpenVINO does it: in a process of its own, with the error caught.
    """
    newcomer.run("-c", AS_TELEMETRY_DOES)
    asked = LOG.read_text()
    LOG.write_text("")  # for the check that follows every test
    assert "telemetry.example" in asked
    assert newcomer.left_at_home() == ["intel/openvino_ga_cid"]


def test_training_and_evaluation_keep_to_themselves(newcomer: Newcomer, small_checkpoint: Path) -> None:
    data = ["--data", "synthetic:skin", "--samples", "4"]
    newcomer.run("-m", "model.train", *data, "--preset", "tiny", "--epochs", "1", "--output", "trained")
    newcomer.run("-m", "model.evaluate", *data, "--checkpoint", str(small_checkpoint), "--output", "scores")
    assert newcomer.left_at_home() == []


def test_build_server_and_client_keep_to_themselves(newcomer: Newcomer, small_checkpoint: Path) -> None:
    """Build, quantise with NNCF, which reports as well, serve the result, and query it once."""
    build = ["-m", "deploy.build_engine", "--checkpoint", str(small_checkpoint), "--output", "built"]
    newcomer.run(*build, "--target", "openvino", "--samples", "5")
    newcomer.run("-c", QUANTISE)
    server = newcomer.start(*["-m", "deploy.serve", "--repository", "built/model_repository"], *NO_PORTS)
    try:
        assert server.stdout is not None
        # Server log lines come first.
        line = next(text for text in server.stdout if text.startswith("serving on"))
        address = line.split(",")[0].removeprefix("serving on gRPC ")
        image = next((newcomer.folder / "build" / "data").rglob("*.jpg"))
        newcomer.run("-m", "deploy.client", "--url", address, "--output", "answers", str(image))
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate()
    assert server.returncode == 0
    assert newcomer.left_at_home() == []
