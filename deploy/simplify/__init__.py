"""Exact rewriting before export: the same function with less to compute and less to move.

An engine has one image size, so what depends on it is settled here: which taps can reach the map, which windows the
shift wraps, in which order the tokens lie. Every rewrite gives the trained network's output up to rounding.

| rewrite | where | what it saves |
| --- | --- | --- |
| fold batch norms; fold the 1x1 after a dilated convolution | `model.inference` | 3 C^2 of the DFE's 30 C^2 a pixel |
| drop taps that only meet padding, merge the centres of what is left | `dilated` | the d = 18 branch at 14 x 14 px |
| keep the tokens of a stage in window order, mask only the windows that wrap | `windows` | rolls, partitions, masks |
| fold the query's scale into its projection | `windows` | one product a query element |
| classify before upsampling | `tail` | the bilinear upsampling of all but K channels |
"""

from __future__ import annotations

from copy import deepcopy
from typing import cast

from deploy.simplify.dilated import StaticDFE
from deploy.simplify.tail import ClassifyFirst
from deploy.simplify.windows import WindowedStage
from model import MultiTaskResFormer
from model.config import STRIDES
from model.dfe import DFE
from model.encoder import ResFormerStage
from model.inference import fold_norm, replace_modules
from model.layers import ConvNorm


def simplify(model: MultiTaskResFormer) -> MultiTaskResFormer:
    """A copy in evaluation mode for images of the configured size only; the original is left as it is."""
    network = deepcopy(model).eval().requires_grad_(False)
    for index, stride in enumerate(STRIDES):
        side = network.config.image_size // stride
        network.dfe[index] = StaticDFE(cast(DFE, network.dfe[index]), side)
        stage = cast(ResFormerStage, network.encoder.stages[index])
        stage.register_module("swin", WindowedStage(stage.swin, side))
    network.register_module("decoder", ClassifyFirst(network.decoder))
    replace_modules(network, ConvNorm, fold_norm)
    return network


__all__ = ["simplify"]
