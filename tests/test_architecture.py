"""The rules that keep the code base readable: who imports whom, how long files get, what they may be called."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("kernels", "model", "data_pipeline", "deploy")
ALLOWED = {
    "kernels": {"kernels"},
    "model": {"kernels", "model"},
    "data_pipeline": {"data_pipeline"},
    "deploy": {"kernels", "model", "data_pipeline", "deploy"},
}
# Training and evaluation are the commands of `model` that read data.
MODEL_COMMANDS = tuple(f"model/{name}" for name in ("train.py", "training/", "evaluate.py", "evaluation", "ablat"))
KERNEL_INSIDERS = ("deploy/plugins",)
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Full names of the modules that a file imports, at whatever depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module}
    return names


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_imports_follow_the_design(file: Path) -> None:
    name = relative(file)
    package = name.split("/")[0]
    allowed = ALLOWED[package] | ({"data_pipeline"} if name.startswith(MODEL_COMMANDS) else set())
    ours = {module.split(".")[0] for module in imported(file)} & {*PACKAGES, "bench", "tests"}
    assert ours <= allowed


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_only_the_plugin_module_reaches_into_kernels(file: Path) -> None:
    name = relative(file)
    if name.startswith("kernels/") or name.startswith(KERNEL_INSIDERS):
        return
    assert not {module for module in imported(file) if module.startswith("kernels.")}


@pytest.mark.parametrize("file", [f for f in FILES if relative(f).startswith("deploy/client/")], ids=relative)
def test_the_client_needs_neither_torch_nor_dali(file: Path) -> None:
    assert not {module.split(".")[0] for module in imported(file)} & {"torch", "nvidia", "model", "data_pipeline"}


def test_files_are_short_and_do_not_hide_a_library() -> None:
    everything = [*FILES, *(file for folder in ("tests", "bench") for file in (ROOT / folder).rglob("*.py"))]
    assert not [relative(file) for file in everything if len(file.read_text().splitlines()) > 300]
    assert not [relative(file) for file in everything if file.name in ("triton.py", "tensorrt.py", "onnx.py")]
