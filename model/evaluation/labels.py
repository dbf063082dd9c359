"""Score label probabilities: their calibration, what their thresholds reach, and what is mistaken for what."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.bootstrap import RESAMPLES, Array, Groups, in_bins, weighted_ece
from model.calibration import Calibration, with_temperature
from model.metrics import mean_scores, rates

Target = NDArray[np.bool_]


def calibration_scores(probs: Array, target: Target, names: Sequence[str], weights: Array) -> Groups:
    """Return the expected calibration error (ECE) and the Brier score of probabilities (N, C) by label."""
    return {
        "ece": {name: weighted_ece(probs[:, i], target[:, i], weights) for i, name in enumerate(names)},
        "brier": mean_scores((probs - target) ** 2, names, weights),
    }


def before_calibration(
    probs: Array, target: Target, names: Sequence[str], weights: Array, calibration: Calibration
) -> Groups:
    """Return `calibration_scores` without the temperatures, as ece_uncalibrated and brier_uncalibrated."""
    # A second temperature of 1 / T takes the first one back.
    trained = with_temperature(probs, 1 / np.array(calibration.temperatures))
    scores = calibration_scores(trained, target, names, weights)
    return {f"{name}_uncalibrated": values for name, values in scores.items()}


def pooled_errors(
    probs: Array, target: Target, weights: Array, seed: int, calibration: Calibration | None
) -> dict[str, Array]:
    """Return the ECE over the decisions on all labels, with that by chance and that before calibration.

    Its bins hold more images than those of one label, so that less of it is chance.
    """
    labels = probs.shape[1]
    repeated, positive = np.tile(weights, labels), target.T.reshape(-1)
    errors = {"pooled_ece": weighted_ece(probs.T.reshape(-1), positive, repeated)}
    errors["pooled_ece_by_chance"] = chance_error(probs.T.reshape(-1), np.random.default_rng(seed))
    if calibration:
        trained = with_temperature(probs, 1 / np.array(calibration.temperatures))
        errors["pooled_ece_uncalibrated"] = weighted_ece(trained.T.reshape(-1), positive, repeated)
    return errors


def chance_errors(probs: Array, names: Sequence[str], seed: int) -> Groups:
    """Return the ECE that perfectly calibrated probabilities (N, C) would show, as ece_by_chance by label."""
    generator = np.random.default_rng(seed)
    return {"ece_by_chance": {name: chance_error(probs[:, i], generator) for i, name in enumerate(names)}}


def chance_error(probs: Array, generator: np.random.Generator) -> Array:
    """Return the mean ECE (1 + RESAMPLES,) of labels that are drawn from the (N,) probabilities, then each draw's.

    It is above 0, because of few images a bin's share with the label is never quite its mean probability.
    """
    drawn = generator.random((RESAMPLES, len(probs))) < probs
    errors = abs((probs - drawn) @ in_bins(probs)).sum(axis=1) / len(probs)
    return np.append(errors.mean(), errors)


def threshold_scores(
    probs: Array, target: Target, names: Sequence[str], weights: Array, calibration: Calibration
) -> Groups:
    """Return sensitivity and specificity at both thresholds, as sensitivity_at_sensitive and so on, by label.

    The arguments are (N, C) and (R, N). Labels without thresholds of their own are left out.
    """
    fitted = np.flatnonzero(calibration.fitted)
    chosen = [names[index] for index in fitted]
    return {
        f"{rate}_at_{kind}": values
        for kind in ("sensitive", "specific")
        for rate, values in rates(
            probs[:, fitted] >= np.array(getattr(calibration.thresholds, kind))[fitted],
            target[:, fitted],
            chosen,
            weights,
        ).items()
    }


def confusion(probs: Array, target: Target, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count right and wrong decisions at a probability of 0.5 by label, both on images with and without it."""
    predicted = probs > 0.5
    kinds = {
        "true_positive": predicted & target,
        "false_positive": predicted & ~target,
        "false_negative": ~predicted & target,
        "true_negative": ~predicted & ~target,
    }
    return {name: {kind: int(found[:, i].sum()) for kind, found in kinds.items()} for i, name in enumerate(names)}


def largest_probability(probs: Array, target: Target) -> list[list[int]] | None:
    """Count what is taken for what (C, C), by the largest probability: targets in rows, predictions in columns.

    Return None where an image has several labels or none.
    """
    if len(probs) == 0 or probs.shape[1] < 2 or not (target.sum(axis=1) == 1).all():
        return None
    counts = np.zeros((probs.shape[1], probs.shape[1]), np.int64)
    np.add.at(counts, (target.argmax(axis=1), probs.argmax(axis=1)), 1)
    table: list[list[int]] = counts.tolist()
    return table
