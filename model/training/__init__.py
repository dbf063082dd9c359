"""Choose a training run: the options that `model.train` and `model.ablate` share, and what they stand for."""

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace
from typing import Any, get_args

from data_pipeline import SOURCES, DataError, Dataset, Preprocessing
from data_pipeline.command_line import positive, share, white_level
from data_pipeline.graph.augmentation import Strength, choose_strength
from data_pipeline.spec import SIXTEEN_BITS
from model.checkpoint import CheckpointError, CheckpointInfo
from model.config import PRESETS


class TrainingError(Exception):
    """Report that training cannot go on, in one line that says why."""


# What a user can mend, and what therefore ends a command with one line and not with a traceback.
FAILURES = (CheckpointError, DataError, TrainingError, OSError)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Choose how to train. A resumed run must choose the same.

    epochs: passes over the training data.
    batch_size: images of one step, over all processes.
    learning_rate: the first rate, which decays to 0 with the steps (polynomial, power 0.9).
    seed: of the first weights, the order of the images, their augmentation and stochastic depth.
    segmentation_weight: weight of the mask's loss, 1 in the paper. At 0 the task is left out.
    classification_weight: weight of the labels' loss, 0.25 in the paper. At 0 the task is left out.
    learned_weights: whether both weights are learned, from those two on.
    label_warmup: share of the steps, the first ones, in which the labels' loss does not count.
    augmentation: how to augment. "auto" is by what the images show.
    oversample_small: whether images of small lesions or fluids come more often.
    bfloat16: whether a CPU computes in bfloat16, as a GPU always does.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    segmentation_weight: float = 1.0
    classification_weight: float = 0.25
    learned_weights: bool = False
    label_warmup: float = 0.0
    augmentation: Strength = "auto"
    oversample_small: bool = False
    bfloat16: bool = False


# What was chosen by runs from before there was a choice, which can be resumed all the same.
EARLIER = {"learned_weights": False, "label_warmup": 0.0, "augmentation": "basic", "oversample_small": False}
EARLIER |= {"bfloat16": False}


def add_training_options(parser: ArgumentParser, *, learning_rate: float) -> None:
    """Add the options on data and optimisation, with that default of the learning rate."""
    parser.add_argument("--data", required=True, help=SOURCES)
    parser.add_argument(
        "--samples",
        type=positive(int),
        help="number of training images (default: all that the source has)",
    )
    parser.add_argument(
        "--levels",
        type=white_level,
        default=SIXTEEN_BITS,
        help="white level of files of 16 bits: 4095 where they hold 12 bits",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out the samples that cannot be used")
    parser.add_argument(
        "--augmentation",
        choices=get_args(Strength),
        default="auto",
        help="what is changed at random: skin (with hair, rulers and bubbles laid over), oct, basic, paper (flips and "
        "rotations), or auto: skin or oct where the source is known to show them, else basic (default: auto)",
    )
    parser.add_argument(
        "--oversample-small", action="store_true", help="train up to three times as often on small lesions or fluids"
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="compute in bfloat16 on a CPU too: faster with AMX, many times slower without instructions for it",
    )
    parser.add_argument(
        "--batch-size", type=positive(int, most=4096), default=8, help="images of one step (default: 8)"
    )
    parser.add_argument(
        "--learning-rate",
        type=positive(float),
        default=learning_rate,
        help=f"first learning rate, decays to 0 with power 0.9 (default: {learning_rate:g})",
    )
    parser.add_argument(
        "--classification-weight",
        type=positive(float),
        default=0.25,
        help="weight of the labels' loss, where that of the mask is 1 (default: 0.25)",
    )
    parser.add_argument(
        "--learned-weights", action="store_true", help="learn the weights of both losses, from these on"
    )
    parser.add_argument(
        "--label-warmup",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="part of the training, from its start, in which the masks alone are learned (default: 0)",
    )


def training_options(options: Namespace, dataset: Dataset, *, epochs: int, seed: int) -> TrainingOptions:
    """Return the `TrainingOptions` that a command line of `add_training_options` asks for, for a data set."""
    return TrainingOptions(
        epochs=epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=seed,
        classification_weight=options.classification_weight,
        learned_weights=options.learned_weights,
        label_warmup=options.label_warmup,
        # Settled here, so that checkpoints tell how their images were changed.
        augmentation=choose_strength(dataset, options.augmentation),
        oversample_small=options.oversample_small,
        bfloat16=options.bfloat16,
    )


def checkpoint_info(options: Namespace, dataset: Dataset, training: dict[str, Any]) -> CheckpointInfo:
    """Fit the preset of a command line to a data set's classes.

    Args:
        options: has `preset` and the options of `add_training_options`.
        dataset: gives the classes and labels that the network is to predict.
        training: what the checkpoints say of the run, for their reader.
    """
    # A lesion against its background needs one sigmoid, more classes need a softmax that includes the background.
    channels = 1 if len(dataset.seg_classes) == 2 else len(dataset.seg_classes)
    config = replace(PRESETS[options.preset], seg_channels=channels, labels=len(dataset.labels))
    return CheckpointInfo(
        config=config,
        seg_classes=dataset.seg_classes,
        labels=dataset.labels,
        data=options.data,
        preprocessing=Preprocessing(image_size=config.image_size, white_level=options.levels),
        training=training,
    )
