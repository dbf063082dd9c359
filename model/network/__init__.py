"""The whole network: one encoder, a segmentation decoder and a classification head."""

from typing import NamedTuple

from torch import Tensor, nn

from model.config import STRIDES, ModelConfig, resolve_config
from model.network.decoder import DFE, Decoder, MultiScaleHead
from model.network.encoder import Encoder


class Prediction(NamedTuple):
    """Logits: `segmentation` (B, K, H, W) and `classification` (B, C)."""

    segmentation: Tensor
    classification: Tensor


class MultiTaskResFormer(nn.Module):
    """Image in, mask logits and label logits out (arXiv 2412.00351)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.dfe = nn.ModuleList(DFE(channels, config.dilations) for channels in config.channels)
        self.decoder = Decoder(config.channels, config.seg_channels)
        self.head = MultiScaleHead([config.channels[level - 1] for level in config.head_levels], config.labels)

    def forward(self, image: Tensor) -> Prediction:
        """Run both tasks.

        Args:
            image: (B, 3, H, W), normalised RGB; H and W multiples of 16 * window_size (the configured image size).

        Returns:
            Logits of both tasks; the mask's at the image's size.

        Raises:
            ValueError: the shape breaks that rule.
        """
        _check_image(image, STRIDES[-1] * self.config.window_size)
        features = self.encoder(image)
        enhanced = [dfe(x) for dfe, x in zip(self.dfe, features, strict=True)]
        levels = [features[level - 1] for level in self.config.head_levels]
        return Prediction(self.decoder(enhanced), self.head(levels))


def _check_image(image: Tensor, unit: int) -> None:
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"image must have shape (B, 3, H, W), got {tuple(image.shape)}")
    height, width = image.shape[2:]
    if height == 0 or width == 0 or height % unit or width % unit:
        raise ValueError(f"H and W must be multiples of 16 * window_size = {unit}, got H={height}, W={width}")


def build_model(config: ModelConfig | str) -> MultiTaskResFormer:
    """A network of that configuration or preset name, with fresh weights.

    He initialisation for convolutions, a normal of 0.02 for linear layers and bias tables.
    Raises ValueError for an unknown preset.
    """
    model = MultiTaskResFormer(resolve_config(config))
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        if name.endswith("attention") and hasattr(module, "bias_table"):
            nn.init.trunc_normal_(module.bias_table, std=0.02)
    return model
