"""Provide one build and one server for all benchmarks.

`--checkpoint` chooses the network, `--threads` the threads of every engine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_pipeline import open_source
from deploy import build_engine
from deploy.building import DEFAULT_CHECKPOINT
from deploy.building.plan import contract_of
from deploy.contract import Contract
from deploy.files import DIRECTORY
from deploy.report import machine
from deploy.server import Server
from deploy.server.options import FREE_PORTS
from model.checkpoint import Checkpoint, load_checkpoint

OUTPUT = Path("build/bench")
THREADS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that all benchmarks share."""
    parser.addoption("--checkpoint", default=str(DEFAULT_CHECKPOINT), help="file or random:PRESET")
    parser.addoption("--threads", type=int, default=THREADS, help="threads of every engine (default 2)")
    parser.addoption(
        "--precision", default="auto", help="precision of our engines in test_engines.py (default auto: all)"
    )


def pytest_benchmark_update_machine_info(machine_info: dict[str, object]) -> None:
    """Add the processor, as our reports name it, to the machine that pytest-benchmark describes."""
    machine_info["resformer"] = machine()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Hold what is measured.

    name: the checkpoint's file name, or random:PRESET.
    checkpoint: the trained network.
    contract: what its engines take and return.
    output: folder of its engines.
    threads: of every engine.
    image: one image file of the kind that the network was trained on.
    """

    name: str
    checkpoint: Checkpoint
    contract: Contract
    output: Path
    threads: int
    image: bytes


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Subject:
    name, threads = request.config.getoption("--checkpoint"), request.config.getoption("--threads")
    arguments = ["--checkpoint", name, "--output", str(OUTPUT), "--target", "onnx", "--target", "openvino"]
    # The command, not `deploy.build`: what is measured is what a user gets, and a second run finds it current.
    assert build_engine.main([*arguments, "--threads", str(threads)]) == 0
    checkpoint = load_checkpoint(name)
    # Random weights were trained on nothing, but still need an image that the preprocessing accepts.
    source = "synthetic:skin" if checkpoint.info.data.startswith("random:") else checkpoint.info.data
    image = open_source(source, "test", samples=4).records[0].image.read_bytes()
    return Subject(
        name=Path(name).name,
        checkpoint=checkpoint,
        contract=contract_of(checkpoint.info, 8),
        output=OUTPUT,
        threads=threads,
        image=image,
    )


@pytest.fixture(scope="session")
def server(subject: Subject) -> Iterator[Server]:
    with Server(subject.output / DIRECTORY, FREE_PORTS) as running:
        yield running
