"""Train a network: epochs of one loader, validation after each, the best weights and the last state on disk."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from torch import nn

from data_pipeline import Batch, Dataset, TrainingLoader
from data_pipeline.fields import shown
from model.calibration import fit_calibration
from model.checkpoint import Checkpoint, CheckpointError, CheckpointInfo, save_checkpoint
from model.config import ModelConfig
from model.evaluation import collect_scores
from model.network import build_model
from model.training import EARLIER, TrainingError, TrainingOptions
from model.training.interrupt import Interrupt
from model.training.learner import Learner, MultiTaskLoss, balanced_weights
from model.training.processes import Processes
from model.training.run_files import Row, load_state, save_state, write_history

BEST, LAST = "best.safetensors", "last.safetensors"
SAVE_EVERY = 300.0  # seconds: at most this much is lost when the machine goes down


class Trainer:
    """Train one network with validation after every epoch.

    `run` leaves best.safetensors, last.safetensors (to resume), history.csv and curves.png in `output`.

    learner: the network with its optimiser and average.
    losses: of the steps of the running epoch.
    history: one row of loss and scores for each finished epoch.
    best: validation scores of the best epoch so far.
    """

    def __init__(
        self,
        info: CheckpointInfo,
        options: TrainingOptions,
        *,
        train: Dataset,
        validation: Dataset,
        output: Path,
        build: Callable[[ModelConfig], nn.Module] = build_model,
    ) -> None:
        """Set up a run.

        Args:
            info: what the checkpoints say of their weights, with the network's configuration.
            options: how to train.
            train: data to train on.
            validation: data to choose the best epoch by.
            output: folder to write to, which exists.
            build: makes the network of a configuration.

        Raises:
            TrainingError: the processes cannot share the batches.
        """
        self.processes = Processes.join()
        self.info, self.validation, self.options, self.output = info, validation, options, output
        self.images = "; ".join(f"{len(one.records)}, {one.fingerprint()}" for one in (train, validation))
        self.loader = self._open_batches(train)
        # Before the network is built: every process starts from the same weights.
        torch.manual_seed(options.seed)
        loss = MultiTaskLoss(
            info.config.seg_channels,
            balanced_weights([record.labels for record in train.records]),
            segmentation_weight=options.segmentation_weight,
            classification_weight=options.classification_weight,
            learned=options.learned_weights,
        )
        self.learner = Learner(build(info.config), loss, options, self.processes)
        self.losses: list[float] = []
        self.history: list[Row] = []
        self.best: dict[str, float] = {}

    def _open_batches(self, train: Dataset) -> TrainingLoader:
        """Open this process's share of every joint batch."""
        processes, batch_size, count = self.processes, self.options.batch_size, self.processes.count
        if batch_size % count:
            raise TrainingError(f"--batch-size must be a multiple of the {count} processes, got {batch_size}")
        if len(train.records) < count:
            raise TrainingError(f"{count} processes need at least {count} training samples, got {len(train.records)}")
        return TrainingLoader(
            # Equal shares, or one process would wait for a batch of the others that never comes: up to count - 1
            # samples are left out.
            replace(train, records=train.records[: len(train.records) // count * count]),
            self.info.preprocessing,
            batch_size=batch_size // count,
            augment=True,
            augmentation=self.options.augmentation,
            oversample_small=self.options.oversample_small,
            shuffle=True,
            seed=self.options.seed,
            shard=(processes.rank, count),
            device="gpu" if processes.device.type == "cuda" else "cpu",
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with the one it continues."""
        data = {"data": self.info.data, "levels": self.info.preprocessing.white_level, "images": self.images}
        # Each process has its share of an epoch, so that its place in it means another one beside more of them.
        return {**asdict(self.options), **data, "processes": self.processes.count}

    def resume(self) -> None:
        """Continue where `output` was saved last.

        Raises CheckpointError where nothing was saved, or the state is that of another run.
        """
        path = self.output / LAST
        if not path.is_file():
            raise CheckpointError(f"--resume needs {path}, which does not exist; omit --resume to start again")
        place = load_state(path, self.learner)
        # States from before these were compared do not tell of them.
        kept = {**EARLIER, "images": self.images, "processes": self.processes.count, **place["settings"]}
        if changed := differences(kept, self.settings):
            raise CheckpointError(f"{path} was trained with {changed}; give the same options and data to resume it")
        if place["history"] and not (self.output / BEST).is_file():
            raise CheckpointError(f"{self.output / BEST} is missing, which this run had written; start a run anew")
        self.loader.load_state_dict(place["loader"])
        self.losses, self.history, self.best = place["losses"], place["history"], place["best"]

    def run(self, console: Console) -> dict[str, float]:
        """Train until the last epoch and return the best epoch's validation scores.

        Raises KeyboardInterrupt, with the state saved, after the step in which Ctrl-C came.
        """
        # From here on there is something to resume.
        self._save()
        steps = self.options.epochs * len(self.loader)
        # In a file or a pipe the bar would be a line among those of the epochs.
        silent = self.processes.rank > 0 or not console.is_terminal
        with Progress(console=console, disable=silent) as progress, Interrupt() as interrupt:
            task = progress.add_task("training", total=steps)
            # Of an epoch that ended before its validation did.
            if len(self.history) < self.loader.epoch:
                self._finish_epoch(progress.console)
            while self.loader.epoch < self.options.epochs:
                self._epoch(steps, interrupt, progress, task)
                self._finish_epoch(progress.console)
                # Ctrl-C during the last step or the validation: the epoch is saved by now.
                if self.processes.any(interrupt.requested):
                    raise KeyboardInterrupt
        return self.best

    def _epoch(self, steps: int, interrupt: Interrupt, progress: Progress, task: TaskID) -> None:
        """Train on what is left of one pass over the training data."""
        # Steps are numbered over all epochs: the learning rate and each step's seed depend on the number.
        first, saved = self.loader.epoch * len(self.loader) + self.loader.position, time.monotonic()
        for number, batch in enumerate(self.loader, first):
            self.losses.append(self.learner.step(batch, number, steps))
            if not math.isfinite(self.losses[-1]):
                raise TrainingError(f"the loss became NaN on {self._names(batch)}; check them or lower the rate")
            text = f"epoch {number // len(self.loader) + 1}/{self.options.epochs}, loss {self.losses[-1]:.3f}"
            progress.update(task, completed=number + 1, description=text)
            if self.loader.position == 0:  # the epoch's last batch
                self._save()
                return
            stop = self.processes.any(interrupt.requested)
            if stop or time.monotonic() - saved > SAVE_EVERY:
                self._save()
                saved = time.monotonic()
            if stop:
                raise KeyboardInterrupt

    def _names(self, batch: Batch) -> str:
        return ", ".join(self.loader.dataset.records[int(i)].image.name for i in batch.index)

    def _finish_epoch(self, console: Console) -> None:
        """Validate the averaged weights, keep them if they are the best so far, write what is known."""
        epoch, loss = self.loader.epoch, sum(self.losses) / len(self.losses)
        self.losses = []
        # Every process has the same weights: the first one validates and writes, the others go on to the next batch.
        if self.processes.rank > 0:
            return
        predicted = collect_scores(self.learner.averaged, self.validation, self.loader.spec)
        scores = predicted.compute()
        names = {"dice": "dice", "pooled_dice": "pooled dice", "auc": "auc"}
        scored = ", ".join(f"{text} {scores[name]:.4f}" for name, text in names.items() if name in scores)
        chosen = selection_score(scores, self.options)
        tasks = " and ".join(names[name] for name in selection_tasks(self.options))
        learned = {"label_weight": self.learner.loss.label_weight} if self.options.learned_weights else {}
        self.history.append({"epoch": epoch, "loss": loss, **learned, **scores})
        # Of equals the later one, which has learned more.
        if not self.best or chosen >= selection_score(self.best, self.options):
            self.best = scores
            info = replace(
                self.info,
                training={**self.info.training, "epoch": epoch, "validation": scores},
                calibration=fit_calibration(*predicted.labels_collected()),
            )
            save_checkpoint(self.output / BEST, Checkpoint(info, self.learner.averaged.state_dict()))
        write_history(self.history, self.output)
        # After all that, so that a run which dies before it repeats the end of this epoch and writes the rest again.
        self._save()
        # Last, because the reader of a pipe may be gone.
        missing = [names[name] for name in selection_tasks(self.options) if name not in scores]
        known = f"{chosen:.4f}" if not missing else f"{' and '.join(missing)} not defined on the validation images"
        console.print(f"epoch {epoch}: loss {loss:.4f}, validation {scored}; best by {tasks}: {known}")

    def _save(self) -> None:
        if self.processes.rank == 0:
            place = {"settings": self.settings, "loader": self.loader.state_dict(), "losses": self.losses}
            place |= {"history": self.history, "best": self.best}
            save_state(self.output / LAST, self.learner, place)


def differences(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Name every option that is another now, with its value then and now, or return an empty text."""
    names = [name for name in {**kept, **asked} if kept.get(name) != asked.get(name)]
    return ", ".join(f"{name} {shown(kept.get(name))} (now {shown(asked.get(name))})" for name in names)


def selection_tasks(options: TrainingOptions) -> list[str]:
    """Return the names of the scores that choose the best epoch: of the tasks that are trained."""
    tasks = {"pooled_dice": options.segmentation_weight, "auc": options.classification_weight}
    return [name for name, weight in tasks.items() if weight]


def selection_score(scores: dict[str, float], options: TrainingOptions) -> float:
    """Return what makes an epoch the best: pooled Dice, AUC, or the mean of both so that neither task is given up."""
    # Masks without a lesion have no Dice where none is predicted, which is right, and 0 where one is. Whether there is
    # an AUC depends on the targets alone: every epoch has it, or none.
    undefined = {"pooled_dice": 1.0, "auc": 0.0}
    return mean(scores.get(name, undefined[name]) for name in selection_tasks(options))
