"""Read from the source which modules a file imports, without importing it."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("kernels", "model", "data_pipeline", "deploy")
EVERYWHERE = (*PACKAGES, "bench", "tests")


def python_files(*folders: str) -> list[Path]:
    """Return the Python files of folders below the root."""
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def module_name(file: Path) -> str:
    """Return the name that a file is imported by."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file): file for file in python_files(*PACKAGES)}
"""The product's files by the names that they are imported by."""


@cache
def imports(module: str) -> frozenset[str]:
    """Return the full names of the modules that a module of ours imports, inside functions as well.

    A name is followed to the module that it comes from: `from data_pipeline import open_source` counts as an import
    of `data_pipeline.sources`, because the package loads it on first use.
    """
    return frozenset(_followed(ast.parse(MODULES[module].read_text())))


def reachable(modules: Iterable[str]) -> frozenset[str]:
    """Return what modules of ours import, directly or by way of others of ours, with themselves."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if module in MODULES:
            # Importing a module runs the `__init__` of every package around it first.
            parts = module.split(".")
            waiting += [*imports(module), *(".".join(parts[:end]) for end in range(1, len(parts)))]
    return frozenset(seen)


def exported(file: Path) -> bool:
    """Say whether a file sets `__all__`."""
    return _assigned(ast.parse(file.read_text(encoding="utf-8")), "__all__") is not None


def lazy(module: str) -> bool:
    """Say whether a module is a package that loads names on first use."""
    return bool(_lazy_names(module))


def _followed(tree: ast.Module) -> Iterator[str]:
    # What only the type checker reads is no import. It is found in the `__init__` of packages that load names lazily.
    for node in _nodes(tree, skip_type_checking=_assigned(tree, "_MODULES") is not None):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else _lazy_names(node.module).get(alias.name, node.module)


def _nodes(tree: ast.AST, *, skip_type_checking: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if skip_type_checking and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _nodes(node, skip_type_checking=skip_type_checking)


@cache
def _lazy_names(module: str) -> dict[str, str]:
    """Return the names that a package of ours loads on first use, with the modules that they come from."""
    if module not in MODULES:
        return {}
    value = _assigned(ast.parse(MODULES[module].read_text()), "_MODULES")
    return {} if value is None else dict(ast.literal_eval(value))


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]
    ]
    return values[-1] if values else None
