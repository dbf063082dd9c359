"""Write metrics of the proxy's own as Prometheus reads them."""

from collections.abc import Mapping
from typing import Literal


def family(name: str, kind: Literal["counter", "gauge"], meaning: str, values: Mapping[str, int], label: str) -> str:
    """Return the lines of one family of metrics.

    Args:
        name: without the project's prefix.
        kind: Prometheus' type of it.
        meaning: one line of help.
        values: by what the label says.
        label: its name.
    """
    samples = {f'{{{label}="{one}"}}': value for one, value in values.items()}
    return _lines(name, kind, meaning, samples)


def gauge(name: str, meaning: str, value: int) -> str:
    """Return the lines of a gauge that is one number, as for `family`."""
    return _lines(name, "gauge", meaning, {"": value})


def _lines(name: str, kind: str, meaning: str, samples: Mapping[str, int]) -> str:
    head = [f"# HELP resformer_{name} {meaning}", f"# TYPE resformer_{name} {kind}"]
    return "\n".join([*head, *(f"resformer_{name}{labels} {value}" for labels, value in samples.items()), ""])
