"""Compare the calibration with SciPy, torchmetrics and brute force, and see it arrive in what a network answers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from scipy.optimize import minimize_scalar
from scipy.stats import binom
from torchmetrics.functional.classification import (
    binary_calibration_error,
    binary_confusion_matrix,
    multiclass_confusion_matrix,
)

from data_pipeline.spec import Thresholds
from model import MultiTaskResFormer, calibration
from model.bootstrap import BINS, count_once, weighted_ece
from model.calibration import FEWEST, Calibration, choose_thresholds, fit_calibration, fit_temperature, with_temperature
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.evaluation import collect_scores
from model.evaluation.labels import (
    before_calibration,
    calibration_scores,
    chance_error,
    confusion,
    largest_probability,
    threshold_scores,
)
from model.evaluation.reliability import draw_reliability
from model.training import TrainingOptions
from model.training.trainer import Trainer
from tests.helpers.networks import SMALLEST, info_of
from tests.helpers.samples import make_dataset

Drawn = tuple[NDArray[np.float64], NDArray[np.bool_]]
FITTED = Calibration(
    temperatures=(2.0, 0.5, 1.25),
    thresholds=Thresholds(sensitive=(0.1, 0.2, 0.5), specific=(0.7, 0.9, 0.5), rate=0.95),
    images=200,
)


def drawn(count: int, temperature: float, seed: int = 0) -> Drawn:
    """Draw probabilities that are too sure by a temperature, and labels of the true ones."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, count)
    return 1 / (1 + np.exp(-logits)), random.random(count) < 1 / (1 + np.exp(-logits / temperature))


@pytest.mark.parametrize(("count", "temperature"), [(60, 0.7), (60, 1.0), (300, 2.5)])
def test_the_temperature_is_where_scipy_finds_the_most_likely_one(count: int, temperature: float) -> None:
    probs, positive = drawn(count, temperature)
    logits, signs = np.log(probs / (1 - probs)), np.where(positive, 1, -1)

    def loss(inverse: float) -> float:
        # The cross-entropy, and minus the logarithm of the gamma density of shape 3 and rate 2, whose mode is 1.
        return float(np.logaddexp(0, -signs * inverse * logits).sum() + 2 * inverse - 2 * np.log(inverse))

    expected = 1 / minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}).x
    assert fit_temperature(probs, positive) == pytest.approx(expected, rel=1e-4)


def test_the_temperature_of_many_images_is_the_true_one() -> None:
    assert fit_temperature(*drawn(40_000, 2.0)) == pytest.approx(2, rel=0.03)


def test_labels_without_a_fault_or_all_wrong_have_a_finite_temperature() -> None:
    positive = np.arange(60) % 2 > 0
    right = np.where(positive, 1.0, 0.0)
    assert 0.05 < fit_temperature(right, positive) < 1
    assert fit_temperature(np.where(positive, 0.99, 0.01), ~positive) == pytest.approx(20)
    assert np.isfinite(with_temperature(right, 0.05)).all()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=40, max_size=90))
def test_thresholds_are_the_best_of_all(rows: list[tuple[int, bool]]) -> None:
    probs, positive = np.array([value / 30 for value, _ in rows]), np.array([flag for _, flag in rows])
    if positive.all() or not positive.any():
        return
    edges = np.unique([0.0, 1.0, *probs])
    between = [0.0, *((edges[1:] + edges[:-1]) / 2), 1.0]
    sensitivities, specificities = (
        {t: np.mean((probs >= t)[positive]) for t in between},
        {t: np.mean((probs < t)[~positive]) for t in between},
    )
    best = max(t for t in between if sensitivities[t] >= 0.95)
    least = min((t for t in between if specificities[t] >= 0.95), default=1.0)
    sensitive, specific = choose_thresholds(probs, positive)
    assert np.mean((probs >= sensitive)[positive]) >= 0.95
    # A probability of 1 lies at or above every threshold.
    assert np.mean((probs < specific)[~positive]) >= 0.95 or least == 1
    if best <= least:
        assert (sensitive, specific) == pytest.approx((best, least))
    else:
        assert least <= sensitive == specific <= best
        assert abs(sensitive - 0.5) == pytest.approx(
            min(abs(t - 0.5) for t in (0.5, least, best) if least <= t <= best)
        )


def test_each_label_is_fitted_by_itself_and_too_few_images_are_left_as_they_are() -> None:
    (first, has_first), (second, has_second) = drawn(200, 3.0), drawn(200, 0.5, seed=1)
    rare = np.arange(200) < FEWEST - 1
    columns = [(first, has_first), (second, has_second), (first, rare), (first, ~rare)]
    probs, target = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    fitted = fit_calibration(probs, target)
    assert fitted.images == 200
    assert fitted.temperatures[:2] == pytest.approx(
        (fit_temperature(first, has_first), fit_temperature(second, has_second))
    )
    assert fitted.temperatures[2:] == (1, 1)
    assert (fitted.thresholds.sensitive[2:], fitted.thresholds.specific[2:]) == ((0, 0), (1, 1))
    # What has no thresholds is in no mean of what thresholds reach.
    reached = threshold_scores(probs, target, ("a", "b", "c", "d"), count_once(200), fitted)
    assert len(reached) == 4 and all(set(columns) == {"a", "b"} for columns in reached.values())
    # In calibrated probabilities.
    calibrated = with_temperature(first, fitted.temperatures[0])
    assert np.mean(calibrated[has_first] >= fitted.thresholds.sensitive[0]) >= 0.95
    assert np.mean(calibrated[~has_first] < fitted.thresholds.specific[0]) >= 0.95


def test_verdicts_lie_between_the_thresholds() -> None:
    verdicts = [FITTED.thresholds.verdict(0, value) for value in (0.09, 0.1, 0.69, 0.7)]
    assert verdicts == ["unlikely", "uncertain", "uncertain", "likely"]
    assert [FITTED.thresholds.verdict(2, value) for value in (0.49, 0.5)] == ["unlikely", "likely"]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(1, 60))
def test_the_ece_is_torchmetrics_of_the_repeated_images(count: int) -> None:
    random = np.random.default_rng(count)
    probs, positive = random.random(count), random.random(count) < 0.4
    counts = np.maximum(random.integers(0, 3, count), np.arange(count) == 0)
    found = weighted_ece(probs, positive, counts[None].astype(np.float64))[0]
    repeated, labels = (torch.from_numpy(np.repeat(values, counts)) for values in (probs, positive.astype(np.int64)))
    assert found == pytest.approx(float(binary_calibration_error(repeated, labels, n_bins=BINS)), abs=1e-6)


def test_the_ece_by_chance_is_that_of_binomial_counts() -> None:
    count, probability = 40, 0.53
    seen = np.arange(count + 1)
    expected = np.sum(binom.pmf(seen, count, probability) * abs(seen / count - probability))
    errors = chance_error(np.full(count, probability), np.random.default_rng(0))
    assert len(errors) == 1001
    assert errors[0] == errors[1:].mean() == pytest.approx(expected, rel=0.1)


def test_scores_before_calibration_are_those_of_the_first_probabilities() -> None:
    (first, positive), (second, other) = drawn(300, 3.0), drawn(300, 0.5, seed=1)
    probs, target = np.stack([first, second], axis=1), np.stack([positive, other], axis=1)
    fitted, names, once = fit_calibration(probs, target), ("a", "b"), np.ones((1, 300))
    calibrated = with_temperature(probs, np.array(fitted.temperatures))
    before = before_calibration(calibrated, target, names, once, fitted)
    after = calibration_scores(calibrated, target, names, once)
    for index, name in enumerate(names):
        assert before["brier_uncalibrated"][name][0] == pytest.approx(np.mean((probs - target)[:, index] ** 2))
        assert before["ece_uncalibrated"][name] == pytest.approx(
            weighted_ece(probs[:, index], target[:, index], once), abs=1e-5
        )
        assert after["brier"][name][0] < before["brier_uncalibrated"][name][0]
    at = threshold_scores(calibrated, target, names, once, fitted)
    assert at["sensitivity_at_sensitive"]["a"][0] == np.mean(calibrated[positive, 0] >= fitted.thresholds.sensitive[0])
    assert at["specificity_at_specific"]["b"][0] == np.mean(calibrated[~other, 1] < fitted.thresholds.specific[1])


def test_confusion_is_that_of_torchmetrics() -> None:
    random = np.random.default_rng(0)
    probs, kinds = random.random((80, 3)), random.integers(0, 3, 80)
    target = np.eye(3, dtype=bool)[kinds]
    for index, counts in enumerate(confusion(probs, target, ("a", "b", "c")).values()):
        predicted, true = torch.from_numpy(probs[:, index]), torch.from_numpy(target[:, index])
        ((tn, fp), (fn, tp)) = binary_confusion_matrix(predicted, true)
        expected = {"true_positive": tp, "false_positive": fp, "false_negative": fn, "true_negative": tn}
        assert counts == {name: int(value) for name, value in expected.items()}
    expected_table = multiclass_confusion_matrix(torch.from_numpy(probs), torch.from_numpy(kinds), 3)
    assert largest_probability(probs, target) == expected_table.tolist()
    target[0] = True
    assert largest_probability(probs, target) is None


def test_the_plot_shows_both_kinds_of_points(tmp_path: Path) -> None:
    column, positive = drawn(300, 3.0)
    probs, target = np.stack([column, column], axis=1), np.stack([positive, positive], axis=1)
    coloured = {}
    for name, shown in (("both", fit_calibration(probs, target)), ("one", None)):
        draw_reliability(probs, target, ("$x_1$", "b\nc"), shown, tmp_path / "plot.png")
        red, _, blue = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"), np.int64).transpose(2, 0, 1)
        coloured[name] = [int((red - blue > 100).sum()), int((blue - red > 80).sum())]
    assert min(coloured["both"]) > 100
    assert coloured["one"][0] == 0
    assert coloured["one"][1] > 100


def test_a_built_network_divides_its_logits_and_one_without_calibration_does_not(
    network: MultiTaskResFormer, tmp_path: Path
) -> None:
    info = info_of(network.config, ("background", "a", "b", "c"), ("x", "y", "z"), "synthetic:oct")
    image = torch.randn(2, 3, network.config.image_size, network.config.image_size)
    for fitted in (None, FITTED):
        save_checkpoint(
            tmp_path / "net.safetensors", Checkpoint(replace(info, calibration=fitted), network.state_dict())
        )
        loaded = load_checkpoint(tmp_path / "net.safetensors")
        assert loaded.info.calibration == fitted
        trained = replace(loaded, info=info).build()(image)
        answer = loaded.build()(image)
        expected = trained.classification / torch.tensor(fitted.temperatures if fitted else (1, 1, 1))
        torch.testing.assert_close(answer.classification, expected)
        torch.testing.assert_close(answer.segmentation, trained.segmentation)


def test_training_calibrates_the_best_epoch_on_its_validation_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "FEWEST", 3)
    data = make_dataset(tmp_path, 8)
    info = info_of(replace(SMALLEST, seg_channels=1, labels=2), data.seg_classes, data.labels, "folder:x")
    options = TrainingOptions(epochs=1, batch_size=4, learning_rate=1e-2, seed=1)
    Trainer(info, options, train=data, validation=data, output=tmp_path).run(Console(quiet=True))
    best = load_checkpoint(tmp_path / "best.safetensors")
    trained = replace(best, info=replace(best.info, calibration=None)).build()
    expected = fit_calibration(*collect_scores(trained, data, info.preprocessing).labels_collected())
    assert best.info.calibration is not None
    assert best.info.calibration.temperatures != (1, 1)
    # The weights in the file are rounded to fp16.
    assert best.info.calibration.temperatures == pytest.approx(expected.temperatures, rel=0.02)
    assert json.loads(best.info.to_json())["calibration"]["images"] == 8
