"""Compare the attention kernel with its peers: whole operations, from qkv in image layout to the output in it.

A peer is PyTorch's own attention between the rolls, partitions and copies that windows cost without our kernel. Where
nothing is trained, its bias and its mask are prepared beforehand, as ours are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from bench.gpu.session import Open, Reference, Run, Session
from kernels import Impl, prepare_bias, region_mask, relative_bias, window_attention

TABLE, TRAINED_TABLE = "attention", "attention-trained"
MAX_AUTOTUNE = "max-autotune-no-cudagraphs"  # what it finds is captured by the timer, as everything else is
# A row of the mask begins at a multiple of so many values: the memory-efficient kernel copies any other mask.
ALIGNMENT = 16
BACKENDS = {
    "SDPA, flash": SDPBackend.FLASH_ATTENTION,
    "SDPA, memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "SDPA, cuDNN": SDPBackend.CUDNN_ATTENTION,
    "SDPA, math": SDPBackend.MATH,
}


@dataclass(frozen=True, kw_only=True)
class AttentionCase:
    """Describe one call of the operation on a square map.

    name: what it is taken from.
    batch: images.
    size: side of the map in tokens.
    heads: attention heads.
    window: side of a window in tokens.
    head_dim: channels of a head.
    dtype: of qkv.
    """

    name: str
    batch: int
    size: int
    heads: int
    window: int
    head_dim: int = 32
    dtype: torch.dtype = torch.float16

    def __str__(self) -> str:
        return f"{self.name}, w {self.window}, batch {self.batch}, {str(self.dtype).removeprefix('torch.')}"

    @property
    def shift(self) -> int:
        """Return the shift of the second block of a stage. A map of one window has nothing to shift."""
        return self.window // 2 if self.size > self.window else 0

    @property
    def windows(self) -> int:
        """Count the windows of one image."""
        return (self.size // self.window) ** 2

    @property
    def tokens(self) -> int:
        """Count the tokens of a window."""
        return self.window**2

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw qkv and the bias table."""
        torch.manual_seed(0)
        qkv = torch.randn(self.batch, self.size, self.size, 3 * self.heads * self.head_dim, device=device)
        table = torch.randn((2 * self.window - 1) ** 2, self.heads, device=device)
        return qkv.to(self.dtype), table.to(self.dtype)

    def attend(self, qkv: Tensor, table: Tensor, impl: Impl, rows: Tensor | None = None) -> Tensor:
        """Run the operation of `kernels`."""
        return window_attention(
            qkv,
            table,
            num_heads=self.heads,
            window_size=self.window,
            shift_size=self.shift,
            impl=impl,
            bias_rows=rows,
        )


def paper_case(image_size: int, stage: int, batch: int) -> AttentionCase:
    """Return the shifted block of a stage of a paper preset."""
    window = image_size // 16
    return AttentionCase(
        name=f"paper-{image_size} stage {stage}", batch=batch, size=image_size >> stage, heads=1 << stage, window=window
    )


# The most telling first: the stages with the most windows. The third is Swin's own window, at its first stage.
CASES = (
    paper_case(224, 1, 8),
    paper_case(512, 1, 8),
    AttentionCase(name="Swin-T stage 1", batch=8, size=56, heads=3, window=7),
    paper_case(224, 1, 1),
    *(paper_case(size, stage, 8) for stage in (2, 3, 4) for size in (224, 512)),
    *(paper_case(224, stage, 1) for stage in (2, 3, 4)),
)
# The backward pass is compared on two images, over whose windows the gradient of the table is summed.
TRAINED_CASES = (
    paper_case(224, 1, 2),
    paper_case(512, 1, 2),
    AttentionCase(name="Swin-T stage 1", batch=2, size=56, heads=3, window=7),
)


def launched(session: Session, cases: tuple[AttentionCase, ...] = CASES) -> None:
    """Measure what needs no compiler: ours, the reference in eager PyTorch and scaled dot-product attention."""
    _forward(session, cases, lambda case, qkv, table: {
        "ours": partial(_ours, case, qkv, table),
        "eager": partial(_plain, case, qkv, table),
        **{name: partial(_sdpa, case, qkv, table, backend) for name, backend in BACKENDS.items()},
    })  # fmt: skip


def compiled(session: Session, cases: tuple[AttentionCase, ...] = CASES) -> None:
    """Measure what torch.compile makes of FlexAttention and of the reference."""
    _forward(session, cases, lambda case, qkv, table: {
        "FlexAttention": partial(_flex, case, qkv, table, session.compile),
        "torch.compile": partial(_plain, case, qkv, table, session.compile),
    })  # fmt: skip


def autotuned(session: Session, cases: tuple[AttentionCase, ...] = CASES) -> None:
    """Measure the reference and FlexAttention under max-autotune."""
    tuned = partial(session.compile, mode=MAX_AUTOTUNE)
    _forward(session, cases, lambda case, qkv, table: {
        "FlexAttention, max-autotune": partial(_flex, case, qkv, table, tuned),
        "max-autotune": partial(_plain, case, qkv, table, tuned),
    })  # fmt: skip


def trained(session: Session, cases: tuple[AttentionCase, ...] = TRAINED_CASES) -> None:
    """Measure output and gradients together, with the bias prepared in each step as training does."""
    for case in cases:
        qkv, table = case.inputs(session.device)
        grad = torch.randn_like(qkv[..., : qkv.shape[3] // 3])
        session.measure(
            TRAINED_TABLE,
            str(case),
            {
                "ours": partial(_gradients, partial(case.attend, impl="triton"), qkv, table, grad),
                "eager": partial(_gradients, partial(case.attend, impl="reference"), qkv, table, grad),
                "SDPA, memory-efficient": partial(_gradients, partial(_sdpa_whole, case), qkv, table, grad),
            },
            partial(_trained_reference, case, qkv, table, grad),
        )


Contenders = Callable[[AttentionCase, Tensor, Tensor], Mapping[str, Open]]


def _forward(session: Session, cases: tuple[AttentionCase, ...], contenders: Contenders) -> None:
    for case in cases:
        qkv, table = case.inputs(session.device)
        # The first and the last image stand for the batch, so that the scores in float64 fit into any memory.
        ends = sorted({0, case.batch - 1})
        with torch.no_grad():
            session.measure(
                TABLE,
                str(case),
                contenders(case, qkv, table),
                partial(_reference, case, qkv[ends], table),
                pick=lambda results, ends=ends: [results[0][ends]],  # type: ignore[misc]
            )


def _reference(case: AttentionCase, qkv: Tensor, table: Tensor) -> Reference:
    exact = [case.attend(image[None].double(), table.double(), "reference") for image in qkv]
    return Reference([torch.cat(exact)], [case.attend(qkv, table, "reference")])


def _trained_reference(case: AttentionCase, qkv: Tensor, table: Tensor, grad: Tensor) -> Reference:
    attend = partial(case.attend, impl="reference")
    exact = _gradients(attend, qkv.double(), table.double(), grad.double())()
    return Reference(exact, _gradients(attend, qkv, table, grad)())


def _gradients(attend: Callable[[Tensor, Tensor], Tensor], qkv: Tensor, table: Tensor, grad: Tensor) -> Run:
    leaves = qkv.detach().clone().requires_grad_(), table.detach().clone().requires_grad_()

    def run() -> list[Tensor]:
        out = attend(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

    return run


def _ours(case: AttentionCase, qkv: Tensor, table: Tensor) -> Run:
    rows = prepare_bias(table, window_size=case.window, shift_size=case.shift, scale=case.head_dim**-0.5)
    return lambda: [case.attend(qkv, table, "triton", rows)]


def _plain(
    case: AttentionCase, qkv: Tensor, table: Tensor, compiler: Callable[..., Callable[..., Tensor]] | None = None
) -> Run:
    """Compute attention as Swin does: the scores plus a bias of each head and a mask of each window, both prepared."""
    bias, scale = relative_bias(table, case.window), case.head_dim**-0.5
    mask = region_mask(_regions(case, qkv.device), qkv.dtype)[:, None] if case.shift else None

    def attend(qkv: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = _split(case, qkv)
        scores = ((query * scale) @ key.transpose(-1, -2)).unflatten(1, (case.windows, case.heads)) + bias
        scores = scores if mask is None else scores + mask
        return _join(case, scores.softmax(-1).flatten(1, 2) @ value)

    whole = compiler(attend) if compiler else attend
    return lambda: [whole(qkv, bias, mask)]


def _sdpa(case: AttentionCase, qkv: Tensor, table: Tensor, backend: SDPBackend) -> Run:
    mask = _additive_mask(case, table)
    return lambda: [_sdpa_masked(case, qkv, mask, backend)]


def _sdpa_whole(case: AttentionCase, qkv: Tensor, table: Tensor) -> Tensor:
    return _sdpa_masked(case, qkv, _additive_mask(case, table), SDPBackend.EFFICIENT_ATTENTION)


def _sdpa_masked(case: AttentionCase, qkv: Tensor, mask: Tensor, backend: SDPBackend) -> Tensor:
    query, key, value = _split(case, qkv)
    with sdpa_kernel(backend):
        out = F.scaled_dot_product_attention(query, key, value, mask.expand(case.batch, -1, -1, -1))
    return _join(case, out)


def _flex(case: AttentionCase, qkv: Tensor, table: Tensor, compiler: Callable[..., Callable[..., Tensor]]) -> Run:
    window, heads, span = case.window, case.heads, 2 * case.window - 1

    def biased(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = query // window - key // window + window - 1
        column = query % window - key % window + window - 1
        return score + table[row * span + column, head % heads]

    mask = _block_mask(case, qkv.device)

    def attend(qkv: Tensor, mask: BlockMask | None) -> Tensor:
        query, key, value = _split(case, qkv)
        out = flex_attention(query, key, value, score_mod=biased, block_mask=mask)
        assert isinstance(out, Tensor)
        return _join(case, out)

    whole = compiler(attend)
    return lambda: [whole(qkv, mask)]


def _block_mask(case: AttentionCase, device: torch.device) -> BlockMask | None:
    """Return the mask function of the shifted windows with the blocks it leaves empty, or None without a shift."""
    if not case.shift:
        return None
    regions = _regions(case, device)

    def same_region(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return regions[head // case.heads, query] == regions[head // case.heads, key]

    lengths = case.windows * case.heads, case.tokens, case.tokens
    return create_block_mask(same_region, None, *lengths, device=str(device))


def _additive_mask(case: AttentionCase, table: Tensor) -> Tensor:
    """Return bias and mask of every window and head, (1, windows * heads, tokens, tokens)."""
    bias = relative_bias(table, case.window).expand(case.windows, -1, -1, -1)
    if case.shift:
        bias = bias + region_mask(_regions(case, table.device), table.dtype)[:, None]
    mask = bias.reshape(1, case.windows * case.heads, case.tokens, case.tokens)
    return F.pad(mask, (0, -case.tokens % ALIGNMENT))[..., : case.tokens]


def _regions(case: AttentionCase, device: torch.device) -> Tensor:
    """Label the regions of the shifted map that must not see each other, as (windows, tokens)."""
    position = torch.arange(case.size, device=device)
    line = (position >= case.size - case.window).long() + (position >= case.size - case.shift).long()
    return _windows(case, (3 * line[:, None] + line)[None, :, :, None])[0, :, :, 0]


def _windows(case: AttentionCase, image: Tensor) -> Tensor:
    """Divide (B, H, W, C) into windows, (B, windows, tokens, C)."""
    side = case.size // case.window
    image = image.view(len(image), side, case.window, side, case.window, -1)
    return image.transpose(2, 3).reshape(len(image), case.windows, case.tokens, -1)


def _split(case: AttentionCase, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Divide qkv (B, H, W, 3C) into three of (B, windows * heads, tokens, D).

    Windows stand beside heads and not in the batch, so that all images share one mask in memory.
    """
    if case.shift:
        qkv = qkv.roll((-case.shift, -case.shift), (1, 2))
    parts = _windows(case, qkv).view(len(qkv), case.windows, case.tokens, 3, case.heads, case.head_dim)
    parts = parts.permute(3, 0, 1, 4, 2, 5).reshape(3, len(qkv), -1, case.tokens, case.head_dim)
    query, key, value = parts.unbind(0)
    return query, key, value


def _join(case: AttentionCase, out: Tensor) -> Tensor:
    """Join (B, windows * heads, tokens, D) to (B, H, W, C)."""
    batch, side = len(out), case.size // case.window
    out = out.view(batch, side, side, case.heads, case.window, case.window, case.head_dim)
    out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, case.size, case.size, -1)
    return out.roll((case.shift, case.shift), (1, 2)) if case.shift else out
