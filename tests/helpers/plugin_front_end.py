"""Runs NVIDIA's own plugin front end on our registrations, with TensorRT-RTX standing in for TensorRT.

    python -m tests.helpers.plugin_front_end OUTPUT CAPABILITY...

The front end (`tensorrt_bindings/plugin`) is Python over enums and interfaces that TensorRT-RTX has too, but for six
names. Its registration checks and its build-time class run here as they are; what C++ would hand them (dimension
expressions, tensor descriptions, setters) is made below. It runs in a process of its own, because it takes over names
in sys.modules and because kernels do not compile where Triton interprets.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

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
    """A constant dimension expression."""

    def is_constant(self) -> bool:
        return True

    def get_constant_value(self) -> int:
        return int(self.value)


class ExpressionBuilder:
    """What TensorRT computes with shapes."""

    def constant(self, value: int) -> Expression:
        return Expression(value=value)

    def operation(self, operation: Any, first: Expression, second: Expression) -> Expression:
        assert operation == trt.DimensionOperation.FLOOR_DIV, "the one that the plugins use"
        return Expression(value=first.value // second.value)


class ExtraArguments(dict[int, Any]):
    """Receives the kernel's scalar arguments."""

    nbSymExprs = 0  # noqa: N815


def load_front_end() -> ModuleType:
    """`tensorrt.plugin`, as the product will import it."""
    for name in MISSING:
        setattr(trt, name, type(name, (), {}))
    trt.QuickPluginCreationRequest = SimpleNamespace()
    trt.IDimensionExpr = Expression
    trt.DimsExprs = lambda length: [None] * length
    sys.modules["tensorrt"] = trt
    found = importlib.util.find_spec("tensorrt_bindings")
    assert found is not None and found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / "plugin"
    spec = importlib.util.spec_from_file_location("tensorrt.plugin", folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tensorrt.plugin"] = trt.plugin = module
    spec.loader.exec_module(module)
    return module


def description(dtype: str, shape: tuple[int, ...]) -> Any:
    made = trt.DynamicPluginTensorDesc()
    made.desc.dims, made.desc.type = trt.Dims(shape), getattr(trt.DataType, dtype)
    made.desc.format = trt.TensorFormat.LINEAR
    return made


def build(name: str, inputs: list[tuple[str, tuple[int, ...]]], attributes: dict[str, Any]) -> dict[str, Any]:
    """The steps that TensorRT's builder takes with one plugin layer."""
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
    output, *capabilities = sys.argv[1:]
    load_front_end()
    import deploy.plugins.registration  # noqa: F401  registers

    made = {}
    for capability in capabilities:
        torch.cuda.get_device_capability = lambda value=int(capability): divmod(value, 10)
        made[capability] = {name: build(name, **case) for name, case in CASES.items()}
    Path(output).write_text(json.dumps(made))


if __name__ == "__main__":
    main()
