"""Test that the light modules of the package load neither torch nor DALI, and that its inner order holds."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "data_pipeline"
LIGHT = (
    "fields",
    "spec",
    "files",
    "enlarge",
    "overlay",
    "startup",
    "command_line",
    "dicom",
    "volume_header",
    "volume_file",
    "cores",
)  # what the client imports
# Each layer may import the layers above it. Within the first layer, any may import any.
LAYERS = (
    (
        *("__init__", "fields", "spec", "records", "files", "orientation", "tiff", "image_header", "image_file"),
        *("dicom", "volume_header", "volume_file", "enlarge", "overlay", "startup", "command_line", "cores"),
    ),
    ("graph", "sources"),
    ("scan",),
    ("loader", "serving"),
    ("prepare", "preview"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


@pytest.mark.parametrize("modules", [LIGHT, ("records", "image_file")], ids=["client", "others"])
def test_light_modules_load_neither_torch_nor_dali(modules: tuple[str, ...]) -> None:
    # A separate process, because this one has loaded both.
    code = f"""
import sys
import {", ".join(f"data_pipeline.{module}" for module in modules)}
print({{name.split(".")[0] for name in sys.modules}} & {{"torch", "nvidia"}})
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_modules_import_only_the_layers_above_them(file: Path) -> None:
    own = file.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imported(file):
        assert LEVEL[name] < LEVEL[own] or name == own or {name, own} <= set(LAYERS[0]), f"{own} imports {name}"


def imported(file: Path) -> set[str]:
    """Return the first part of each `data_pipeline.X` that a file imports when it runs."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    # Imports under TYPE_CHECKING never run.
    typed = {id(node) for branch in ast.walk(tree) if isinstance(branch, ast.If) for node in ast.walk(branch)}
    modules = [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in typed
    ]
    return {module.split(".")[1] for module in modules if module.startswith("data_pipeline.")}
