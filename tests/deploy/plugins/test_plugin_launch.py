"""Make the launches that TensorRT would make in Triton's interpreter: results are right, and stored exactly once."""

from collections.abc import Iterator

import pytest
import torch

import deploy.plugins.payload
from deploy.plugins.payload import Payload, attention_payload, dilated_payload
from kernels import dilated_fusion, pack_taps, prepare_bias, window_attention
from kernels.aot import Compiled
from kernels.aot.configurations import Configuration
from kernels.attention.triton_forward import attention_forward
from kernels.dilated.triton_forward import dilated_forward
from tests.helpers.traffic import Traffic, recorded_traffic
from tests.kernels.conftest import ON_GPU

pytestmark = pytest.mark.skipif(ON_GPU, reason="counting needs the interpreter")
Compilations = list[Configuration]


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Compilations:
    """Collect what payloads would compile, because nothing compiles where Triton interprets."""
    asked: Compilations = []

    def compile_payload(configuration: Configuration, capability: int, ptx_version: int) -> Compiled:
        asked.append(configuration)
        return Compiled(
            entry="",
            arguments=tuple(configuration.types),
            ptx="",
            cubin=b"",
            shared_bytes=0,
            threads=32 * configuration.options["num_warps"],
            scratch_bytes=0,
        )

    monkeypatch.setattr(deploy.plugins.payload, "compile_payload", compile_payload)
    return asked


@pytest.fixture
def traffic() -> Iterator[Traffic]:
    """Record every load and store of the interpreted kernels."""
    with recorded_traffic() as recorded:
        yield recorded


def assert_stored_once(traffic: Traffic, out: torch.Tensor) -> None:
    """Check that every byte of the output was stored, and none twice."""
    total, unique = traffic.stored(out)
    assert total == unique == out.nbytes


@pytest.mark.parametrize("height, width, window, shift, heads", [(7, 14, 7, 3, 2), (16, 8, 8, 0, 1), (4, 12, 4, 2, 3)])
def test_attention(
    height: int, width: int, window: int, shift: int, heads: int, compilations: Compilations, traffic: Traffic
) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, height, width, 3 * 16 * heads).half()
    table = torch.randn((2 * window - 1) ** 2, heads).half()
    rows = prepare_bias(table, window_size=window, shift_size=shift, scale=0.25)
    payload = attention_payload(qkv.shape, heads, window, shift, 0.25, torch.float16, 80)
    out = torch.full((2, height, width, 16 * heads), torch.nan).half()  # what is not stored stays NaN
    attention_forward[(payload.grid,)](qkv, rows, *payload.extras, out, **compilations[0].constants)
    assert_stored_once(traffic, out)
    expected = window_attention(
        qkv, table, num_heads=heads, window_size=window, shift_size=shift, scale=0.25, impl="reference"
    )
    torch.testing.assert_close(out, expected, rtol=0.01, atol=0.01)
    assert arguments(payload, compilations[0]) == ["height", "width", "num_heads", "shift"]


@pytest.mark.parametrize("height, width, c_in, c_out, dilations", [(5, 9, 20, 70, (1, 4)), (3, 3, 16, 16, (2, 2, 30))])
def test_dilated_fusion(
    height: int, width: int, c_in: int, c_out: int, dilations: tuple[int, ...], compilations: Compilations,
    traffic: Traffic,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    x, bias = torch.randn(2, height, width, c_in).half(), torch.randn(c_out).half()
    weight = (torch.randn(len(dilations), c_out, c_in, 3, 3) / 20).half()
    payload = dilated_payload(x.shape, c_out, dilations, torch.float16, 80)
    out = torch.full((2, height, width, c_out), torch.nan).half()
    taps = pack_taps(weight, dilations)
    dilated_forward[(payload.grid,)](x, taps, bias, *payload.extras, out, **compilations[0].constants)
    assert_stored_once(traffic, out)
    expected = dilated_fusion(x, weight, bias, dilations=dilations, impl="reference")
    torch.testing.assert_close(out, expected, rtol=0.01, atol=0.01)
    assert arguments(payload, compilations[0]) == ["height", "width"]


def arguments(payload: Payload, configuration: Configuration) -> list[str]:
    """Return the names of a kernel's scalars, which must lie between the inputs and the output."""
    names, count = list(configuration.types), len(payload.extras)
    assert names[-1] == "out_ptr" and all(name.endswith("_ptr") for name in names[: -1 - count])
    return names[-1 - count : -1]
