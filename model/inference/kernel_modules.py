"""Hold weights as the kernels load them, for a network that no longer trains."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn
from typing_extensions import Self

from kernels import Impl, dilated_fusion, pack_taps, prepare_bias, window_attention
from model.network.decoder import SpatialAttention
from model.network.layers import to_channels_first, to_channels_last
from model.network.swin import WindowAttention


class Prepared(nn.Module, ABC):
    """Keep the form of the weights that a kernel loads together with the weights it is made from.

    Only the weights are parameters and part of the state dict. The prepared form is made again whenever they are moved,
    cast or loaded, so that it is never older than they are, and only where the kernel will run.
    """

    def __init__(self, impl: Impl) -> None:
        super().__init__()
        self.impl: Impl = impl
        # Loading copies into the parameters in place, which `_apply` does not see.
        self.register_load_state_dict_post_hook(_prepare_again)  # type: ignore[no-untyped-call]

    @abstractmethod
    def prepare(self) -> None:
        """Make the prepared form, or drop it where `uses_kernel` is False."""

    def uses_kernel(self, weight: Tensor) -> bool:
        """Return whether the kernel will run: where it is asked for, or on a GPU if the choice is left open."""
        return self.impl == "triton" or (self.impl == "auto" and weight.is_cuda)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Prepare again after `to`, `half`, `cuda` and the like, which all end here."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.prepare()
        return self


def _prepare_again(module: Prepared, _: object) -> None:
    # No lambda, so that a network can be pickled.
    module.prepare()


class PreparedAttention(Prepared):
    """Run `WindowAttention` with its bias table prepared as rows."""

    def __init__(self, trained: WindowAttention, impl: Impl) -> None:
        super().__init__(impl)
        self.trained = trained
        # A plain dictionary and no buffer: the state dict stays that of the trained weights.
        self.rows: dict[int, Tensor] = {}
        self.prepare()

    def prepare(self) -> None:
        """Make the rows of both shifts that a map can take."""
        trained = self.trained
        # Which of the two a call needs depends on its map (`shift_on`).
        shifts = {0, trained.shift_size} if self.uses_kernel(trained.bias_table) else ()
        self.rows = {
            shift: prepare_bias(
                trained.bias_table.detach(), window_size=trained.window_size, shift_size=shift, scale=trained.scale
            )
            for shift in shifts
        }

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
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
    """Run DFE as one `kernels.dilated_fusion` call and the spatial attention."""

    def __init__(
        self, weight: Tensor, bias: Tensor, dilations: tuple[int, ...], attention: SpatialAttention, impl: Impl
    ) -> None:
        """Hold the branches' weights (branches, C, C, 3, 3) and the sum of their biases (C,)."""
        super().__init__(impl)
        # With the four axes of a convolution's weights, so that `to(memory_format=torch.channels_last)` takes them.
        self.weight = nn.Parameter(weight.flatten(0, 1), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.dilations = dilations
        self.attention = attention
        self.taps: Tensor | None = None
        self.prepare()

    def prepare(self) -> None:
        """Pack the taps of all branches, or drop them where the kernel does not run."""
        self.taps = pack_taps(self._branches().detach(), self.dilations) if self.uses_kernel(self.weight) else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        # The operation ends with the bias and the ReLU.
        fused = dilated_fusion(
            to_channels_last(x), self._branches(), self.bias, dilations=self.dilations, impl=self.impl, taps=self.taps
        )
        out: Tensor = self.attention(to_channels_first(fused))
        return out

    def _branches(self) -> Tensor:
        """Return the weights as (branches, C, C, 3, 3)."""
        return self.weight.view(len(self.dilations), -1, *self.weight.shape[1:])
