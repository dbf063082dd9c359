"""Run NVIDIA's own plugin front end on our registrations, with TensorRT-RTX in the place of TensorRT.

    python -m tests.helpers.plugin_front_end OUTPUT CAPABILITY...

The front end (`tensorrt_bindings/plugin`) is Python over enums and interfaces that TensorRT-RTX has as well, except for
six names. Its registration checks and its build-time class run here unchanged. What C++ would pass to them (dimension
expressions, tensor descriptions, setters) is made below. It runs in a process of its own, because it takes over names
in sys.modules and because kernels do not compile where Triton interprets.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import tensorrt_rtx as trt
import torch

MISSING = ("ISymExpr", "ISymExprs", "IPluginV3QuickAOTBuild", "IKernelLaunchParams", "KernelLaunchParams")
CASES: dict[str, dict[str, Any]] = {
    "window_attention": {
        "inputs": [("HALF", (2, 28, 42, 3 * 64)), ("FLOAT", (2, 3, 27 * 14, 16))],
        "attributes": {"window_size": 14, "shift_size": 7, "scale": 32**-0.5},
    },
    "dilated_fusion": {
        "inputs": [("HALF", (2, 20, 13, 64)), ("HALF", (25, 64, 96)), ("HALF", (96,))],
        "attributes": {"dilations": np.array([6, 12, 18])},
    },
}


class Expression(SimpleNamespace):
    """Stand for a constant dimension expression."""

    def is_constant(self) -> bool:
        """Confirm that every dimension here is known."""
        return True

    def get_constant_value(self) -> int:
        """Return the dimension."""
        return int(self.value)


class ExpressionBuilder:
    """Compute with shapes as TensorRT does."""

    def constant(self, value: int) -> Expression:
        """Make an expression of a number."""
        return Expression(value=value)

    def operation(self, operation: Any, first: Expression, second: Expression) -> Expression:
        """Divide two dimensions, rounding down."""
        assert operation == trt.DimensionOperation.FLOOR_DIV, "the one that the plugins use"
        return Expression(value=first.value // second.value)


class ExtraArguments(dict[int, Any]):
    """Receive the kernel's scalar arguments by index."""

    nbSymExprs = 0  # noqa: N815


def load_front_end() -> ModuleType:
    """Load `tensorrt.plugin` under the name that the product imports it by."""
    # Empty base classes are enough: only C++ would call what they declare.
    for name in MISSING:
        setattr(trt, name, type(name, (), {}))
    trt.QuickPluginCreationRequest = SimpleNamespace()
    trt.IDimensionExpr = Expression
    trt.DimsExprs = lambda length: [None] * length
    sys.modules["tensorrt"] = trt
    # Only the `plugin` folder of the bindings is loaded: importing the package itself would need TensorRT's library.
    bindings = importlib.util.find_spec("tensorrt_bindings")
    assert bindings is not None and bindings.submodule_search_locations
    folder = Path(bindings.submodule_search_locations[0]) / "plugin"
    spec = importlib.util.spec_from_file_location("tensorrt.plugin", folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tensorrt.plugin"] = trt.plugin = module
    spec.loader.exec_module(module)
    return module


def description(dtype: str, shape: tuple[int, ...]) -> Any:
    """Describe a row-major tensor as TensorRT's builder does."""
    made = trt.DynamicPluginTensorDesc()
    made.desc.dims, made.desc.type = trt.Dims(shape), getattr(trt.DataType, dtype)
    made.desc.format = trt.TensorFormat.LINEAR
    return made


def build(name: str, inputs: list[tuple[str, tuple[int, ...]]], attributes: dict[str, Any]) -> dict[str, Any]:
    """Take the steps that TensorRT's builder takes with one plugin layer, and return what came of each."""
    # Names that begin with `_` are the front end's own. TensorRT's C++ side calls the same.
    from tensorrt.plugin._lib import QDP_REGISTRY
    from tensorrt.plugin._plugin_class import _TemplateAOTPlugin

    definition = QDP_REGISTRY[f"resformer::{name}"]
    plugin = _TemplateAOTPlugin(name, "resformer", definition.num_outputs)
    plugin.init(
        definition.register_func, attributes, definition.aot_impl_attr_names, definition.aot_impl_func,
        definition.autotune_attr_names, definition.autotune_func,
    )  # fmt: skip
    descriptions = [description(dtype, shape) for dtype, shape in inputs]
    types = plugin.get_output_data_types([one.desc.type for one in descriptions], [len(shape) for _, shape in inputs])
    (output,) = plugin.get_output_shapes([shape for _, shape in inputs], [], ExpressionBuilder())
    shape = tuple(one.value for one in output)
    descriptions.append(description(types[0].name, shape))
    supported = plugin.get_supported_format_combinations(descriptions, len(inputs))
    plugin.configure_plugin(descriptions[:-1], descriptions[-1:])
    plugin.set_tactic(0)
    launch, extras = SimpleNamespace(), ExtraArguments()
    plugin.get_launch_params(None, descriptions, len(inputs), launch, extras, ExpressionBuilder())
    entry, ptx = plugin.get_kernel([one.desc for one in descriptions[:-1]], [descriptions[-1].desc])
    return {
        "output": [types[0].name, shape],
        "supported": [one.type.name for one in supported],
        "entry": entry,
        "ptx": ptx.decode(),
        "extras": [extras[index].expr.value for index in range(extras.nbSymExprs)],
        **{key: value.expr.value for key, value in vars(launch).items()},
    }


def main() -> None:
    """Build one layer of each plugin for each compute capability, and write what came of them as JSON."""
    output, *capabilities = sys.argv[1:]
    load_front_end()
    from deploy.plugins.registration import register_plugins

    register_plugins()
    register_plugins()  # a second build in the same process asks again
    made = {}
    for capability in capabilities:
        # The plugins ask torch for the GPU that builds.
        with patch.object(torch.cuda, "get_device_capability", return_value=divmod(int(capability), 10)):
            made[capability] = {name: build(name, **case) for name, case in CASES.items()}
    Path(output).write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    main()
