"""Save the gradients of a joint batch, then run the training command: test_processes starts this with `torchrun`."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from data_pipeline import Batch
from model import PRESETS, build_model, train
from model.training import TrainingOptions
from model.training.learner import Learner, MultiTaskLoss
from model.training.processes import Processes
from tests.helpers.networks import SMALLEST


def joint_batch() -> Batch:
    """Return a batch that two processes can share."""
    draw = torch.Generator().manual_seed(5)
    labels = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]])
    mask = torch.randint(0, 4, (6, 64, 64), generator=draw)
    mask[:3] = 0  # lesions in some of the images only: the loss of the joint batch is no mean of parts
    image = torch.randn(6, 3, 64, 64, generator=draw)
    return Batch(image=image, mask=mask, labels=labels.float(), index=torch.arange(6))


def gradients(processes: Processes) -> dict[str, torch.Tensor]:
    """Compute the gradients of this process's share of the joint batch."""
    torch.manual_seed(2)
    loss = MultiTaskLoss(SMALLEST.seg_channels, torch.tensor([0.5, 1.0, 2.0]), learned=True)
    options = TrainingOptions(epochs=1, batch_size=6, learning_rate=1e-3, seed=2)
    learner = Learner(build_model(SMALLEST), loss, options, processes)
    # On CPUs each process normalises by its own share: only with the statistics held are the gradients to be equal.
    learner.network.eval()
    batch, rows = joint_batch(), slice(processes.rank, None, processes.count)
    share = Batch(image=batch.image[rows], mask=batch.mask[rows], labels=batch.labels[rows], index=batch.index[rows])
    processes.backward(learner._loss(share, with_labels=True))
    named = [*learner.network.named_parameters(), *loss.named_parameters()]
    return {name: p.grad.contiguous() for name, p in named if p.grad is not None}


if __name__ == "__main__":
    output, source = sys.argv[1:]
    processes = Processes.join()
    save_file(gradients(processes), Path(output) / f"gradients{processes.rank}.safetensors")
    PRESETS["tiny"] = SMALLEST
    run = ["--data", source, "--preset", "tiny", "--epochs", "2", "--batch-size", "4", "--output", f"{output}/run"]
    sys.exit(train.main(run))
