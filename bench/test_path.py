"""Time the stages of the path from an image file to a mask: preprocessing, the network in each engine, the server."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import Subject
from data_pipeline import Preprocessor
from deploy.client import Client
from deploy.client.transport import Protocol
from deploy.engines import Runner, engine_runner, pytorch_runner
from deploy.report import read_report
from deploy.server import Server

ROUNDS = 40


@pytest.fixture(scope="session")
def preprocessor(subject: Subject) -> Preprocessor:
    contract = subject.contract
    return Preprocessor(contract.preprocessing, threads=subject.threads)


@pytest.fixture(scope="session")
def image(subject: Subject, preprocessor: Preprocessor) -> NDArray[np.float32]:
    return preprocessor(subject.image)[None]


def runner_of(subject: Subject, engine: str) -> Runner:
    """Open the engine's runner, for PyTorch that of the trained network itself."""
    if engine == "pytorch":
        return pytorch_runner(subject.checkpoint.build())
    file = {"onnx": "model.onnx", "openvino": "openvino.fp32.xml"}[engine]
    runner = engine_runner(engine, "fp32", subject.output / file, subject.threads)
    assert runner is not None
    return runner


def note(benchmark: BenchmarkFixture, subject: Subject, stage: str) -> None:
    """Keep what the table needs in addition to the times."""
    benchmark.extra_info.update(stage=stage, checkpoint=subject.name, threads=subject.threads, size=len(subject.image))


def test_preprocess(benchmark: BenchmarkFixture, subject: Subject, preprocessor: Preprocessor) -> None:
    note(benchmark, subject, "decode, resize, normalise (DALI)")
    benchmark.pedantic(preprocessor, args=(subject.image,), rounds=ROUNDS, warmup_rounds=3)


@pytest.mark.parametrize("engine", ["pytorch", "onnx", "openvino"])
def test_network(benchmark: BenchmarkFixture, subject: Subject, image: NDArray[np.float32], engine: str) -> None:
    runner = runner_of(subject, engine)
    # A wrong engine's time means nothing, so the mask is compared first. Rounding may move a border's pixel.
    assert np.mean(runner(image).mask != runner_of(subject, "pytorch")(image).mask) < 0.001
    names = {"pytorch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
    note(benchmark, subject, f"network, {names[engine]} fp32")
    benchmark.pedantic(runner, args=(image,), rounds=ROUNDS, warmup_rounds=3)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_served(benchmark: BenchmarkFixture, subject: Subject, server: Server, protocol: Protocol) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url
    report, name = read_report(subject.output), {"grpc": "gRPC", "http": "HTTP"}[protocol]
    assert report is not None
    note(benchmark, subject, f"served over {name} ({report.served.name}), image file in, mask out")
    with Client(url, protocol) as client:
        benchmark.pedantic(client.segment, args=(subject.image,), rounds=ROUNDS, warmup_rounds=3)
