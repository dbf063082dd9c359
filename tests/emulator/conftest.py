"""Provide a driver without a GPU, and start processes in which Triton compiles and launches over it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernels.conftest import ON_GPU

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("fake_libcuda.c")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the driver, under the two names that linkers look for."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if ON_GPU:
        pytest.skip("a GPU runs the kernels itself")
    if compiler is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("Triton's launcher needs a C compiler and Python.h")
    made = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{made.name}", "-o", str(made), str(SOURCE)]
    subprocess.run(command, check=True)
    made.with_suffix("").symlink_to(made.name)
    return made


@pytest.fixture(scope="session")
def start(library: Path) -> Start:
    """Return what starts a module of this folder with the driver, arguments, and a folder of packages that go first."""

    def run(module: str, *arguments: object, packages: Path | None = None) -> "subprocess.Popen[str]":
        # Kernels of this process are interpreted (tests/conftest.py), and several processes share the machine.
        clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        command = [sys.executable, "-m", f"tests.emulator.{module}", str(library), *map(str, arguments)]
        paths = [str(packages) if packages else "", os.environ.get("PYTHONPATH", "")]
        environment = {**clean, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    return run
