"""Find the server that nvidia-pytriton carries, and prepare the environment that its Python backend needs."""

import os
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from deploy.errors import ServerError

# Read by gRPC when it is imported.
GRPC_VARIABLES = ("GRPC_EXPERIMENTS", "GRPC_VERBOSITY")
_STUB = "triton_python_backend_stub"
_LOADER_FAILED = 127  # the exit code of a program whose shared libraries are missing


def server_root() -> Path:
    """Return the folder that holds `bin/tritonserver`.

    Raises ServerError where nvidia-pytriton is not installed.
    """
    # Located without an import: importing pytriton costs seconds and starts threads.
    spec = find_spec("pytriton")
    roots = [Path(place) / "tritonserver" for place in (spec.submodule_search_locations or [])] if spec else []
    for root in roots:
        if (root / "bin" / "tritonserver").exists():
            return root
    raise ServerError("tritonserver is not installed: run pip install 'resformer-deploy[toolkit]' (nvidia-pytriton)")


def lay_out_backends(folder: Path) -> None:
    """Fill `folder` as the server's backend directory: the Python backend with the stub of this Python's version.

    Raises ServerError where pytriton has no such stub, or where the stub cannot run.
    """
    root, version = server_root(), f"{sys.version_info.major}.{sys.version_info.minor}"
    # The stub is the program of a worker, linked against one version of Python.
    stub = root / "python_backend_stubs" / version / _STUB
    if not stub.exists():
        raise ServerError(f"nvidia-pytriton has no Python backend for Python {version}; use 3.10, 3.11 or 3.12")
    backend = folder / "python"
    backend.mkdir(parents=True)
    shipped = root / "backends" / "python"
    for file in (shipped / "libtriton_python.so", shipped / "triton_python_backend_utils.py", stub):
        (backend / file.name).symlink_to(file)
    _check_stub(stub, version)


def environment() -> dict[str, str]:
    """Return this process's environment, changed so that the workers run this very Python."""
    # A worker runs the first `python3` on PATH and links against that Python's shared library.
    libraries = [str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    # What gRPC is told here (see deploy/serve.py) is nothing to tritonserver's, which is another version.
    mine = {name: value for name, value in os.environ.items() if name not in GRPC_VARIABLES}
    return {
        **mine,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }


def _check_stub(stub: Path, version: str) -> None:
    # Without its library the stub dies in the loader, and the server waits for it in vain.
    if subprocess.run([stub], env=environment(), capture_output=True, check=False).returncode == _LOADER_FAILED:
        raise ServerError(f"the server's workers need libpython{version}.so: on Debian, apt install libpython{version}")
