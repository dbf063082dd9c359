"""Build the whole network: one encoder, dilated feature enhancement, a segmentation decoder, a classification head."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import STRIDES, ModelConfig, resolve_config
from model.network.decoder import DFE, Decoder, MultiScaleHead
from model.network.encoder import Encoder
from model.network.swin import WindowAttention


class Prediction(NamedTuple):
    """Hold the logits of both tasks.

    segmentation: mask logits (B, K, H, W).
    classification: label logits (B, C).
    """

    segmentation: Tensor
    classification: Tensor


class MultiTaskResFormer(nn.Module):
    """Predict a mask and image-level labels from one image (arXiv 2412.00351)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.dfe = nn.ModuleList(DFE(channels, config.dilations) for channels in config.channels)
        self.decoder = Decoder(config.channels, config.seg_channels, full_resolution=config.full_resolution)
        self.head = MultiScaleHead([config.channels[level - 1] for level in config.head_levels], config.labels)

    def forward(self, image: Tensor) -> Prediction:
        """Run both tasks.

        Args:
            image: normalised RGB (B, 3, H, W). H and W are multiples of 16 * window_size (the configured image size).

        Returns:
            Logits of both tasks, those of the mask at the image's size.

        Raises:
            ValueError: the shape breaks that rule.
        """
        # Every stage must be whole windows, and the last stage, at stride 16, has the fewest tokens.
        _check_image(image, STRIDES[-1] * self.config.window_size)
        features = self.encoder(image)
        enhanced = [dfe(x) for dfe, x in zip(self.dfe, features, strict=True)]
        # The head reads the encoder's features before DFE, as the paper does.
        levels = [features[level - 1] for level in self.config.head_levels]
        return Prediction(self.decoder(enhanced, image), self.head(levels))


def _check_image(image: Tensor, unit: int) -> None:
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"image must have shape (B, 3, H, W), got {tuple(image.shape)}")
    height, width = image.shape[2:]
    if height == 0 or width == 0 or height % unit or width % unit:
        raise ValueError(f"H and W must be multiples of 16 * window_size = {unit}, got H={height}, W={width}")


def build_model(config: ModelConfig | str) -> MultiTaskResFormer:
    """Build a network of that configuration or preset name, with the weights of `initialise`.

    Raises ValueError for an unknown preset.
    """
    model = MultiTaskResFormer(resolve_config(config))
    initialise(model)
    return model


def initialise(network: nn.Module) -> None:
    """Give a network or a part of one fresh weights.

    Two-dimensional convolutions get He initialisation, linear layers and bias tables a truncated normal of 0.02, and
    transposed and one-dimensional convolutions keep what PyTorch gave them.
    """
    for module in network.modules():
        # `fan_out` keeps the variance of the gradients, as torchvision initialises its ResNets.
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        if isinstance(module, WindowAttention):
            nn.init.trunc_normal_(module.bias_table, std=0.02)


class Decoded(NamedTuple):
    """Hold what is served for a batch.

    mask: class indices (B, H, W), uint8.
    class_probs: label probabilities (B, C) in [0, 1].
    seg_probs: mask probabilities (B, K, H, W) in [0, 1].
    """

    mask: Tensor
    class_probs: Tensor
    seg_probs: Tensor


def decode(prediction: Prediction) -> Decoded:
    """Turn logits into a mask and probabilities: one mask channel is a sigmoid cut at 0.5, more are a softmax."""
    segmentation, classification = prediction
    # The labels are sigmoids in either case: several may be present at once.
    class_probs = torch.sigmoid(classification)
    # The mask becomes bytes by way of floating point, the only type that TensorRT documents a cast to uint8 from.
    if segmentation.shape[1] == 1:
        # A sigmoid is above 0.5 where its logit is above 0.
        mask = (segmentation[:, 0] > 0).to(segmentation.dtype).to(torch.uint8)
        return Decoded(mask, class_probs, torch.sigmoid(segmentation))
    mask = segmentation.argmax(dim=1).to(segmentation.dtype).to(torch.uint8)
    return Decoded(mask, class_probs, torch.softmax(segmentation, dim=1))


class DecodedNetwork(nn.Module):
    """Append `decode` to the network: what is exported, evaluated and served."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Decoded:
        """Map normalised RGB (B, 3, H, W) to `Decoded`."""
        return decode(self.network(image))
