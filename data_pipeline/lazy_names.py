"""Load the modules behind a package's names on first use (PEP 562)."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that offers names from other modules.

    Args:
        package: name of the package, for the message of the AttributeError.
        modules: full name of the module that defines each name.
    """

    def load(name: str) -> Any:
        # `hasattr` and `from package import name` expect an AttributeError for an unknown name.
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return load
