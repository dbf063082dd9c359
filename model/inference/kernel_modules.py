"""Modules that hold their weights as the kernels load them, for a network that no longer trains."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn
from typing_extensions import Self

from kernels import Impl, dilated_fusion, pack_taps, prepare_bias, window_attention
from model.network.decoder import SpatialAttention
from model.network.layers import to_channels_first, to_channels_last
from model.network.swin import WindowAttention


class Prepared(nn.Module, ABC):
    """Keeps what a kernel loads beside the weights it is made of.

    The weights alone are parameters and the state dict; the prepared form is made again whenever they are moved, cast
    or loaded, and only where the kernel will run, so that neither form is ever older than the other.
    """

    def __init__(self, impl: Impl) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            lambda module, _: module.prepare()
        )

    @abstractmethod
    def prepare(self) -> None:
        """Make the prepared form, or drop it where `uses_kernel` is False."""

    def uses_kernel(self, weight: Tensor) -> bool:
        """The one place that decides: the kernel where it is asked for, or on a GPU if the choice is left open."""
        return self.impl == "triton" or (self.impl == "auto" and weight.is_cuda)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `half` and `cuda` end in."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.prepare()
        return self


class PreparedAttention(Prepared):
    """`WindowAttention` with its bias table as rows."""

    def __init__(self, trained: WindowAttention, impl: Impl) -> None:
        super().__init__(impl)
        self.trained = trained
        self.rows: dict[int, Tensor] = {}
        self.prepare()

    def prepare(self) -> None:
        """The rows of both shifts that a map can take."""
        trained = self.trained
        shifts = {0, trained.shift_size} if self.uses_kernel(trained.bias_table) else ()
        self.rows = {
            shift: prepare_bias(
                trained.bias_table.detach(), window_size=trained.window_size, shift_size=shift, scale=trained.scale
            )
            for shift in shifts
        }

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        trained = self.trained
        shift = trained.shift_on(tokens)
        mixed = window_attention(
            trained.qkv(tokens),
            trained.bias_table,
            num_heads=trained.num_heads,
            window_size=trained.window_size,
            shift_size=shift,
            scale=trained.scale,
            impl=self.impl,
            bias_rows=self.rows.get(shift),
        )
        out: Tensor = trained.proj(mixed)
        return out


class FusedDFE(Prepared):
    """DFE as one `kernels.dilated_fusion` call and the spatial attention."""

    def __init__(
        self, weight: Tensor, bias: Tensor, dilations: tuple[int, ...], attention: SpatialAttention, impl: Impl
    ) -> None:
        """weight (branches, C, C, 3, 3), bias (C,)."""
        super().__init__(impl)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.dilations = dilations
        self.attention = attention
        self.taps: Tensor | None = None
        self.prepare()

    def prepare(self) -> None:
        self.taps = pack_taps(self.weight.detach(), self.dilations) if self.uses_kernel(self.weight) else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        fused = dilated_fusion(
            to_channels_last(x), self.weight, self.bias, dilations=self.dilations, impl=self.impl, taps=self.taps
        )
        out: Tensor = self.attention(to_channels_first(fused))
        return out
