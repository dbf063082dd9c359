"""Provide one build, one server and the groups' rounds for all benchmarks, and describe the machine in the JSON."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import OUTPUT, ROOT
from bench.contenders import Contenders, report_of
from bench.machine import commit, describe, differences
from bench.turns import Groups, Turn, turn_of
from data_pipeline import Preprocessor, open_source
from data_pipeline.cores import cores
from deploy import build_engine
from deploy.building import DEFAULT_CHECKPOINT
from deploy.building.plan import contract_of
from deploy.contract import Contract
from deploy.engines import engine_runner
from deploy.files import DIRECTORY
from deploy.server import Server
from deploy.server.options import FREE_PORTS
from deploy.verify.turns import Say
from model.checkpoint import Checkpoint, load_checkpoint

THREADS = 2
Uncaptured = Callable[[], AbstractContextManager[None]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that all benchmarks share."""
    parser.addoption("--checkpoint", default=str(DEFAULT_CHECKPOINT), help="file or random:PRESET (default skin-tiny)")
    parser.addoption("--threads", type=int, default=THREADS, help="threads of every engine (default 2)")
    parser.addoption("--precision", default="auto", help="precision of our engines (default auto: all)")


def pytest_configure(config: pytest.Config) -> None:
    """Say at the end why a benchmark was skipped."""
    config.option.reportchars += "s"


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add the processor, as our reports name it, with its instructions and the versions of what computes."""
    describe(machine_info)


def pytest_benchmark_generate_commit_info() -> dict[str, Any]:
    """Describe the commit of this project."""
    return commit()


def pytest_benchmark_compare_machine_info(machine_info: dict[str, Any], compared_benchmark: dict[str, Any]) -> None:
    """Say in a line what differs: pytest-benchmark's own warning prints both machines whole."""
    if found := differences(machine_info, compared_benchmark["machine_info"]):
        print(f"The saved run is of another machine or other versions: {', '.join(found)}", file=sys.stderr)


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
def uncaptured(pytestconfig: pytest.Config) -> Uncaptured:
    """Return the context in which what is printed goes to stderr at once, which `-s` is not needed for."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    reporter = pytestconfig.pluginmanager.getplugin("terminalreporter")

    @contextmanager
    def context() -> Iterator[None]:
        with capture.global_and_fixture_disabled(), redirect_stdout(sys.stderr):
            # The dots of the tests before may have no end of line yet.
            reporter.ensure_newline()
            yield

    return context


@pytest.fixture(scope="session")
def say(uncaptured: Uncaptured) -> Say:
    """Return what prints a line of progress."""

    def tell(text: str) -> None:
        with uncaptured():
            print(text, flush=True)

    return tell


@pytest.fixture(scope="session", autouse=True)
def in_the_project() -> Iterator[None]:
    """Work in the project's folder, where builds, generated images and `python -m bench.NAME` belong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest, say: Say, uncaptured: Uncaptured) -> Subject:
    """Build the engines of the checkpoint, or find them current."""
    name, threads, precision = (request.config.getoption(f"--{it}") for it in ("checkpoint", "threads", "precision"))
    output = OUTPUT / "engines"
    arguments = ["--checkpoint", name, "--output", str(output), "--target", "onnx", "--target", "openvino"]
    say(f"building the engines of {Path(name).name} in {output.relative_to(ROOT)}")
    with uncaptured():
        # The command, not `deploy.build`: what is measured is what a user gets, and a second run finds it current.
        code = build_engine.main([*arguments, "--threads", str(threads), "--precision", precision])
    if code == 128 + signal.SIGINT:  # Ctrl-C, which every command ends with this code
        raise KeyboardInterrupt
    if code:
        pytest.fail("the engines are needed, and their build failed: the lines above say why", pytrace=False)
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(name)
    # Random weights were trained on nothing, but still need an image that the preprocessing accepts.
    source = "synthetic:skin" if checkpoint.info.data.startswith("random:") else checkpoint.info.data
    return Subject(
        name=Path(name).name,
        checkpoint=checkpoint,
        contract=contract_of(checkpoint.info, 8),
        output=output,
        threads=threads,
        image=open_source(source, "test", samples=4).records[0].image.read_bytes(),
    )


@pytest.fixture(scope="session")
def contenders(request: pytest.FixtureRequest, subject: Subject) -> Contenders:
    return Contenders(request.config.getoption("--checkpoint"), subject.output, subject.threads)


@pytest.fixture(scope="session")
def server(subject: Subject) -> Iterator[Server]:
    with Server(subject.output / DIRECTORY, FREE_PORTS) as running:
        yield running


@pytest.fixture(scope="session")
def in_process(subject: Subject) -> Callable[[], object]:
    """Do the served work without a server: the same engine with every core."""
    served = report_of(subject.output).served
    runner = engine_runner(served.target, served.precision, subject.output / served.file, cores())
    assert runner is not None
    preprocess = Preprocessor(subject.contract.preprocessing)
    return lambda: runner(preprocess(subject.image)[None])


@pytest.fixture(scope="session")
def groups(say: Say) -> Groups:
    return Groups(say)


@pytest.fixture
def turn(request: pytest.FixtureRequest, benchmark: BenchmarkFixture, groups: Groups) -> Turn:
    return turn_of(request, benchmark, groups)
