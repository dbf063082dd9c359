"""Find out what this machine has of what the steps need: `python -m bench.gpu.machine` prints it as JSON.

A process of its own asks, so that the one that plans the steps neither loads CUDA nor keeps memory on the GPU.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import ROOT
from data_pipeline.cores import cores

# The first import of torch from a slow disk takes longer than all the rest.
PROBE_SECONDS = 45
ASK_SECONDS = 10  # for an answer of the driver's or of docker's own program
SERVER_IMAGE = "nvcr.io/nvidia/tritonserver:26.06-py3"  # as deploy/README.md starts it
OLDEST = (8, 0)  # compute capability, see kernels.dispatch
# What steps need, and how a plan says it.
NEEDS = {
    "torch": "torch",
    "triton": "triton",
    "compiler": "a C compiler (gcc, clang or CC)",
    "gpu": "an NVIDIA GPU of compute capability {}.{} or later".format(*OLDEST),
    "pytest": "pytest",
    "toolkit": "pip install 'resformer-deploy[toolkit]'",
    "development": "pip install 'resformer-deploy[dev]'",
    "tensorrt": "tensorrt",
    "torch-tensorrt": "torch-tensorrt",
    "server": f"tritonserver with the backends dali and tensorrt, or docker with {SERVER_IMAGE}",
}
MODULES = {
    "torch": "torch",
    "triton": "triton",
    "pytest": "pytest",
    "tensorrt": "tensorrt",
    "torch-tensorrt": "torch_tensorrt",
}
EXTRAS = {
    "toolkit": (
        *("nvidia.dali", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "monai", "safetensors"),
        *("matplotlib", "rich", "PIL", "tritonclient"),
    ),
    "development": ("pytest", "pytest_benchmark", "hypothesis"),
}
LIBRARIES = (
    *("torch", "triton", "numpy", "pytest", "onnx", "onnxruntime", "openvino", "monai", "nvidia-dali-cuda130"),
    *("tensorrt", "torch-tensorrt"),
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Describe a machine.

    about: GPU, memory, driver, processor and system, for the reader.
    versions: of the libraries that are installed.
    lacks: needs that are not met, and what was found in their place.
    """

    about: dict[str, str]
    versions: dict[str, str]
    lacks: dict[str, str]

    @property
    def name(self) -> str:
        """Return the name of the GPU, or of what there is in its place."""
        return self.about.get("GPU", "no GPU")


def look() -> Machine:
    """Ask a process of its own, which may fail or hang where a driver does."""
    command = [sys.executable, "-m", "bench.gpu.machine"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROBE_SECONDS, cwd=ROOT)
        if told.returncode == 0:
            return Machine(**json.loads(told.stdout.splitlines()[-1]))
        reason = (told.stderr.strip().splitlines() or [f"it ended with {told.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"no answer within {PROBE_SECONDS} s"
    return Machine(about={}, versions={}, lacks=dict.fromkeys(NEEDS, f"the machine could not be asked: {reason}"))


def examine() -> Machine:
    """Describe the machine from within."""
    gpu, missing = _gpu()
    lacks = {need: "not installed" for need, module in MODULES.items() if not _is_installed(module)}
    for need, modules in EXTRAS.items():
        if absent := [module for module in modules if not _is_installed(module)]:
            lacks[need] = f"{', '.join(absent)} not installed"
    if missing:
        lacks["gpu"] = missing
    if not _has_compiler():
        lacks["compiler"] = "none was found"
    if not _has_server():
        lacks["server"] = "neither was found"
    return Machine(about={**gpu, **_host()}, versions=_versions(), lacks=lacks)


def _gpu() -> tuple[dict[str, str], str]:
    """Describe the GPU, and say what is wrong with it."""
    if not _is_installed("torch"):
        return {}, "torch is not installed, which would find it"
    import torch

    if not torch.cuda.is_available():
        return {}, "PyTorch finds none" + ("" if torch.version.cuda else ", and this build of it has no CUDA")
    properties: Any = torch.cuda.get_device_properties("cuda")
    capability = (properties.major, properties.minor)
    about = {
        "GPU": properties.name,
        "compute capability": "{}.{}".format(*capability),
        "multiprocessors": str(properties.multi_processor_count),
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "L2": f"{properties.L2_cache_size / 2**20:.0f} MiB",
        "CUDA": str(torch.version.cuda),
        "driver": _driver(),
    }
    return about, "" if capability >= OLDEST else "the GPU's is {}.{}".format(*capability)


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "unknown"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = _ask(query)
    return (told.stdout.strip().partition("\n")[0] if told else "") or "unknown"


def _ask(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """Run a program, or return None where it does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ASK_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _host() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    names = [
        line
        for line in (info.read_text(encoding="utf-8").splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": str(cores()),
        "system": platform.platform(),
        "Python": platform.python_version(),
    }


def _is_installed(module: str) -> bool:
    # The parent of a submodule is imported, and `nvidia` may not be there.
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _versions() -> dict[str, str]:
    found = {distribution.name: distribution.version for distribution in distributions()}
    return {name: found[name] for name in LIBRARIES if name in found}


def _has_compiler() -> bool:
    """Tell whether Triton finds what it compiles its launches with (`triton.runtime.build`)."""
    named = os.environ.get("CC")
    return any(shutil.which(name) for name in ((named,) if named else ("gcc", "clang")))


def _has_server() -> bool:
    """Tell whether a server with the GPU's backends is here, without asking any registry for it."""
    if shutil.which("tritonserver"):
        return True
    if not shutil.which("docker"):
        return False
    inspected = _ask(["docker", "image", "inspect", SERVER_IMAGE])
    return inspected is not None and inspected.returncode == 0


if __name__ == "__main__":
    print(json.dumps(asdict(examine())))
