"""Rewrite a Swin stage for maps of one size: its tokens stay in window order from the first block to the last.

Read from the top: a stage gathers its tokens into window order, its blocks run in that order, attention adds a mask
only where the shift wraps, and `window_groups` finds those windows.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from kernels import region_mask, relative_bias
from model.network.swin import SwinBlock, SwinStage, WindowAttention

SCORES_AT_ONCE = 1 << 22  # attention scores of one head that may be in memory together: 16 MB in float32


class WindowedStage(nn.Module):
    """Run the blocks of a stage on tokens in window order, with gathers between them.

    Proof: norms, linear maps and GELU act on each token alone, and the channel gate takes a mean over all tokens, so a
    block commutes with any order of the tokens except for its attention, which needs the tokens of a window together.
    One gather before each block whose windows differ from the previous block's, and one after the last block, therefore
    replace every roll, partition and reverse.
    """

    def __init__(self, stage: SwinStage, side: int) -> None:
        """Prepare the stage for square maps of `side` tokens."""
        super().__init__()
        self.blocks = nn.ModuleList(WindowedBlock(cast(SwinBlock, block), side) for block in stage)
        order = torch.arange(side**2)  # the token of the map that lies at each place
        for index, block in enumerate(self.blocks):
            wanted = token_order(cast(WindowedBlock, block).attention.groups)
            # Buffers and not attributes, so that they follow the module to its device and into the exported file.
            self.register_buffer(f"gather_{index}", _gather(order, wanted))
            order = wanted
        self.register_buffer("gather_back", _gather(order, torch.arange(side**2)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, side, side, C) to the same shape."""
        x = tokens.flatten(1, 2)
        for index, block in enumerate(self.blocks):
            x = block(_reordered(x, self.get_buffer(f"gather_{index}")))
        return _reordered(x, self.get_buffer("gather_back")).view(tokens.shape)


def _gather(order: Tensor, wanted: Tensor) -> Tensor | None:
    """Return the index that brings tokens from one order into another, or None where nothing moves."""
    # argsort inverts the permutation: it gives the place in `order` of each token of the map.
    return None if torch.equal(order, wanted) else torch.argsort(order)[wanted]


def _reordered(tokens: Tensor, gather: Tensor | None) -> Tensor:
    return tokens if gather is None else tokens.index_select(1, gather)


class WindowedBlock(nn.Module):
    """Run a `SwinBlock` on tokens in the window order of its own attention."""

    def __init__(self, block: SwinBlock, side: int) -> None:
        """Take over the block's weights for square maps of `side` tokens."""
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attention = StaticAttention(block.attention, side)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, side^2, C) to the same shape."""
        tokens = tokens + self.attention(self.norm1(tokens))
        # The gate inside the MLP takes its mean over axes 1 and 2 of a (B, H, W, C) map, so one axis is added for it.
        mixed: Tensor = self.mlp(self.norm2(tokens)[:, None])
        return tokens + mixed[:, 0]


class StaticAttention(nn.Module):
    """Attend within windows, and add the mask only in those windows that the shift wraps."""

    def __init__(self, attention: WindowAttention, side: int) -> None:
        """Take over the attention's weights for square maps of `side` tokens."""
        super().__init__()
        self.heads, self.window_size = attention.num_heads, attention.window_size
        # A map of one window is not shifted, as in training.
        shift = attention.shift_size if side > attention.window_size else 0
        self.groups: list[WindowGroup] = window_groups(side, self.window_size, shift)
        for index, group in enumerate(self.groups):
            # The file holds region numbers and not the mask that is made of them: at 512 px 8 KB in place of 4 MB.
            self.register_buffer(f"regions_{index}", group.regions)
        self.qkv, self.proj = scaled_query(attention.qkv, attention.scale), attention.proj
        self.bias_table = attention.bias_table

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, side^2, C), in the order of `token_order(self.groups)`, to the same shape."""
        bias = relative_bias(self.bias_table, self.window_size)
        batch, _, channels = tokens.shape
        qkv = self.qkv(tokens).view(batch, -1, self.window_size**2, 3 * channels)  # [B, windows, w^2, 3C]
        start, outputs = 0, []
        for index, group in enumerate(self.groups):
            together = qkv[:, start : start + len(group.windows)]
            masked = bias
            if group.regions is not None:
                masked = bias + region_mask(self.get_buffer(f"regions_{index}"), bias.dtype)
            # At 512 px the scores of all windows of the first stage would take 512 MB at once.
            parts = together.split(max(1, SCORES_AT_ONCE // self.window_size**4), dim=1)
            outputs += [self._attend(part, masked) for part in parts]
            start += len(group.windows)
        out: Tensor = self.proj(torch.cat(outputs, dim=1).flatten(1, 2))
        return out

    def _attend(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """Map (B, windows, w^2, 3C) to (B, windows, w^2, C)."""
        windows, tokens = qkv.shape[1:3]
        heads = qkv.reshape(-1, tokens, 3, self.heads, qkv.shape[3] // (3 * self.heads))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-1, -2) + bias).softmax(-1)  # [B * windows, heads, w^2, w^2]
        # With as many heads as tokens, OpenVINO 2026.4 leaves out the transpose below when the batch is static
        # (tests/deploy/engines/openvino_equal_axes.py). It does not recognise attention without an axis for the heads.
        if self.heads == tokens:
            mixed = (weights.flatten(0, 1) @ value.flatten(0, 1)).view(query.shape)
        else:
            mixed = weights @ value  # [B * windows, heads, w^2, D]
        out: Tensor = mixed.transpose(1, 2).reshape(-1, windows, tokens, qkv.shape[3] // 3)
        return out


def scaled_query(qkv: nn.Linear, scale: float) -> nn.Linear:
    """Return a copy of the projection whose query, the first third of its rows, is multiplied by `scale`.

    Proof: s (W x + b) = (s W) x + s b.
    """
    factor = torch.ones(3, qkv.in_features, dtype=qkv.weight.dtype)
    factor[0] = scale
    scaled = deepcopy(qkv)
    scaled.weight = nn.Parameter(qkv.weight * factor.reshape(-1, 1), requires_grad=False)
    scaled.bias = nn.Parameter(qkv.bias * factor.reshape(-1), requires_grad=False)
    return scaled


@dataclass(frozen=True)
class WindowGroup:
    """Hold the windows of a map that share one mask.

    windows: (count, w^2) token indices of each window, row by row of the map.
    regions: (w^2,) number of the region that each place of these windows lies in, or None where all lie in one.
    """

    windows: Tensor
    regions: Tensor | None


def window_groups(side: int, window: int, shift: int) -> list[WindowGroup]:
    """Sort the windows of a `side` x `side` map, shifted by `shift`, into groups that share a mask.

    Proof that four groups (inner, right, bottom, corner) are enough: the cyclic shift brings tokens from beyond the
    map's edge only into the last column and the last row of windows, and there into the same places of each window.
    """
    position = torch.arange(side)
    token = (((position + shift) % side)[:, None] * side) + (position + shift) % side  # at each place after the shift
    wrapped = (position + shift >= side).long()
    region = 2 * wrapped[:, None] + wrapped
    tokens, regions = (_partition(values, window) for values in (token, region))  # [rows, columns, w^2]
    groups: list[WindowGroup] = []
    # Without a shift nothing wraps, and all windows are one group.
    for rows in (slice(0, -1), slice(-1, None)) if shift else (slice(None),):
        for columns in (slice(0, -1), slice(-1, None)) if shift else (slice(None),):
            places = regions[rows, columns].flatten(0, 1)[0]
            wraps = bool((places != places[0]).any())
            groups.append(WindowGroup(tokens[rows, columns].flatten(0, 1), places if wraps else None))
    return groups


def token_order(groups: list[WindowGroup]) -> Tensor:
    """List the token indices of a map, (side^2,), in the order of the groups' windows."""
    return torch.cat([group.windows.flatten() for group in groups])


def _partition(values: Tensor, window: int) -> Tensor:
    """Cut (side, side) values into windows (rows, columns, w^2)."""
    count = values.shape[0] // window
    return values.view(count, window, count, window).transpose(1, 2).flatten(2)
