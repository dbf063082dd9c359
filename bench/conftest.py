"""One build and one server for all benchmarks; `--checkpoint` chooses the network."""

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
from deploy.report.records import machine
from deploy.server import Server
from deploy.server.options import FREE_PORTS
from model.checkpoint import Checkpoint, load_checkpoint

OUTPUT = Path("build/bench")
THREADS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--checkpoint", default=str(DEFAULT_CHECKPOINT), help="file or random:PRESET")
    parser.addoption("--threads", type=int, default=THREADS, help="of every engine (default 2)")
    parser.addoption("--precision", default="auto", help="of our engines in test_engines.py (default auto: all)")


def pytest_benchmark_update_machine_info(machine_info: dict[str, object]) -> None:
    machine_info["resformer"] = machine()


@dataclass(frozen=True)
class Subject:
    """What is measured: the network, its engines in `output`, and one image file of the kind it was trained on."""

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
    assert build_engine.main([*arguments, "--threads", str(threads)]) == 0
    checkpoint = load_checkpoint(name)
    source = "synthetic:skin" if checkpoint.info.data.startswith("random:") else checkpoint.info.data
    image = open_source(source, "test", samples=4).records[0].image.read_bytes()
    return Subject(Path(name).name, checkpoint, contract_of(checkpoint.info, 8), OUTPUT, threads, image)


@pytest.fixture(scope="session")
def server(subject: Subject) -> Iterator[Server]:
    with Server(subject.output / DIRECTORY, FREE_PORTS) as running:
        yield running
