"""Compare scores of cases with counts by hand, with torchmetrics and with the challenge organisers' package."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

from data_pipeline import DataError, Dataset, Preprocessing, Record, open_source
from data_pipeline.prepare import prepare
from data_pipeline.records import SourceVolume
from data_pipeline.sources.prepared import open_prepared
from data_pipeline.spec import Thresholds
from model import evaluate
from model.bootstrap import resample, weighted_auc
from model.calibration import Calibration
from model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from model.evaluation import ScoredCase, score_cases, score_masks
from model.evaluation.average import Average, average_of
from model.evaluation.gallery import pick
from model.evaluation.sizes import scores_by_size
from model.evaluation.summary import Estimate, summarise
from model.network import DecodedNetwork, build_model
from tests.helpers.challenges import write_isic2017, write_retouch
from tests.helpers.configurations import undecided
from tests.helpers.names import CLASSES as CLASSES_AS_TEXT
from tests.helpers.names import FILE
from tests.helpers.names import LABELS as LABELS_AS_TEXT
from tests.helpers.networks import SMALLEST, info_of, lived_in
from tests.helpers.samples import make_dataset

CLASSES, LABELS = ("background", "a", "b"), ("x", "y")


def square(value: int, top: int, side: int, shape: tuple[int, int] = (30, 40)) -> NDArray[np.uint8]:
    """Draw a mask with one square of a class."""
    mask = np.zeros(shape, np.uint8)
    mask[top : top + side, 5 : 5 + side] = value
    return mask


def random_cases(seed: int, volumes: int = 0) -> list[ScoredCase]:
    """Score 24 random masks of different sizes, dealt out to volumes in turn."""
    random = np.random.default_rng(seed)
    cases = []
    for number in range(24):
        predicted, target = (random.integers(0, 3, (9 + number, 11)).astype(np.uint8) for _ in range(2))
        target[target == 2] *= number % 4 > 0  # every fourth image does not show b
        volume = SourceVolume(f"v{number % volumes}", 0.5) if volumes else None
        labels = tuple(int(value) for value in random.random(2) < 0.5)
        record = Record(image=Path(f"{number}.png"), mask=Path(), labels=labels, volume=volume)
        # Rounded to tenths, so that probabilities tie.
        cases.append(ScoredCase(record, score_masks(predicted, target, 3), random.random(2).round(1)))
    return cases


def data_of(cases: list[ScoredCase]) -> Dataset:
    """Return the data set that the cases are from."""
    return Dataset(name="random", records=tuple(case.record for case in cases), seg_classes=CLASSES, labels=LABELS)


def test_masks_against_counts_by_hand() -> None:
    scores = score_masks(square(1, 4, 10), square(1, 7, 10), 3)
    assert scores.dice[0] == pytest.approx(2 * 70 / 200)
    assert scores.jaccard[0] == pytest.approx(70 / 130)
    assert scores.hausdorff95[0] == pytest.approx(3)
    assert (scores.overlap * scores.pixels).tolist() == pytest.approx([70, 0])


def test_empty_masks_are_defined() -> None:
    missed = score_masks(square(0, 0, 1), square(1, 7, 10), 3)
    assert (missed.dice[0], missed.jaccard[0], missed.hausdorff95[0]) == (0, 0, 50)  # the diagonal of 30 x 40
    false_alarm = score_masks(square(1, 7, 10), square(0, 0, 1), 3)
    assert np.isnan([false_alarm.dice, false_alarm.jaccard, false_alarm.hausdorff95]).all()
    assert false_alarm.predicted[0] * false_alarm.pixels == pytest.approx(100)


def test_summary_against_torchmetrics_and_means() -> None:
    cases = random_cases(1)
    scores = summarise(cases, data_of(cases))
    target, probs = (
        torch.tensor(np.array(rows))
        for rows in ([case.record.labels for case in cases], [case.probabilities for case in cases])
    )
    for i, label in enumerate(LABELS):
        predicted, true = probs[:, i] > 0.5, target[:, i] > 0
        assert scores[f"auc/{label}"].value == pytest.approx(float(binary_auroc(probs[:, i], target[:, i])), abs=1e-6)
        assert scores[f"sensitivity/{label}"].value == pytest.approx(float((predicted & true).sum() / true.sum()))
        assert scores[f"specificity/{label}"].value == pytest.approx(float((~predicted & ~true).sum() / (~true).sum()))
    shown = [case.masks.dice[1] for number, case in enumerate(cases) if number % 4]
    assert scores["dice/b"].value == pytest.approx(np.mean(shown))
    assert scores["dice"].value == pytest.approx((scores["dice/a"].value + scores["dice/b"].value) / 2)
    assert all(score.low <= score.value <= score.high for score in scores.values())
    assert not [name for name in scores if name.startswith("volume")]


def test_a_calibration_adds_its_scores_and_only_the_ece_may_lie_outside_its_interval() -> None:
    # Moved off the edges of the bins, which torchmetrics rounds to float32.
    cases = [replace(case, probabilities=0.97 * case.probabilities + 0.013) for case in random_cases(4)]
    pairs = Thresholds(sensitive=(0.2, 0.3), specific=(0.6, 0.8), rate=0.95)
    fitted = Calibration(temperatures=(2.0, 0.5), thresholds=pairs, images=24)
    plain, scores = summarise(cases, data_of(cases)), summarise(cases, data_of(cases), calibration=fitted)
    added = {name.split("/")[0] for name in scores.keys() - plain.keys()}
    assert added == {
        *("ece_uncalibrated", "brier_uncalibrated", "pooled_ece_uncalibrated"),
        *("sensitivity_at_sensitive", "specificity_at_sensitive", "sensitivity_at_specific", "specificity_at_specific"),
    }
    probs, target = (
        torch.tensor(np.array(rows))
        for rows in ([case.probabilities for case in cases], [case.record.labels for case in cases])
    )
    expected = binary_calibration_error(probs.flatten(), target.flatten(), n_bins=15)
    assert scores["pooled_ece"].value == pytest.approx(float(expected), abs=1e-6)
    assert scores["brier"].value == pytest.approx(float(((probs - target) ** 2).mean()))
    # A resample repeats images, whose bins then look worse than they are.
    assert all(score.low <= score.value <= score.high for name, score in scores.items() if "ece" not in name)


def test_sizes_against_counts_by_hand() -> None:
    # Squares of 1, 9, 25 and 100 of 1200 pixels: 0.08, 0.75, 2.1 and 8.3 %. One is missed, one found by half.
    pairs = [(0, 1), (3, 3), (5, 5), (10, 10), (1, 3)]
    cases = [
        ScoredCase(
            Record(image=Path(f"{number}.png"), mask=Path(), labels=(0, 0)),
            score_masks(square(1, 7, found), square(1, 7, side), 3),
            np.zeros(2),
        )
        for number, (found, side) in enumerate(pairs)
    ]
    sizes = scores_by_size(cases, resample(range(len(cases))))
    assert [(size.above, size.up_to, size.count, size.missed) for size in sizes] == [
        *((0.0, 0.005, 1, 1), (0.005, 0.02, 2, 0), (0.02, 0.06, 1, 0), (0.06, 0.2, 1, 0)),
    ]
    assert [size.dice[0] for size in sizes] == pytest.approx([0, (1 + 2 / 10) / 2, 1, 1])
    assert sizes[1].dice[1:] == pytest.approx((0.2, 1.0))


@pytest.mark.parametrize("channels", [1, 4])
def test_an_average_is_the_mean_of_the_probabilities(channels: int) -> None:
    config = replace(SMALLEST, seg_channels=channels)
    networks = [lived_in(config), undecided(config)]
    image = torch.randn(2, 3, config.image_size, config.image_size)
    with torch.inference_mode():
        members = [DecodedNetwork(network)(image) for network in networks]
        mirrored = [DecodedNetwork(network)(image.flip(3)) for network in networks]
        plain, mirror = (DecodedNetwork(Average(networks, mirror=flag))(image) for flag in (False, True))
    torch.testing.assert_close(plain.class_probs, (members[0].class_probs + members[1].class_probs) / 2)
    masks = [one.seg_probs for one in members] + [one.seg_probs.flip(3) for one in mirrored]
    torch.testing.assert_close(mirror.seg_probs, sum(masks) / 4, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mirror.class_probs, sum(one.class_probs for one in (*members, *mirrored)) / 4)
    decided = (plain.seg_probs[:, 0] > 0.5).long() if channels == 1 else plain.seg_probs.argmax(1)
    assert torch.equal(plain.mask.long(), decided)


def test_an_ensemble_of_other_labels_is_refused() -> None:
    infos = [
        info_of(SMALLEST, ("background", "a", "b", "c"), labels, "x") for labels in (("x", "y", "z"), ("x", "y", "q"))
    ]
    state = build_model(SMALLEST).state_dict()
    with pytest.raises(
        CheckpointError, match=r"^checkpoints of one ensemble need the same labels, got .*'z'.* and .*'q'"
    ):
        average_of([Checkpoint(info, state) for info in infos], mirror=False)


def test_volumes_are_scored_and_drawn_whole() -> None:
    cases = random_cases(2, volumes=5)
    scores = summarise(cases, data_of(cases))
    differences, dices = [], []
    for volume in range(5):
        parts = [case.masks for case in cases[volume::5]]
        overlap, predicted, target = (
            sum(getattr(part, name)[1] for part in parts) for name in ("overlap", "predicted", "target")
        )
        differences.append(0.5 * abs(predicted - target))
        dices.append(2 * overlap / (predicted + target))
    assert scores["volume_dice/b"].value == pytest.approx(np.mean(dices))
    assert scores["volume_difference_mm3/b"].value == pytest.approx(np.mean(differences))
    groups = [number % 5 for number in range(24)]
    weights = resample(groups)
    assert (weights == weights[:, groups]).all() and weights[1:, :5].sum(axis=1) == pytest.approx(5)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
@settings(max_examples=50, deadline=None)
def test_the_weighted_auc_is_torchmetrics_of_the_repeated_images(rows: list[tuple[int, bool]]) -> None:
    probs, positive = np.array([p / 4 for p, _ in rows]), np.array([flag for _, flag in rows])
    counts = np.random.default_rng(len(rows)).integers(0, 3, len(rows))
    area = weighted_auc(probs, positive, counts[None].astype(np.float64))[0]
    drawn = np.repeat(np.arange(len(rows)), counts)
    if len(set(positive[drawn])) < 2:
        assert np.isnan(area)
    else:
        expected = binary_auroc(torch.from_numpy(probs[drawn]), torch.from_numpy(positive[drawn]).int())
        assert area == pytest.approx(float(expected), abs=1e-6)


def test_isic_scores_are_those_of_the_organisers(tmp_path: Path) -> None:
    pytest.importorskip("isic_challenge_scoring", reason="not installed: one of its parts needs a C compiler")
    from isic_challenge_scoring.classification import ClassificationMetric, ClassificationScore
    from isic_challenge_scoring.segmentation import SegmentationScore

    folder = tmp_path / "data"
    folder.mkdir()
    data = open_source(f"isic2017:{write_isic2017(folder, 12)}", "test", cache=tmp_path)
    random, cases = np.random.default_rng(0), []
    (tmp_path / "predicted").mkdir()
    tables: dict[str, list[str]] = {name: [",".join(("image", *data.labels))] for name in ("target", "predicted")}
    for record in data.records:
        target, name = np.asarray(Image.open(record.mask)), record.image.stem
        predicted = np.roll(target, random.integers(-9, 9, 2), axis=(0, 1))
        # In the organisers' form: masks of 0 and 255, probabilities in a table.
        Image.fromarray(255 * predicted).save(tmp_path / "predicted" / f"{name}.png")
        cases.append(ScoredCase(record, score_masks(predicted, target, 2), random.random(3).round(2)))
        tables["target"].append(",".join([name, *map(str, map(float, record.labels))]))
        tables["predicted"].append(",".join([name, *map(str, cases[-1].probabilities)]))
    for name, lines in tables.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    ours = summarise(cases, data)
    targets = folder / "ISIC-2017_Test_v2_Part1_GroundTruth"
    masks = SegmentationScore.from_dir(targets, tmp_path / "predicted").macro_average
    for name in ("dice", "jaccard"):
        assert ours[f"{name}/lesion"].value == pytest.approx(masks[name], abs=1e-6)
    files = (tmp_path / "target.csv", tmp_path / "predicted.csv")
    theirs = ClassificationScore.from_file(*files, ClassificationMetric.AUC)
    for label in data.labels:
        for name in ("auc", "accuracy", "sensitivity", "specificity"):
            assert ours[f"{name}/{label}"].value == pytest.approx(theirs.per_category.at[label, name], abs=1e-6)


def test_the_gallery_shows_best_median_and_worst() -> None:
    cases = random_cases(3)
    dices = sorted((case.dice for case in cases), reverse=True)
    shown = {kind: [case.dice for case in chosen] for kind, chosen in pick(cases).items()}
    assert shown == {"best": dices[:3], "median": dices[10:13], "worst": dices[-3:]}


@pytest.fixture
def retouch(tmp_path: Path) -> Iterator[list[str]]:
    """Give the arguments to evaluate an untrained network on the test volumes of three vendors."""
    source = f"retouch:{write_retouch(tmp_path / 'data')}"
    labels = ("IRF", "SRF", "PED")
    network = build_model(SMALLEST)
    info = info_of(SMALLEST, ("background", *labels), labels, source)
    save_checkpoint(tmp_path / "weights.safetensors", Checkpoint(info, network.state_dict()))
    yield ["--checkpoint", str(tmp_path / "weights.safetensors"), "--data", source]


def test_the_command_writes_scores_rows_and_a_gallery(
    retouch: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate.main([*retouch, "--output", "out"]) == 0
    report = json.loads(Path("out/metrics.json").read_text(encoding="utf-8"))
    assert sum(sum(counts.values()) for counts in report["confusion"].values()) == 36
    assert report["sizes"][0].keys() == {"above", "up_to", "count", "dice", "missed"}
    assert Image.open("out/reliability.png").width > 500
    assert report["images"] == 12 and {"volume_dice", "hausdorff95", "volume_difference_mm3"} <= set(report["scores"])
    assert Estimate(**report["scores"]["accuracy"]).high <= 1
    rows = list(csv.DictReader(Path("out/cases.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 12 and len({row["volume"] for row in rows}) == 3
    means = np.mean([float(row["probability/IRF"]) > 0.5 for row in rows if row["truth/IRF"] == "1"])
    assert report["scores"]["sensitivity/IRF"]["value"] == pytest.approx(means)
    gallery = Image.open("out/gallery.png")
    side = SMALLEST.image_size
    assert gallery.height == 3 * side and gallery.width % (3 * side) == 0
    # A name in white under each column of the first tile, none of which is that of another.
    names = [np.asarray(gallery.crop((left, side - 13, left + side, side))) for left in (0, side, 2 * side)]
    written = [(name > 230).all(axis=2) for name in names]
    assert all(white.sum() > 9 for white in written), [white.sum() for white in written]
    assert not np.array_equal(written[0], written[1]) and not np.array_equal(written[1], written[2])


def test_the_command_averages_checkpoints_and_mirror_images(
    retouch: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, weights = ["--samples", "4", "--output", str(tmp_path / "out")], retouch[1]
    assert evaluate.main([*retouch[:2], weights, *retouch[2:], "--mirror", *output]) == 0
    assert f"{weights} and {weights} with mirror images on 4 images" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (report["checkpoints"], report["mirror"]) == ([weights, weights], True)


def test_weights_that_overflow_are_named(
    retouch: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load_checkpoint(retouch[1])
    for name, factor in (("head.classify.1.weight", 1e38), ("decoder.classify.weight", 1e38)):
        state = {**checkpoint.state, name: checkpoint.state[name] * factor}
        state["head.norms.0.weight"] = state["head.norms.0.weight"] * 1e30
        state["decoder.blocks.2.conv.norm.weight"] = state["decoder.blocks.2.conv.norm.weight"] * 1e30
        save_checkpoint(tmp_path / "large.safetensors", Checkpoint(checkpoint.info, state))
        command = ["--checkpoint", str(tmp_path / "large.safetensors"), *retouch[2:], "--output", str(tmp_path / "out")]
        assert evaluate.main(command) == 1
        assert "error: the weights overflow: logits are NaN or infinite" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_known_before_the_work(
    retouch: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "load_checkpoint", None)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert evaluate.main([*retouch, "--output", str(place)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and str(tmp_path / "file") in line
    assert (tmp_path / "file").read_text() == ""


def test_scores_are_written_before_they_are_printed(
    retouch: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*arguments: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(evaluate, "score_table", gone)
    assert evaluate.main([*retouch, "--samples", "4", "--output", str(tmp_path)]) == 141
    assert {"metrics.json", "cases.csv", "reliability.png"} <= {path.name for path in tmp_path.iterdir()}


def test_names_pass_through_every_output_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    source = make_dataset(tmp_path / "images", 8)
    # One image of an awkward name, and every label both present and absent.
    odd = source.records[0].image.rename(tmp_path / "images" / FILE)
    records = tuple(
        replace(record, image=odd if index == 0 else record.image, labels=(index % 2,) * len(LABELS_AS_TEXT))
        for index, record in enumerate(source.records)
    )
    dataset = replace(source, records=records, seg_classes=CLASSES_AS_TEXT, labels=LABELS_AS_TEXT)
    prepare(dataset, 64, tmp_path / "prepared" / "test")
    config = replace(SMALLEST, seg_channels=len(CLASSES_AS_TEXT), labels=len(LABELS_AS_TEXT))
    info = info_of(config, CLASSES_AS_TEXT, LABELS_AS_TEXT, "prepared:[red]")
    weights, output = tmp_path / "[bold] :smile:.safetensors", tmp_path / "out"
    save_checkpoint(weights, Checkpoint(info, build_model(config).state_dict()))
    monkeypatch.setenv("COLUMNS", "2000")
    data = ["--data", f"prepared:{tmp_path / 'prepared'}"]
    assert evaluate.main(["--checkpoint", str(weights), *data, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert str(weights) in printed
    scores = json.loads((output / "metrics.json").read_text())["scores"]
    for name in LABELS_AS_TEXT:
        assert f"auc/{name}" in scores
        assert f"auc/{name}" in printed
    rows = list(csv.DictReader((output / "cases.csv").open(newline="")))
    assert set(rows[0]) >= {f"dice/{name}" for name in CLASSES_AS_TEXT[1:]}
    assert rows[0]["image"] == str(odd).replace("\udcff", r"\udcff")


@pytest.mark.parametrize("part", ["image", "mask"])
def test_prepared_data_are_scored_where_their_files_are(part: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    dataset = make_dataset(tmp_path / "source", 4)
    prepare(dataset, 64, tmp_path / "prepared" / "test")
    opened = open_prepared(tmp_path / "prepared", "test", None)
    getattr(dataset.records[2], part).unlink()
    with pytest.raises(DataError, match="1 of the images and masks are missing, "):
        next(score_cases(build_model(SMALLEST), opened, Preprocessing(image_size=64)))
