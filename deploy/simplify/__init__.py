"""Rewrite the network exactly before export: the same function with less to compute and less to move.

An engine has one image size, so whatever depends on it is decided here: which taps can reach the map, which windows the
shift wraps, in which order the tokens lie. Every rewrite keeps the trained network's output up to rounding, and
`bench/test_rewrites.py` measures what each of them saves in each runtime.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import cast

from deploy.simplify.decoder import ClassifyFirst, StaticDFE
from deploy.simplify.windows import WindowedStage
from model import MultiTaskResFormer
from model.config import STRIDES
from model.inference import fold_norm, replace_modules
from model.network.decoder import DFE
from model.network.encoder import ResFormerStage
from model.network.layers import ConvNorm

__all__ = ["REWRITES", "simplify"]


def fuse_dilated(network: MultiTaskResFormer) -> None:
    """Fold each dilated branch into one convolution, and drop the taps that only meet padding."""
    for index, stride in enumerate(STRIDES):
        network.dfe[index] = StaticDFE(cast(DFE, network.dfe[index]), network.config.image_size // stride)


def order_windows(network: MultiTaskResFormer) -> None:
    """Keep a stage's tokens in window order, mask only windows that the shift wraps, and fold the query's scale."""
    for index, stride in enumerate(STRIDES):
        stage = cast(ResFormerStage, network.encoder.stages[index])
        stage.register_module("swin", WindowedStage(stage.swin, network.config.image_size // stride))


def classify_first(network: MultiTaskResFormer) -> None:
    """Upsample the K class maps instead of all channels of the decoder, where that ends in an upsampling."""
    if network.decoder.finest is None:
        network.register_module("decoder", ClassifyFirst(network.decoder))


def fold_norms(network: MultiTaskResFormer) -> None:
    """Fold every batch norm into the convolution before it."""
    replace_modules(network, ConvNorm, fold_norm)


Rewrite = Callable[[MultiTaskResFormer], None]
# The benchmark applies them one more at a time, in this order. The norms come last: `fuse_dilated` folds its own, and
# needs the branches as they were trained.
REWRITES: tuple[Rewrite, ...] = (fuse_dilated, order_windows, classify_first, fold_norms)


def simplify(model: MultiTaskResFormer, rewrites: Sequence[Rewrite] = REWRITES) -> MultiTaskResFormer:
    """Return a rewritten copy in evaluation mode, for images of the configured size only.

    The original is not changed.
    """
    network = deepcopy(model).eval().requires_grad_(False)
    for rewrite in rewrites:
        rewrite(network)
    return network
