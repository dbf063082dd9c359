"""Hold the code to its layout: who imports whom, what is exported and declared, and that importing does nothing."""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from typing import Any

import pytest

from tests.helpers.imports import EVERYWHERE, MODULES, PACKAGES, ROOT, exported, imports, lazy, python_files, reachable

# The modules of `data_pipeline` that need neither torch nor DALI, which every other package may use.
LIGHT = (
    *("cores", "files", "fields", "spec", "records", "orientation", "tiff", "image_header", "image_file", "dicom"),
    *("volume_header", "volume_file", "enlarge", "overlay", "startup", "command_line"),
)
# Of `deploy`, what build, server and client share.
BASE = ("errors", "access", "contract", "content", "files")
# What only build and worker share: the client and the server's own process need no runtime.
NETWORK = "deploy.network"
# A part may import the parts before it, never those behind it: the folders are the arrow of the README.
ORDER: dict[str, tuple[str, ...]] = {
    "kernels": ("startup", "dispatch", "attention", "dilated", "cost_model", "aot"),
    "model": (
        *(
            "config",
            "network",
            "inference",
            "calibration",
            "checkpoint",
            "origin",
            "bootstrap",
            "metrics",
            "evaluation",
        ),
        *("training", "ablation", "train", "evaluate", "card", "ablate"),
    ),
    "data_pipeline": (*LIGHT, "graph", "sources", "scan", "loader", "serving", "prepare", "preview"),
    "deploy": (
        *(*BASE, "network", "simplify", "plugins", "traced_graph", "export", "engines", "precision", "verify"),
        *("report", "repository", "building", "build_engine", "manifest", "server", "client"),
        *("tuning", "serve", "tune", "demo"),
    ),
}
# The parts of `model` that read data.
MODEL_READERS = ("origin", "evaluation", "training", "ablation", "train", "evaluate", "card", "ablate")
# Modules that only run where TensorRT or the server provide what they import.
ELSEWHERE = ("deploy.plugins.registration", "deploy.server.worker")
HERE = [module for module in MODULES if module not in ELSEWHERE]
# Loggers of ours and of libraries whose levels have been set on import before.
LOGGERS = ("", "torch", "nncf", "onnx", "onnxruntime", "openvino", "tritonclient", "matplotlib")


def of(*packages: str) -> list[str]:
    """List the modules of packages of ours, given by their full names."""
    return [module for module in MODULES if within(module, packages)]


def within(module: str, packages: Iterable[str]) -> bool:
    """Say whether a module is one of the packages or lies in one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def ours(module: str) -> set[str]:
    """Return those of a module's imports that are this project's."""
    return {name for name in imports(module) if name.split(".")[0] in EVERYWHERE}


def check(modules: Iterable[str], allowed: Iterable[str]) -> None:
    """Fail with every import of ours in `modules` that lies outside the packages allowed."""
    allowed = tuple(allowed)
    # Importing a module runs its package first, so what a lazy package defines itself comes with any of its modules.
    packages = {package for package in MODULES if lazy(package) and any(within(one, [package]) for one in allowed)}
    wrong = [
        f"{module} imports {name}"
        for module in modules
        for name in sorted(ours(module) - packages)
        if not within(name, allowed)
    ]
    assert not wrong, "\n".join(wrong)


def light(*names: str) -> list[str]:
    """Return the full names of modules of `data_pipeline`."""
    return [f"data_pipeline.{name}" for name in names]


def test_kernels_and_data_pipeline_import_nothing_of_ours() -> None:
    check(of("kernels"), ["kernels"])
    check(of("data_pipeline"), ["data_pipeline"])


def test_only_the_readers_of_model_import_the_data_pipeline() -> None:
    readers = of(*(f"model.{name}" for name in MODEL_READERS))
    check(readers, ["kernels", "model", "data_pipeline"])
    check([module for module in of("model") if module not in readers], ["kernels", "model", *light(*LIGHT)])


def test_checkpoints_need_the_specification_and_files_alone() -> None:
    check(["model.checkpoint"], ["model", *light("fields", "spec", "files")])


def test_deploy_imports_no_tests_and_no_benchmarks() -> None:
    check(of("deploy"), PACKAGES)


def test_benchmarks_import_no_tests() -> None:
    uses = re.compile(r"^\s*(from|import) tests\b", re.MULTILINE)
    assert not [file for file in python_files("bench") if uses.search(file.read_text())]


@pytest.mark.parametrize("package", PACKAGES)
def test_parts_are_imported_in_one_direction(package: str) -> None:
    order = ORDER[package]
    parts = {module.split(".")[1] for module in of(package) if module != package}
    assert parts == set(order), "every part needs a place in ORDER"
    for position, part in enumerate(order):
        others = [name for name in PACKAGES if name != package]
        check(of(f"{package}.{part}"), [*others, *(f"{package}.{earlier}" for earlier in order[: position + 1])])


def test_the_two_kernels_do_not_know_each_other() -> None:
    check(of("kernels.dilated"), ["kernels.dilated", "kernels.dispatch"])


def test_sources_do_not_need_the_graph() -> None:
    check(of("data_pipeline.sources"), ["data_pipeline.sources", *light(*LIGHT)])


def test_server_and_client_know_the_contract_and_not_each_other() -> None:
    base = [f"deploy.{name}" for name in BASE] + light(*LIGHT)
    worker = of("deploy.server.worker")
    check(of("deploy.client"), ["deploy.client", *base])
    check([module for module in of("deploy.server") if module not in worker], ["deploy.server", *base])
    check(worker, ["deploy.server", "data_pipeline", NETWORK, *base])


def test_light_modules_and_the_client_need_neither_torch_nor_dali() -> None:
    modules = [*of("deploy.client"), *light(*LIGHT), "deploy", "deploy.contract", "data_pipeline", "deploy.server"]
    reached = {name.split(".")[0] for name in reachable(modules)}
    assert not reached & {"torch", "nvidia", "model", "kernels"}


def test_only_the_plugins_reach_inside_the_kernels() -> None:
    insiders = ("kernels", "deploy.plugins.payload", "deploy.plugins.registration")
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if not within(module, insiders)
        for name in sorted(imports(module))
        if name.startswith("kernels.")
    ]
    assert not wrong, "\n".join(wrong)


def test_cores_are_counted_in_one_place() -> None:
    # Elsewhere the quota of a container would be forgotten. The kernels, which import nothing, only compile.
    uses = re.compile(r"cpu_count|sched_getaffinity")
    files = [file.relative_to(ROOT).as_posix() for file in python_files(*EVERYWHERE) if uses.search(file.read_text())]
    assert [file for file in files if not file.startswith("tests/")] == [
        "data_pipeline/cores.py",
        "kernels/aot/__init__.py",
    ]


def test_no_file_hides_a_library() -> None:
    assert not [file for file in python_files(*EVERYWHERE) if file.name in ("triton.py", "tensorrt.py", "onnx.py")]


def test_annotations_are_evaluated() -> None:
    # Nothing else of __future__ is lacking in Python 3.10.
    wrong = [
        file for file in python_files(*EVERYWHERE) if re.search("^from __future__ ", file.read_text(), re.MULTILINE)
    ]
    assert not wrong


@pytest.mark.parametrize("module", [name for name in HERE if exported(MODULES[name])])
def test_every_exported_name_exists(module: str) -> None:
    loaded = importlib.import_module(module)
    missing = [name for name in loaded.__all__ if not hasattr(loaded, name)]
    assert not missing
    assert len(set(loaded.__all__)) == len(loaded.__all__)


def test_everything_of_the_client_can_be_imported() -> None:
    namespace: dict[str, Any] = {}
    exec("from deploy.client import *", namespace)
    assert {"Client", "AsyncClient", "Result"} <= namespace.keys()


# Run in a fresh process: the libraries first, so that only what our own modules do is seen.
IMPORT_ALL = """
import importlib, json, logging, os, sys
import deploy  # turns off the libraries' telemetry
modules, libraries, loggers = json.loads(sys.argv[1])
for name in libraries:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
import torch
levels = {name: logging.getLogger(name).level for name in loggers}
threads = torch.get_num_threads()
for name in modules:
    importlib.import_module(name)
print(json.dumps({
    "cuda": torch.cuda.is_initialized(),
    "levels": [name for name in loggers if logging.getLogger(name).level != levels[name]],
    "threads": torch.get_num_threads() != threads,
}))
"""


def test_importing_has_no_effect() -> None:
    libraries = sorted({name.split(".")[0] for module in HERE for name in imports(module)} - set(EVERYWHERE))
    argument = json.dumps([HERE, libraries, LOGGERS])
    command = [sys.executable, "-c", IMPORT_ALL, argument]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout.splitlines()[-1]) == {"cuda": False, "levels": [], "threads": False}


def declared(*extras: str) -> set[str]:
    """Return the distributions that the base and these extras name, with the extras that they include."""
    # Of pyproject.toml itself: the installed package's metadata may be those of an older one.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = toml.loads((ROOT / "pyproject.toml").read_text())["project"]
    names: set[str] = set()
    for requirement in [
        *project["dependencies"],
        *(one for e in extras for one in project["optional-dependencies"][e]),
    ]:
        if included := re.match(r"resformer-deploy\[(.+)\]", requirement):
            names |= declared(*included[1].split(","))
        else:
            names.add(normalised(re.split(r"[\[<>=!~; ]", requirement)[0]))
    return names


def normalised(distribution: str) -> str:
    """Return a distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def undeclared(modules: Iterable[str], *extras: str) -> list[str]:
    """List what the modules import and neither the base nor the extras declare."""
    # Python 3.10 does not look into a namespace package without a list of its top level.
    names, distributions = declared(*extras), {"google": ["protobuf"], **packages_distributions()}
    roots = {(name.split(".")[0], module) for module in modules for name in imports(module)}
    wrong = []
    for root, module in sorted(roots):
        # The server brings the last one along.
        if root in sys.stdlib_module_names or root in EVERYWHERE or root == "triton_python_backend_utils":
            continue
        # What is not installed here (TensorRT, without a GPU) is looked for under its own name.
        if not names & {normalised(one) for one in distributions.get(root, [root])}:
            wrong.append(f"{module} imports {root}")
    return wrong


def test_what_is_imported_is_declared() -> None:
    assert not undeclared(MODULES, "toolkit", "gpu", "dicom", "volumes", "pacs")


def test_what_the_client_imports_is_declared_for_a_client_machine() -> None:
    client = [module for module in reachable(of("deploy.client")) if module in MODULES]
    assert not undeclared(client, "client", "dicom", "volumes", "pacs")
