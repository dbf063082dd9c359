"""Started by `torchrun` in test_processes: gradients of a joint batch, then a short run of the trainer's command."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from data_pipeline import Batch
from model import build_model, train
from model.training.learner import Learner
from model.training.losses import MultiTaskLoss
from model.training.options import TrainingOptions
from model.training.processes import Processes
from tests.helpers.networks import SMALLEST


def joint_batch() -> Batch:
    draw = torch.Generator().manual_seed(5)
    labels = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]])
    mask = torch.randint(0, 4, (6, 64, 64), generator=draw)
    mask[:3] = 0  # lesions in some of the images only: the loss of the joint batch is no mean of parts
    return Batch(torch.randn(6, 3, 64, 64, generator=draw), mask, labels.float(), torch.arange(6))


def gradients(processes: Processes) -> dict[str, torch.Tensor]:
    """Of this process's share of the joint batch, with the batch norms' statistics held."""
    torch.manual_seed(2)
    loss = MultiTaskLoss(SMALLEST.seg_channels, torch.tensor([0.5, 1.0, 2.0]))
    learner = Learner(build_model(SMALLEST), loss, TrainingOptions(1, 6, 1e-3, seed=2), processes)
    learner.network.eval()
    batch, rows = joint_batch(), slice(processes.rank, None, processes.count)
    share = Batch(batch.image[rows], batch.mask[rows], batch.labels[rows], batch.index[rows])
    processes.backward(learner._loss(share))
    return {name: p.grad.contiguous() for name, p in learner.network.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    output, source = sys.argv[1:]
    processes = Processes.join()
    save_file(gradients(processes), Path(output) / f"gradients{processes.rank}.safetensors")
    train.PRESETS["tiny"] = SMALLEST
    run = ["--data", source, "--preset", "tiny", "--epochs", "2", "--batch-size", "4", "--output", f"{output}/run"]
    sys.exit(train.main(run))
