"""Time the path from an image file to a mask: its stages in this process, and the server with every way into it.

What serving costs is the time of a request less that of the same work in process.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest
import tritonclient.grpc as grpc_api

from bench.conftest import Subject
from bench.contenders import EAGER, Contenders, report_of
from bench.shared_memory import SharedMemory, bare_grpc, request_for
from bench.turns import Turn
from data_pipeline import Preprocessor
from deploy.client import Client
from deploy.client.transport import Protocol
from deploy.server import Server
from deploy.verify.turns import Operation, timed

NETWORKS = ("ours-openvino-fp32", "ours-onnx-fp32", EAGER)
STAGES = {
    "preprocess": "decode, resize, normalise (DALI)",
    "network-pytorch-fp32": "network, PyTorch fp32",
    "network-ours-onnx-fp32": "network, ONNX Runtime fp32",
    "network-ours-openvino-fp32": "network, OpenVINO fp32",
    "in-process": "image file in, mask out, in process",
    "grpc": "served over gRPC",
    "grpc-shared-memory": "served over gRPC, image and mask in shared memory (closed to clients)",
    "grpc-without-proxy": "served over gRPC without the proxy (closed to clients)",
    "http": "served over HTTP",
}
Openers = dict[str, Callable[[], Operation]]


@pytest.fixture(scope="module")
def openers(request: pytest.FixtureRequest, subject: Subject, contenders: Contenders) -> Iterator[Openers]:
    """Return how to open each stage. What it needs is started then, the server too."""
    with ExitStack() as opened:

        def server() -> Server:
            started: Server = request.getfixturevalue("server")
            return started

        def preprocess() -> Operation:
            return timed(partial(Preprocessor(subject.contract.preprocessing, threads=subject.threads), subject.image))

        def in_process() -> Operation:
            return timed(request.getfixturevalue("in_process"))

        def client(protocol: Protocol) -> Operation:
            # A machine at its limit starves a worker of its heartbeat, and the server turns requests away for a moment.
            url = server().grpc_url if protocol == "grpc" else server().http_url
            return timed(partial(opened.enter_context(Client(url, protocol, retry_for=30)).segment, subject.image))

        def shared() -> Operation:
            return timed(opened.enter_context(SharedMemory(server(), subject)).infer)

        def bare() -> Operation:
            triton = opened.enter_context(bare_grpc(server()))
            return timed(lambda: triton.infer(**request_for(grpc_api, subject)))

        yield {
            "preprocess": preprocess,
            **{f"network-{name}": partial(contenders.inference, name, 1) for name in NETWORKS},
            "in-process": in_process,
            "grpc": partial(client, "grpc"),
            "grpc-shared-memory": shared,
            "grpc-without-proxy": bare,
            "http": partial(client, "http"),
        }


@pytest.mark.parametrize("contender", STAGES)
def test_path(turn: Turn, subject: Subject, openers: Openers, contender: str) -> None:
    turn.measure("path, one image", openers)
    stage = STAGES[contender]
    if contender.startswith(("in-process", "grpc", "http")):
        stage += f" ({report_of(subject.output).served.name})"
    turn.benchmark.extra_info.update(
        stage=stage, checkpoint=subject.name, threads=subject.threads, image_bytes=len(subject.image)
    )
