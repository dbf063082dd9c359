"""Test what a worker process loads: each one is started with every reload, and holds all that it imports in memory."""

import subprocess
import sys
from pathlib import Path

import pytest

# The server's Python backend brings this module along. Here only its name is needed.
IMPORT = """
import sys, types
from pathlib import Path
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
import deploy.server.worker
deploy.server.worker.Network(Path(sys.argv[1]), "openvino f32", 1)
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def loaded(network: Path) -> set[str]:
    """Return the modules that a worker has loaded once it has opened a network in OpenVINO."""
    # In a process of its own: this one has loaded the server and the build.
    run = subprocess.run([sys.executable, "-c", IMPORT, str(network)], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_worker_loads_nothing_of_the_proxy(loaded: set[str]) -> None:
    assert loaded.isdisjoint({"aiohttp", "grpc", "google.protobuf", "deploy.server.server", "deploy.server.proxy"})


def test_worker_loads_nothing_of_the_build(loaded: set[str]) -> None:
    ours = {f"deploy.{name}" for name in ("repository", "building", "engines", "report", "export", "verify", "client")}
    assert loaded.isdisjoint({"torch", "onnx", "onnxruntime", "nncf", "model", "kernels", "rich", *ours})


def test_worker_loads_what_it_serves_with(loaded: set[str]) -> None:
    """Check that the module list is real, or the other tests would pass on anything."""
    assert {"openvino", "nvidia.dali", "data_pipeline.serving", "deploy.contract"} <= loaded
