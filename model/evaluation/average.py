"""Average networks: what an ensemble, or a network on an image and its mirror image, would give."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.calibration import CLOSEST
from model.checkpoint import Checkpoint, CheckpointError
from model.network import DecodedNetwork, Prediction


def average_of(checkpoints: Sequence[Checkpoint], *, mirror: bool) -> nn.Module:
    """Build the network of one checkpoint, or the average of several.

    Raises CheckpointError where they have not the same classes, labels and preprocessing.
    """
    first = checkpoints[0].info
    for other in checkpoints[1:]:
        for field in ("seg_classes", "labels", "preprocessing"):
            ours, theirs = getattr(first, field), getattr(other.info, field)
            if ours != theirs:
                raise CheckpointError(f"checkpoints of one ensemble need the same {field}, got {ours} and {theirs}")
    networks = [checkpoint.build() for checkpoint in checkpoints]
    return Average(networks, mirror=mirror) if mirror or len(networks) > 1 else networks[0]


class Average(nn.Module):
    """Average the probabilities of several networks, and of each on the mirror image too."""

    def __init__(self, networks: Sequence[nn.Module], *, mirror: bool) -> None:
        """Take networks of the same classes, labels and image size.

        Args:
            networks: map images (B, 3, S, S) to `Prediction`.
            mirror: average over the image and its mirror image, left to right, whose mask is turned back.
        """
        super().__init__()
        self.members = nn.ModuleList(DecodedNetwork(network) for network in networks)
        self.mirror = mirror

    def forward(self, image: Tensor) -> Prediction:
        """Return logits whose probabilities are the means."""
        members = [member(image) for member in self.members]
        seg_probs, class_probs = [one.seg_probs for one in members], [one.class_probs for one in members]
        if self.mirror:
            mirrored = [member(image.flip(-1)) for member in self.members]
            seg_probs += [one.seg_probs.flip(-1) for one in mirrored]
            class_probs += [one.class_probs for one in mirrored]
        masks, labels = torch.stack(seg_probs).mean(dim=0), torch.stack(class_probs).mean(dim=0)
        # A softmax of logarithms gives the probabilities themselves, as a sigmoid of their logits does.
        segmentation = torch.logit(masks, CLOSEST) if masks.shape[1] == 1 else masks.clamp_min(CLOSEST).log()
        return Prediction(segmentation, torch.logit(labels, CLOSEST))
