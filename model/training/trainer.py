"""The training loop: epochs of one loader, validation after each, the best and the last state on disk."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from data_pipeline import Dataset, Preprocessing, TrainingLoader
from model.checkpoint import Checkpoint, CheckpointError, CheckpointInfo, save_checkpoint
from model.evaluation import score_network
from model.network import build_model
from model.training.losses import MultiTaskLoss, balanced_weights
from model.training.state import load_state, save_state

BETAS = (0.9, 0.999)
WEIGHT_DECAY = 3e-5
POLYNOMIAL_POWER = 0.9


@dataclass(frozen=True)
class TrainingOptions:
    """What may be chosen; a resumed run must choose the same. learning_rate is the first, it decays to 0."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


class TrainingError(Exception):
    """Training cannot go on; one line that says why."""


class Trainer:
    """Trains one network; `run` leaves `best.safetensors`, `last.safetensors` and `history.csv` in `output`."""

    def __init__(
        self, info: CheckpointInfo, train: Dataset, validation: Dataset, options: TrainingOptions, output: Path
    ) -> None:
        torch.manual_seed(options.seed)
        self.info, self.validation, self.options, self.output = info, validation, options, output
        spec = Preprocessing(info.config.image_size, info.mean, info.std)
        self.loader = TrainingLoader(
            train, spec, batch_size=options.batch_size, augment=True, shuffle=True, seed=options.seed
        )
        # Convolutions on a CPU are faster channels last, and the attention's token layout is then a view.
        self.model = build_model(info.config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = MultiTaskLoss(info.config.seg_channels, balanced_weights([r.labels for r in train.records]))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY
        )
        self.best: dict[str, float] = {}

    def resume(self) -> None:
        """Go on after the last finished epoch in `output`; raises CheckpointError for another run's state."""
        path = self.output / "last.safetensors"
        if not path.is_file():
            raise CheckpointError(f"--resume needs {path}, which does not exist; leave --resume out to start anew")
        place = load_state(path, self.model, self.optimizer)
        if place["options"] != asdict(self.options):
            raise CheckpointError(f"{path} was trained with {place['options']}; give the same options to resume it")
        self.loader.load_state_dict(place["loader"])
        self.best = place["best"]

    def run(self, console: Console) -> dict[str, float]:
        """Train until the last epoch; returns the best epoch's validation scores."""
        with Progress(console=console) as progress:
            while self.loader.epoch < self.options.epochs:
                epoch = self.loader.epoch
                task = progress.add_task(f"epoch {epoch + 1}/{self.options.epochs}", total=len(self.loader))
                losses = []
                for loss in self._epoch(epoch):
                    losses.append(loss)
                    progress.update(task, advance=1, description=f"epoch {epoch + 1}/{self.options.epochs} {loss:.3f}")
                progress.remove_task(task)
                self._finish_epoch(epoch, sum(losses) / len(losses), progress.console)
        return self.best

    def _epoch(self, epoch: int) -> Iterator[float]:
        """One pass over the training data; yields each step's loss."""
        self.model.train()
        steps = len(self.loader)
        for step, batch in enumerate(self.loader):
            done = (epoch * steps + step) / (self.options.epochs * steps)
            for group in self.optimizer.param_groups:
                group["lr"] = self.options.learning_rate * (1 - done) ** POLYNOMIAL_POWER
            image = batch.image.contiguous(memory_format=torch.channels_last)
            loss = self.loss(self.model(image), batch.mask, batch.labels)
            if not torch.isfinite(loss):
                names = [self.loader.dataset.records[int(i)].image.name for i in batch.index]
                raise TrainingError(
                    f"the loss became {loss.item()} on {', '.join(names)}; check them or lower the rate"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            yield loss.item()

    def _finish_epoch(self, epoch: int, loss: float, console: Console) -> None:
        scores = score_network(self.model, self.validation, self.loader.spec)
        console.print(
            f"epoch {epoch + 1}: loss {loss:.4f}, validation Dice {scores['dice']:.4f}, AUC {scores.get('auc', 0):.4f}"
        )
        self._log({"epoch": epoch + 1, "loss": loss, **scores})
        if selection_score(scores) > selection_score(self.best):
            self.best = scores
            training: dict[str, Any] = {**self.info.training, "epoch": epoch + 1, "validation": scores}
            info = replace(self.info, training=training)
            save_checkpoint(self.output / "best.safetensors", Checkpoint(info, self.model.state_dict()))
        place = {"options": asdict(self.options), "loader": self.loader.state_dict(), "best": self.best}
        save_state(self.output / "last.safetensors", self.model, self.optimizer, place)

    def _log(self, row: dict[str, float]) -> None:
        path = self.output / "history.csv"
        is_new = row["epoch"] == 1
        with path.open("w" if is_new else "a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def selection_score(scores: dict[str, float]) -> float:
    """What makes an epoch the best: the mean of pooled Dice and AUC, so that neither task is given up for the other."""
    return (scores.get("pooled_dice", -1.0) + scores.get("auc", 0.0)) / 2
