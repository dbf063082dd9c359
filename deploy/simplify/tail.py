"""The decoder's end with its two linear maps exchanged."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from model.network.decoder import Decoder


class ClassifyFirst(nn.Module):
    """The decoder with the 1x1 convolution before the upsampling.

    Proof: bilinear upsampling U acts on every channel alike and the 1x1 convolution A (without bias) on every pixel
    alike, so A (U x) = U (A x). K channels are upsampled in place of 64, and A runs on a quarter of the pixels.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.blocks, self.classify = decoder.blocks, decoder.classify

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Four enhanced maps, finest first, to logits (B, K, H, W) at the image's size."""
        x = features[3]
        for block, skip in zip(self.blocks, reversed(features[:3]), strict=True):
            x = block(x, skip)
        return F.interpolate(self.classify(x), scale_factor=2, mode="bilinear", align_corners=True)
