"""Keep a Swin stage's tokens in window order, for one map size."""

from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from kernels import relative_bias
from model.network.swin import SwinBlock, SwinStage, WindowAttention

MASKED = -100.0  # Swin's own value, as in `kernels`


@dataclass(frozen=True)
class WindowGroup:
    """Windows that share a mask.

    windows: token indices of each, row by row of the map, (count, w^2).
    regions: (w^2,) the part of the map that each place of a window lies in; None where it is one for all.
    """

    windows: Tensor
    regions: Tensor | None


def region_mask(regions: Tensor, dtype: torch.dtype) -> Tensor:
    """(w^2,) to (w^2, w^2): -100 between tokens that only the shift brought together, else 0."""
    return (regions[:, None] != regions).to(dtype) * MASKED


def window_groups(side: int, window: int, shift: int) -> list[WindowGroup]:
    """Every window of a `side` x `side` map shifted by `shift`, in at most four kinds: inner, right, bottom, corner.

    Proof of the kinds: the cyclic shift brings tokens together from beyond the map's edge only in the last column and
    the last row of windows, and there at the same places of each window.
    """
    position = torch.arange(side)
    token = (((position + shift) % side)[:, None] * side) + (position + shift) % side  # of the shifted map
    wrapped = (position + shift >= side).long()
    region = 2 * wrapped[:, None] + wrapped
    tokens, regions = (_partition(values, window) for values in (token, region))  # [rows, columns, w^2]
    groups: list[WindowGroup] = []
    for rows in (slice(0, -1), slice(-1, None)) if shift else (slice(None),):
        for columns in (slice(0, -1), slice(-1, None)) if shift else (slice(None),):
            places = regions[rows, columns].flatten(0, 1)[0]
            wraps = bool((places != places[0]).any())
            groups.append(WindowGroup(tokens[rows, columns].flatten(0, 1), places if wraps else None))
    return groups


def token_order(groups: list[WindowGroup]) -> Tensor:
    """(side^2,) token indices of the map in the order of the groups' windows."""
    return torch.cat([group.windows.flatten() for group in groups])


def _partition(values: Tensor, window: int) -> Tensor:
    """(side, side) to (rows, columns, w^2)."""
    count = values.shape[0] // window
    return values.view(count, window, count, window).transpose(1, 2).flatten(2)


SCORES_AT_ONCE = 1 << 22  # of one head: 16 MB in float32


class WindowedStage(nn.Module):
    """The blocks of a stage on `(B, windows, w^2, C)`, between gathers of tokens.

    Proof: norms, linear maps and GELU act on a token alone, and the channel gate takes a mean over all tokens, so a
    block commutes with any order of the tokens but for its attention, which wants its own windows together. One gather
    before each block whose windows differ from the last one's, and one at the end, stand for every roll, partition
    and reverse.
    """

    def __init__(self, stage: SwinStage, side: int) -> None:
        """side: of the square map."""
        super().__init__()
        self.blocks = nn.ModuleList(WindowedBlock(cast(SwinBlock, block), side) for block in stage)
        order = torch.arange(side**2)  # token of the map at each place
        for index, block in enumerate(self.blocks):
            wanted = token_order(cast(WindowedBlock, block).attention.groups)
            self.register_buffer(f"gather_{index}", _gather(order, wanted))
            order = wanted
        self.register_buffer("gather_back", _gather(order, torch.arange(side**2)))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, side, side, C) to the same shape."""
        x = tokens.flatten(1, 2)
        for index, block in enumerate(self.blocks):
            x = block(_reordered(x, self.get_buffer(f"gather_{index}")))
        return _reordered(x, self.get_buffer("gather_back")).view(tokens.shape)


class WindowedBlock(nn.Module):
    """`SwinBlock` on tokens in the window order of its own attention."""

    def __init__(self, block: SwinBlock, side: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attention = StaticAttention(block.attention, side)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, side^2, C) to the same shape."""
        tokens = tokens + self.attention(self.norm1(tokens))
        mixed: Tensor = self.mlp(self.norm2(tokens)[:, None])  # the gate's mean is over axes 1 and 2
        return tokens + mixed[:, 0]


class StaticAttention(nn.Module):
    """Attention within windows; the shift's mask is added only in windows that the shift wraps.

    The graph holds the regions that a mask tells apart, not the mask: at 512 px 8 KB stand for 4 MB. At most
    SCORES_AT_ONCE scores a head are made together, so that 512 px do not need all windows' scores in memory.
    """

    def __init__(self, attention: WindowAttention, side: int) -> None:
        super().__init__()
        self.heads, self.window_size = attention.num_heads, attention.window_size
        shift = attention.shift_size if side > attention.window_size else 0
        self.groups: list[WindowGroup] = window_groups(side, self.window_size, shift)
        for index, group in enumerate(self.groups):
            self.register_buffer(f"regions_{index}", group.regions)
        self.qkv, self.proj = scaled_query(attention.qkv, attention.scale), attention.proj
        self.bias_table = attention.bias_table

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, side^2, C) to the same shape."""
        bias = relative_bias(self.bias_table, self.window_size)
        batch, _, channels = tokens.shape
        qkv = self.qkv(tokens).view(batch, -1, self.window_size**2, 3 * channels)  # [B, windows, w^2, 3C]
        start, outputs = 0, []
        for index, group in enumerate(self.groups):
            together = qkv[:, start : start + len(group.windows)]
            masked = bias
            if group.regions is not None:
                masked = bias + region_mask(self.get_buffer(f"regions_{index}"), bias.dtype)
            parts = together.split(max(1, SCORES_AT_ONCE // self.window_size**4), dim=1)
            outputs += [self._attend(part, masked) for part in parts]
            start += len(group.windows)
        out: Tensor = self.proj(torch.cat(outputs, dim=1).flatten(1, 2))
        return out

    def _attend(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """(B, windows, w^2, 3C) to (B, windows, w^2, C)."""
        windows, tokens = qkv.shape[1:3]
        heads = qkv.reshape(-1, tokens, 3, self.heads, qkv.shape[3] // (3 * self.heads))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (query @ key.transpose(-1, -2) + bias).softmax(-1) @ value  # [B * windows, heads, w^2, D]
        out: Tensor = mixed.transpose(1, 2).reshape(-1, windows, tokens, qkv.shape[3] // 3)
        return out


def scaled_query(qkv: nn.Linear, scale: float) -> nn.Linear:
    """s (W x + b) = (s W) x + s b in the query's third of the projection."""
    factor = torch.ones(3, qkv.in_features, dtype=qkv.weight.dtype)
    factor[0] = scale
    scaled = deepcopy(qkv)
    scaled.weight = nn.Parameter(qkv.weight * factor.reshape(-1, 1), requires_grad=False)
    scaled.bias = nn.Parameter(qkv.bias * factor.reshape(-1), requires_grad=False)
    return scaled


def _gather(order: Tensor, wanted: Tensor) -> Tensor | None:
    """For each place of `wanted`, where its token lies in `order`; None where nothing moves."""
    return None if torch.equal(order, wanted) else torch.argsort(order)[wanted]


def _reordered(tokens: Tensor, gather: Tensor | None) -> Tensor:
    return tokens if gather is None else tokens.index_select(1, gather)
