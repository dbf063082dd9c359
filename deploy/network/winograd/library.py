"""Compile the operator against the OpenVINO that is installed, and load it."""

import ctypes
import re
import subprocess
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

import openvino
from openvino.utils.node_factory import NodeFactory

from data_pipeline.files import code_version

FOLDER = Path(__file__).parent
SOURCES = tuple(FOLDER / name for name in ("convolution.cpp", "kernel.hpp"))
COMMAND = f"python -m {__package__}"


class CompileError(Exception):
    """Say in one line why the operator cannot be compiled."""


def compile_operator() -> Path:
    """Compile the operator into this folder, and return its file.

    Raises CompileError.
    """
    package, file = Path(openvino.__file__).parent, _file()
    # What OpenVINO itself was compiled with. Its own CMake package would give the same, but CMake is not everywhere.
    targets = (package / "cmake" / "OpenVINOTargets.cmake").read_text(encoding="utf-8")
    definitions = re.findall(r'INTERFACE_COMPILE_DEFINITIONS "([^"]+)"', targets)
    libraries = [file for name in ("libopenvino", "libtbb") for file in (package / "libs").glob(f"{name}.so.*")]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        fresh = Path(folder) / file.name
        command = [
            *("g++", "-std=gnu++17", "-O3", "-fPIC", "-shared", f"-I{package / 'include'}"),
            *(f"-D{definition}" for definition in ";".join(definitions).split(";") if definition),
            *(str(SOURCES[0]), *map(str, libraries), f"-Wl,-rpath,{package / 'libs'}", "-o", str(fresh)),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise CompileError("g++ is not installed: `apt-get install g++`, or your system's like") from None
        except subprocess.CalledProcessError as error:
            first = next((line for line in error.stderr.splitlines() if "error" in line), error.stderr[:200])
            raise CompileError(f"g++ refuses {SOURCES[0].name}: {first}") from None
        # Whole or not at all: a server may look for it at any time.
        fresh.replace(file)
    return file


def reason_against() -> str:
    """Return why the operator cannot run here, or nothing where it can."""
    if not _file().is_file():
        return f"the operator is not compiled for this OpenVINO and code: run `{COMMAND}`"
    return "" if instructions() else "the compiled operator cannot be loaded, or the processor has no AVX2"


def instructions() -> str:
    """Name the instructions that the compiled operator uses here, or return nothing where it cannot run."""
    file = _file()
    return {16: "AVX-512", 8: "AVX2"}.get(_lanes(file), "") if file.is_file() else ""


@cache
def factory() -> NodeFactory:
    """Return what makes nodes of the operator."""
    nodes = NodeFactory("opset13")
    nodes.add_extension(_file())
    return nodes


def _file() -> Path:
    """Return the compiled file's path, which is another for every OpenVINO and every change of the code."""
    return FOLDER / f"operator-{version('openvino')}-{code_version(*map(str, SOURCES))}.so"


@cache
def _lanes(file: Path) -> int:
    """Return the number of floats that a compiled operator computes at once on this processor, or 0."""
    try:
        lanes: int = ctypes.CDLL(str(file)).winograd_lanes()
    except OSError:  # damaged, or in a folder that was copied from another kind of machine
        return 0
    return lanes
