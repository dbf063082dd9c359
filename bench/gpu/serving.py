"""Serve the GPU repository with Triton Inference Server, local or in a container, and put it under load."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench import OUTPUT
from bench.gpu.engines import build
from bench.gpu.machine import SERVER_IMAGE
from bench.gpu.session import Row, Session
from bench.gpu.timing import Timing, current_gpu
from bench.load import closed_loop
from bench.photographs import photograph_folder
from data_pipeline import Preprocessor
from deploy.building import DEFAULT_CHECKPOINT
from deploy.client import Client
from deploy.files import GPU_DIRECTORY
from deploy.server.options import free_ports
from model.checkpoint import load_checkpoint
from model.network import DecodedNetwork

TABLE = "serving"
CALLERS = (1, 8, 32)
REQUESTS = 200  # of each number of callers
FEW = 0.01  # share of a mask's pixels that fp16 and the GPU's decoder may move
START_SECONDS = 120.0
CONTAINER = "resformer-bench-gpu"


def serve(session: Session) -> None:
    """Build the repository for the shipped network, serve it, and measure it over gRPC."""
    output = OUTPUT / "gpu" / "repository"
    target = ["--target", "tensorrt", "--precision", "fp16", "--repository", "gpu"]
    build([*target, "--max-batch", str(max(CALLERS)), "--output", str(output)], output)
    (port,) = free_ports("127.0.0.1", 1)
    with running(server_command(output / GPU_DIRECTORY, port, current_gpu())):
        load(session, f"127.0.0.1:{port}")


def server_command(repository: Path, port: int, gpu: str) -> list[str]:
    """Return the command of the local server, or that of a container where there is none.

    It sees one GPU alone: on every GPU that it sees it would start instances of a plan that was built for one.
    """
    options = ["--exit-on-error=true", "--strict-readiness=true", "--allow-http=false", "--allow-metrics=false"]
    if shutil.which("tritonserver"):
        own = ["--grpc-address=127.0.0.1", f"--grpc-port={port}"]
        return [
            "env",
            f"CUDA_VISIBLE_DEVICES={gpu}",
            "tritonserver",
            f"--model-repository={repository}",
            *options,
            *own,
        ]
    docker = ["docker", "run", "--rm", "--gpus", f"device={gpu}", "--shm-size", "1g", "--name", CONTAINER]
    mounts = ["-p", f"127.0.0.1:{port}:8001", "-v", f"{repository.resolve()}:/models:ro", SERVER_IMAGE]
    return [*docker, *mounts, "tritonserver", "--model-repository=/models", *options]


@contextmanager
def running(command: Sequence[str]) -> Iterator[None]:
    """Run a server for the time of the block."""
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        # A container does not end with the command that started it.
        if command[0] == "docker":
            subprocess.run(["docker", "kill", CONTAINER], check=False)
        process.terminate()
        process.wait()


def load(session: Session, url: str, requests: int = REQUESTS, callers: Sequence[int] = CALLERS) -> None:
    """Compare a served mask with PyTorch's, then measure the latency of requests."""
    image = (photograph_folder("1024x768") / "0.jpg").read_bytes()
    with Client(url, retry_for=START_SECONDS) as client:
        served = client.segment(image).mask
        differs = float((served != expected_mask(image)).mean())
        for count in callers:
            case = f"{DEFAULT_CHECKPOINT.stem}, 1024x768 JPEG in, mask out, {count} callers"
            row = Row(table=TABLE, case=case, contender="gRPC")
            if differs > FEW:
                session.write(row.without_time("wrong", f"{differs:.2%} of the mask's pixels are not PyTorch's"))
                continue
            found = closed_loop(lambda: client.segment(image), count, requests)
            timing = Timing(microseconds=sorted(1e6 * found.latencies))
            figures = {"images/s": found.rate, "mask pixels that differ": differs}
            session.write(replace(row, figures=figures).with_time(timing, session.clocks()))


def expected_mask(image: bytes) -> NDArray[np.uint8]:
    """Compute the mask of one image file with the trained network in PyTorch."""
    checkpoint = load_checkpoint(DEFAULT_CHECKPOINT)
    pixels = torch.from_numpy(Preprocessor(checkpoint.info.preprocessing)(image)[None])
    with torch.inference_mode():
        decoded = DecodedNetwork(checkpoint.build()).eval()(pixels)
    mask: NDArray[np.uint8] = decoded.mask[0].numpy()
    return mask
