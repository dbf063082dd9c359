"""What the kernels do beside being right: memory, strides, operators, special values."""

from collections.abc import Callable

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
from kernels.attention.triton_impl import launch_forward
from kernels.dilated.op import dilated_op
from kernels.dilated.triton_impl import launch

ATTENTION = {"num_heads": 1, "window_size": 7, "shift_size": 3}


def attention_inputs(device: torch.device) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(1, 7, 14, 48, device=device), torch.randn(169, 1, device=device)


def fusion_inputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 5, 9, 20, device=device), torch.randn(2, 24, 20, 3, 3, device=device) / 20
    return x, weight, torch.randn(24, device=device)


class Fenced:
    """A tensor inside a larger buffer of NaN: a read outside shows as NaN, a write outside as a lost NaN."""

    def __init__(self, content: Tensor) -> None:
        margin = 4096
        self.buffer = torch.full((content.numel() + 2 * margin,), torch.nan, device=content.device, dtype=content.dtype)
        self.tensor = self.buffer[margin:-margin].view(content.shape)
        self.tensor.copy_(content)
        self.outside = torch.ones_like(self.buffer, dtype=torch.bool)
        self.outside[margin:-margin] = False

    def is_intact(self) -> bool:
        return bool(self.buffer[self.outside].isnan().all())


def fence_outputs(monkeypatch: pytest.MonkeyPatch) -> list[Fenced]:
    """Every tensor that a launcher allocates is fenced from now on."""
    fences: list[Fenced] = []

    plain = Tensor.new_empty

    def fenced(self: Tensor, *sizes: int, dtype: torch.dtype | None = None, device: object = None) -> Tensor:
        if sizes == (0,):  # the interpreter's own
            return plain(self, 0, device=device)
        fences.append(Fenced(torch.full(sizes, torch.nan, device=self.device, dtype=dtype or self.dtype)))
        return fences[-1].tensor

    monkeypatch.setattr(Tensor, "new_empty", fenced)
    return fences


@pytest.mark.parametrize("window, shift, height, width", [(7, 3, 7, 14), (4, 2, 8, 4), (9, 0, 9, 9)])
def test_attention_stays_inside_its_tensors(
    window: int, shift: int, height: int, width: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    rows = prepare_bias(
        torch.randn((2 * window - 1) ** 2, 2, device=device), window_size=window, shift_size=shift, scale=0.25
    )
    inputs = [Fenced(torch.randn(1, height, width, 96, device=device)), Fenced(rows)]
    padding = inputs[1].tensor.isinf()
    qkv, rows = (one.tensor.requires_grad_() for one in inputs)
    fences = fence_outputs(monkeypatch)
    out = attention_op(qkv, rows, window, shift, 0.25)
    qkv_grad, rows_grad = torch.autograd.grad(out.sum(), (qkv, rows))
    assert out.isfinite().all() and qkv_grad.isfinite().all() and rows_grad.isfinite().all()
    assert not rows_grad[padding].any()
    assert len(fences) >= 2 and all(one.is_intact() for one in [*inputs, *fences])


@pytest.mark.parametrize("shape, c_out, dilations", [((2, 5, 9, 20), 17, (1, 4)), ((1, 3, 4, 33), 70, (2, 30))])
def test_fusion_stays_inside_its_tensors(
    shape: tuple[int, ...],
    c_out: int,
    dilations: tuple[int, ...],
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    taps = pack_taps(torch.randn(len(dilations), c_out, shape[3], 3, 3), dilations)
    inputs = [Fenced(tensor.to(device)) for tensor in (torch.randn(shape), taps, torch.randn(c_out))]
    fences = fence_outputs(monkeypatch)
    out = dilated_op(*(one.tensor for one in inputs), dilations)
    assert out.isfinite().all()
    assert len(fences) == 1 and all(one.is_intact() for one in [*inputs, *fences])


class Allocations(TorchDispatchMode):
    """Shapes of the tensors that operators make, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = function(*args, **(kwargs or {}))
        if (
            isinstance(made, Tensor)
            and made.numel()
            and not any(alias.alias_info for alias in function._schema.returns)
        ):
            self.shapes.append(tuple(made.shape))
        return made


def test_launches_allocate_their_output_and_nothing_else(device: torch.device) -> None:
    qkv, table = attention_inputs(device)
    rows = prepare_bias(table, window_size=7, shift_size=3, scale=0.25)
    x, weight, bias = fusion_inputs(device)
    taps = pack_taps(weight, (1, 3))
    with Allocations() as seen:
        launch_forward(qkv, rows, 7, 3, 0.25)
        launch(x, taps, bias, (1, 3))
    assert seen.shapes == [(1, 7, 14, 16), (1, 5, 9, 24)]


def transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def every_second(tensor: Tensor) -> Tensor:
    return tensor.repeat_interleave(2, dim=3)[..., ::2]


@pytest.mark.parametrize("rearrange", [transposed, every_second])
def test_strided_inputs_give_the_same(rearrange: Callable[[Tensor], Tensor], device: torch.device) -> None:
    qkv, table = attention_inputs(device)
    x, weight, bias = fusion_inputs(device)
    strided = rearrange(qkv), rearrange(x)
    assert not any(one.is_contiguous() for one in strided)
    same = window_attention(strided[0], table.T.contiguous().T, **ATTENTION, impl="triton")
    assert torch.equal(same, window_attention(qkv, table, **ATTENTION, impl="triton"))
    fused = dilated_fusion(strided[1], weight, bias, dilations=(1, 3), impl="triton")
    assert torch.equal(fused, dilated_fusion(x, weight, bias, dilations=(1, 3), impl="triton"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the interpreter
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", [0, 1, 2], ids=["query", "key", "value"])
def test_special_values_spread_as_in_the_reference(part: int, value: float, device: torch.device) -> None:
    """Without a shift: e^-100 of a masked token times infinity hangs on how a softmax rounds denormals."""
    qkv, table = attention_inputs(device)
    qkv[0, 2, 3, part * 16 + 5] = value
    got, expected = (
        window_attention(qkv, table, num_heads=1, window_size=7, impl=impl) for impl in ("triton", "reference")
    )
    assert torch.equal(got.isnan(), expected.isnan()) and torch.equal(got.isinf(), expected.isinf())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_special_values_spread_through_the_fusion(value: float, device: torch.device) -> None:
    """With one branch: centre taps of opposite signs make infinity NaN before they are summed, not after."""
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


def test_auto_is_the_reference_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    qkv, table = attention_inputs(torch.device("cpu"))
    with caplog.at_level("DEBUG", logger="kernels.choice"):
        out = window_attention(qkv, table, **ATTENTION)
    assert torch.equal(out, window_attention(qkv, table, **ATTENTION, impl="reference"))
    assert "reference, the tensors are on cpu" in caplog.text
