"""Test what the kernels do apart from accurate sums: memory, strides, operators, special values."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import (
    dilated_fusion,
    pack_taps,
    prepare_bias,
    window_attention,
)
from kernels.attention.op import attention_op
from kernels.attention.triton_launch import launch_forward
from kernels.dilated.op import dilated_op
from kernels.dilated.triton_launch import launch
from kernels.dispatch import device_refusal, on_device_of
from tests.kernels.fences import fenced

ATTENTION: dict[str, Any] = {"num_heads": 1, "window_size": 7, "shift_size": 3}


def attention_inputs(device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw qkv and bias table."""
    torch.manual_seed(0)
    return torch.randn(1, 7, 14, 48, device=device), torch.randn(169, 1, device=device)


def fusion_inputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Draw x, weight and bias."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 5, 9, 20, device=device), torch.randn(2, 24, 20, 3, 3, device=device) / 20
    return x, weight, torch.randn(24, device=device)


def test_the_example_of_the_guide_runs() -> None:
    guide = (Path(__file__).parents[2] / "kernels" / "README.md").read_text()
    example = guide.split("```python\n")[1].split("```")[0]
    exec(example, {})


def test_fences_notice_what_happens_outside() -> None:
    def write(x: Tensor) -> Tensor:
        out = x.new_empty(4)
        # One value behind the end of `out`.
        out.as_strided((5,), (1,)).zero_()
        return out

    def read(x: Tensor) -> Tensor:
        return x.new_empty(1).copy_(x.as_strided((1,), (1,), x.storage_offset() - 1))

    with pytest.raises(AssertionError):
        fenced(write)(torch.ones(4))
    assert fenced(read)(torch.ones(4)).isnan()


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record the shapes of the tensors that operators make, apart from views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = function(*args, **(kwargs or {}))
        # The interpreter makes tensors without values, which take no memory.
        if (
            isinstance(made, Tensor)
            and made.numel()
            and not any(alias.alias_info for alias in function._schema.returns)
        ):
            self.shapes.append(tuple(made.shape))
        return made


def test_launches_allocate_their_output_and_what_they_split(device: torch.device) -> None:
    qkv, table = attention_inputs(device)
    rows = prepare_bias(table, window_size=7, shift_size=3, scale=0.25)
    x, weight, bias = fusion_inputs(device)
    taps = pack_taps(weight, (1, 3))
    with Allocations() as seen:
        launch_forward(qkv, rows, 7, 3, 0.25)
        launch(x, taps, bias, (1, 3))
    # The last are the two parts of each sum, which a map of one tile is split into.
    assert seen.shapes == [(1, 7, 14, 16), (1, 5, 9, 24), (1, 2, 5, 9, 24)]


def transposed(tensor: Tensor) -> Tensor:
    """Return the same values with H and W swapped in memory."""
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def every_second(tensor: Tensor) -> Tensor:
    """Return the same values with gaps between them in memory."""
    return tensor.repeat_interleave(2, dim=3)[..., ::2]


@pytest.mark.parametrize("rearrange", [transposed, every_second])
def test_strided_inputs_give_the_same(rearrange: Callable[[Tensor], Tensor], device: torch.device) -> None:
    qkv, table = attention_inputs(device)
    x, weight, bias = fusion_inputs(device)
    strided = rearrange(qkv), rearrange(x)
    assert not any(one.is_contiguous() for one in strided)
    # The table is strided as well.
    same = window_attention(strided[0], table.T.contiguous().T, **ATTENTION, impl="triton")
    assert torch.equal(same, window_attention(qkv, table, **ATTENTION, impl="triton"))
    fused = dilated_fusion(strided[1], weight, bias, dilations=(1, 3), impl="triton")
    assert torch.equal(fused, dilated_fusion(x, weight, bias, dilations=(1, 3), impl="triton"))


# NumPy warns about them in the interpreter.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", [0, 1, 2], ids=["query", "key", "value"])
def test_special_values_spread_as_in_the_reference(part: int, value: float, device: torch.device) -> None:
    # Without a shift, because e^-100 of a masked token times infinity depends on how a softmax rounds denormals.
    qkv, table = attention_inputs(device)
    qkv[0, 2, 3, part * 16 + 5] = value
    got, expected = (
        window_attention(qkv, table, num_heads=1, window_size=7, impl=impl) for impl in ("triton", "reference")
    )
    assert torch.equal(got.isnan(), expected.isnan()) and torch.equal(got.isinf(), expected.isinf())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_special_values_spread_through_the_fusion(value: float, device: torch.device) -> None:
    # With one branch, because infinity times centre taps of opposite signs is NaN before those are summed, not after.
    x, weight, bias = fusion_inputs(device)
    x[0, 2, 3, 5] = value
    got, expected = (dilated_fusion(x, weight[:1], bias, dilations=(3,), impl=impl) for impl in ("triton", "reference"))
    assert torch.equal(got.isnan(), expected.isnan()) and torch.equal(got.isinf(), expected.isinf())


def test_operators_pass_opcheck(device: torch.device) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(1, 4, 4, 48, device=device, requires_grad=True)
    rows = prepare_bias(torch.randn(49, 1, device=device), window_size=4, shift_size=1, scale=0.25)
    torch.library.opcheck(attention_op, (qkv, rows.requires_grad_(), 4, 1, 0.25))
    taps = torch.randn(9, 16, 16, device=device)
    torch.library.opcheck(
        dilated_op, (torch.randn(1, 3, 3, 16, device=device), taps, torch.randn(16, device=device), [2])
    )


def test_compile_and_export_keep_the_operator(device: torch.device) -> None:
    # Batch 2, because torch.export takes a dimension of size 1 for a constant.
    qkv, table = torch.randn(2, 4, 4, 48, device=device), torch.randn(49, 1, device=device)

    class Attention(torch.nn.Module):
        def forward(self, qkv: Tensor, table: Tensor) -> Tensor:
            return window_attention(qkv, table, num_heads=1, window_size=4, impl="triton")

    eager = Attention()(qkv, table)
    compiled = torch.compile(Attention(), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(qkv, table), eager)
    program = torch.export.export(
        Attention(), (qkv, table), dynamic_shapes=({0: torch.export.Dim("batch", max=8)}, None)
    )
    assert "resformer.window_attention" in str(program.graph)
    assert program.module()(qkv[:1], table).shape == (1, 4, 4, 16)


class OnGpu:
    """Stand for a tensor on the second GPU of a machine."""

    device, is_cuda = torch.device("cuda", 1), True


@pytest.mark.parametrize(("capability", "refused"), [((7, 5), True), ((8, 0), False), ((12, 0), False)])
def test_gpus_without_code_for_their_tensor_cores_are_refused(
    capability: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    expected = "it needs compute capability 8.0 or later, got 7.5" if refused else None
    assert device_refusal(OnGpu()) == expected  # type: ignore[arg-type]

    def count(x: Tensor) -> Tensor:
        return x.add(device_refusal(OnGpu()) is not None)  # type: ignore[arg-type]

    torch.compiler.reset()
    # What is compiled must choose as well, and asks while it is traced.
    assert torch.compile(count, fullgraph=True, backend="eager")(torch.zeros(1)) == refused


def test_a_launch_is_on_the_gpu_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device", lambda device: nullcontext(device))
    with on_device_of(OnGpu()) as device:  # type: ignore[arg-type]
        assert device == torch.device("cuda", 1)
    with on_device_of(torch.zeros(1)) as device:
        assert device is None


def test_auto_is_the_reference_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    qkv, table = attention_inputs(torch.device("cpu"))
    with caplog.at_level("DEBUG", logger="kernels.dispatch"):
        out = window_attention(qkv, table, **ATTENTION)
    assert torch.equal(out, window_attention(qkv, table, **ATTENTION, impl="reference"))
    assert "reference, the tensors are on cpu" in caplog.text
