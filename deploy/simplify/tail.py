"""Rewrite the end of the decoder: the 1x1 convolution runs before the upsampling."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from model.network.decoder import Decoder


class ClassifyFirst(nn.Module):
    """Run the decoder with its 1x1 convolution before the upsampling.

    Proof: bilinear upsampling U does the same to every channel, and the 1x1 convolution A (without bias) does the same
    to every pixel, so A (U x) = U (A x). K channels are upsampled instead of 64, and A runs on a quarter of the pixels.
    """

    def __init__(self, decoder: Decoder) -> None:
        """Take over the decoder's weights."""
        super().__init__()
        self.blocks, self.classify = decoder.blocks, decoder.classify

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map the four enhanced maps, finest first, to logits (B, K, H, W) at the image's size."""
        x = features[3]  # the coarsest map, which has no skip connection
        for block, skip in zip(self.blocks, reversed(features[:3]), strict=True):
            x = block(x, skip)
        return F.interpolate(self.classify(x), scale_factor=2, mode="bilinear", align_corners=True)
