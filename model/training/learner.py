"""Learn from one batch after another: the multi-task loss, the optimiser and the running average of the weights."""

from collections.abc import Sequence

import numpy as np
import torch
from monai.losses import DiceFocalLoss, DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from data_pipeline import Batch
from model.network import Prediction
from model.training import TrainingOptions
from model.training.processes import Processes

# The first three are the paper's settings.
BETAS = (0.9, 0.999)
WEIGHT_DECAY = 3e-5
POLYNOMIAL_POWER = 0.9
GRADIENT_NORM = 1.0
# Of the learned weights of the losses, relative to the network's rate: at that itself they would still be on their way
# when the rate has decayed.
WEIGHTS_RATE = 10.0
AVERAGE_DECAY = 0.999

Tensors = tuple[Tensor, ...] | list[Tensor]


class MultiTaskLoss(nn.Module):
    """Add the losses of both tasks.

    The mask's loss is Dice on the sigmoid for one channel. For several it is Dice on the softmax and focal (gamma 2) on
    each channel's sigmoid, as MONAI's DiceFocalLoss has it. The labels' loss is a weighted binary cross-entropy.

    log_variances: (2,) of the mask's and the labels' task, where the weights are learned (Kendall et al., arXiv
        1705.07115), else None.
    """

    label_weights: Tensor
    log_variances: nn.Parameter | None

    def __init__(
        self,
        seg_channels: int,
        label_weights: Tensor,
        *,
        segmentation_weight: float = 1.0,
        classification_weight: float = 0.25,
        learned: bool = False,
    ) -> None:
        """Prepare the loss for masks of `seg_channels` channels and labels weighted by (C,) `balanced_weights`.

        Learned weights start from the two that are given.
        """
        super().__init__()
        # Dice over the whole batch: an image without a class then does not count as a total miss.
        self.segmentation: nn.Module = (
            DiceLoss(sigmoid=True, batch=True)
            if seg_channels == 1
            else DiceFocalLoss(softmax=True, to_onehot_y=True, gamma=2.0, batch=True)
        )
        # A buffer moves to the device with the module, and is no parameter to train.
        self.register_buffer("label_weights", label_weights)
        self.task_weights = segmentation_weight, classification_weight
        self.log_variances = nn.Parameter(torch.zeros(2)) if learned else None

    @property
    def label_weight(self) -> float:
        """Return the present weight of the labels' loss where that of the mask is 1."""
        mask, labels = self.task_weights
        if self.log_variances is None:
            return labels / mask
        own = (-self.log_variances.detach()).exp()
        return float(own[1] * labels / (own[0] * mask))

    def forward(self, prediction: Prediction, mask: Tensor, labels: Tensor, *, with_labels: bool = True) -> Tensor:
        """Compute the loss.

        Args:
            prediction: logits of both tasks.
            mask: target class indices (B, H, W), int64.
            labels: target labels (B, C), float.
            with_labels: whether the labels' loss counts.

        Returns:
            A scalar in float32.
        """
        # The logits are bfloat16 under autocast: its 8 bits of precision are too few for sums over the batch's pixels.
        seg: Tensor = self.segmentation(prediction.segmentation.float(), mask.unsqueeze(1))
        logits = prediction.classification.float()
        cls = F.binary_cross_entropy_with_logits(logits, labels, weight=self.label_weights)
        # Weighted by 0 and not left out: several processes expect a gradient of every parameter.
        weights = self.task_weights[0], self.task_weights[1] * with_labels
        if self.log_variances is None:
            return weights[0] * seg + weights[1] * cls
        # A task is worth the less the more uncertain it is. Its own log variance keeps that from growing without end.
        counts = torch.tensor([weight > 0 for weight in weights], device=seg.device)
        scaled = torch.stack([weights[0] * seg, weights[1] * cls]) * (-self.log_variances).exp()
        return (scaled + self.log_variances * counts).sum()


def balanced_weights(labels: Sequence[Sequence[int]]) -> Tensor:
    """Return N / (C n_c) for each of C labels, where n_c of N records carry label c."""
    table = torch.tensor(labels, dtype=torch.float32)
    # A label that no record carries counts as seen once, which keeps its weight finite.
    return len(table) / (table.shape[1] * table.sum(dim=0).clamp(min=1))


class Learner:
    """Train a network step by step.

    network: the network that `step` changes.
    average: its running average over the steps. `averaged` is the network in it, which is validated and kept.
    optimizer: AdamW with the state of its moments.
    """

    def __init__(self, network: nn.Module, loss: MultiTaskLoss, options: TrainingOptions, processes: Processes) -> None:
        self.options, self.processes, self.loss = options, processes, loss.to(processes.device)
        if processes.count > 1 and processes.device.type == "cuda":  # PyTorch has no synchronised one for CPUs
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        # Convolutions on a CPU are faster channels last, and the attention's token layout is then a view.
        self.network = network.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # The buffers too: averaged weights would not fit the batch norms' statistics of the last step.
        self.average = AveragedModel(self.network, multi_avg_fn=self._update_average, use_buffers=True)
        # The learned weights of the losses come last, so that the state of a network's own parameters keeps its places.
        groups = [{"params": list(self.network.parameters()), "scale": 1.0}]
        if learned := list(self.loss.parameters()):
            groups.append({"params": learned, "scale": WEIGHTS_RATE, "weight_decay": 0.0})
            for weight in learned:
                # Every process has its gradient of the joint batch whole, which `Processes.backward` multiplies.
                weight.register_hook(  # type: ignore[no-untyped-call]
                    lambda gradient: gradient / processes.count
                )
        # One kernel for all of it. On a CPU, AdamW would else walk over hundreds of small tensors, many passes each.
        chosen = {"betas": BETAS, "weight_decay": WEIGHT_DECAY, "fused": True}
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, **chosen)  # type: ignore[arg-type]
        self.spread = processes.spread(self.network)

    @property
    def averaged(self) -> nn.Module:
        """Return the network with the running average of the weights of all steps so far."""
        return self.average.module

    def step(self, batch: Batch, number: int, steps: int) -> float:
        """Take step `number` of `steps` and return its loss.

        Where the loss or a gradient is not finite, NaN is returned and the weights stay.
        """
        # A step's randomness (drop-path) depends on nothing but its number, so that a resumed run draws the same.
        seed = np.random.SeedSequence((self.options.seed, number, self.processes.rank)).generate_state(1)[0]
        torch.manual_seed(int(seed))
        # So does its learning rate: a scheduler would be one more state to save.
        for group in self.optimizer.param_groups:
            decayed = self.options.learning_rate * (1 - number / steps) ** POLYNOMIAL_POWER
            group["lr"] = group["scale"] * decayed
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch, with_labels=number >= self.options.label_warmup * steps)
        self.processes.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        # The norm is over all gradients, so that one number tells whether any of them is NaN or infinite.
        if not torch.isfinite(loss + norm):
            return float("nan")
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return loss.item()

    def _loss(self, batch: Batch, *, with_labels: bool) -> Tensor:
        """Compute the loss of the joint batch of all processes."""
        device, joint = self.processes.device, self.processes.joint
        image = batch.image.to(device).contiguous(memory_format=torch.channels_last)
        # bfloat16 has float32's range, so that no gradient scaler is needed. Not every CPU is faster with it.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or self.options.bfloat16):
            prediction = self.spread(image)
        logits = Prediction(joint(prediction.segmentation), joint(prediction.classification))
        mask, labels = joint(batch.mask.to(device)), joint(batch.labels.to(device))
        loss: Tensor = self.loss(logits, mask, labels, with_labels=with_labels)
        return loss

    @torch.no_grad()
    def _update_average(self, averaged: Tensors, current: Tensors, _: Tensor | int) -> None:
        """Update an exponential moving average of tensors of one type."""
        # The argument left out is a copy of this count on the GPU, which the step would have to wait for.
        count = int(self.average.n_averaged)
        # As long as the steps are few it reaches over their last tenth only, or the random first weights would linger.
        decay = min(AVERAGE_DECAY, (1 + count) / (10 + count))
        # One launch for all tensors and not one for each.
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:  # batch norm's count of batches
            torch._foreach_copy_(averaged, current)
