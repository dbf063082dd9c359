"""Calibrate a checkpoint and write its card, and tell which images it has not seen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_pipeline import Dataset
from data_pipeline.prepare import prepare
from model import card, evaluate
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.evaluation.card import notes_of
from model.origin import is_of_the_training, is_unseen, split_seed
from tests.helpers.networks import SMALLEST, info_of, lived_in
from tests.helpers.samples import make_dataset


def test_a_card_holds_the_scores_and_keeps_its_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("model.calibration.FEWEST", 3)
    (tmp_path / "images").mkdir()
    source = make_dataset(tmp_path / "images", 14)
    for split, records in (("validation", source.records[:8]), ("test", source.records[8:])):
        prepare(replace(source, records=records), 64, tmp_path / "prepared" / split)
    config = replace(SMALLEST, seg_channels=1, labels=2)
    info = replace(info_of(config, source.seg_classes, source.labels, "prepared:prepared"), training={"seed": -5})
    save_checkpoint(Path("mine.safetensors"), Checkpoint(info, lived_in(config).state_dict()))
    Image.new("RGB", (9, 9)).save("curves.png")
    arguments = ["--checkpoint", "mine.safetensors", "--output", "cards/mine"]
    assert card.main(arguments) == 0
    written = sorted(path.name for path in Path("cards").iterdir())
    assert written == ["mine-masks.jpg", "mine-reliability.png", "mine.md", "mine.png", "mine.safetensors"]
    calibrated = load_checkpoint("cards/mine.safetensors").info.calibration
    assert calibrated is not None and calibrated.images == 8
    assert evaluate.main(["--checkpoint", "cards/mine.safetensors", "--data", info.data, "--output", "out"]) == 0
    scores = json.loads(Path("out/metrics.json").read_text(encoding="utf-8"))["scores"]
    text = Path("cards/mine.md").read_text(encoding="utf-8")
    assert f"| {calibrated.temperatures[0]:.2f} |" in text
    for group, title in (("dice", "Dice"), ("ece_uncalibrated", "ECE of each label, as trained"), ("auc", "AUC")):
        members = [scores[name] for name in scores if name.split("/")[0] == group]
        cells = ["{value:.3f} ({low:.3f} to {high:.3f})".format(**member) for member in members]
        assert f"| {title} | {' | '.join(cells)} |" in text
    Path("cards/mine.md").write_text(f"{text}\nIt is weak.\n", encoding="utf-8")
    # In place, and from what is calibrated already.
    assert card.main(["--checkpoint", "cards/mine.safetensors", "--output", "cards/mine"]) == 0
    again = Path("cards/mine.md").read_text(encoding="utf-8")
    assert again.endswith("## Notes\n\nIt is weak.\n")
    assert [line for line in again.splitlines() if "this card by" not in line][:-2] == [
        line for line in text.splitlines() if "this card by" not in line
    ]
    assert load_checkpoint("cards/mine.safetensors").info.calibration == calibrated
    # Curves of another training are not shown as those of these weights.
    Path("curves.png").unlink()
    assert card.main(arguments) == 0
    assert "mine.png" not in Path("cards/mine.md").read_text(encoding="utf-8")
    capsys.readouterr()
    for wrong in (["--checkpoint", "random:tiny"], ["--output", "."]):
        with pytest.raises(SystemExit, match="2"):
            card.main([*arguments, *wrong])
    capsys.readouterr()
    # Before anything is scored.
    monkeypatch.setattr(card, "load_checkpoint", None)
    for content in (b"# Mine\n\nSee ## Notes below.\n", b"\xff\xfe"):
        Path("cards/other.md").write_bytes(content)
        assert card.main([*arguments[:-1], "cards/other"]) == 1
        assert "cards/other.md is there and is no card" in capsys.readouterr().err
        assert Path("cards/other.md").read_bytes() == content
    assert card.main([*arguments[:-1], "mine.safetensors/other"]) == 1
    assert "mine.safetensors" in capsys.readouterr().err


def test_notes_are_what_follows_a_line_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    assert notes_of(path) == ""
    path.write_text("| ## Notes z | 1 |\n\n## Notes\n\nMine.\n\n## Notes\n")
    assert notes_of(path) == "Mine.\n\n## Notes"


@pytest.mark.parametrize(
    ("training", "seed", "split", "of_training", "unseen"),
    [
        ({"source": "folder:a", "split_seed": 3}, 3, "test", True, True),
        ({"source": "folder:a", "split_seed": 3}, 4, "test", True, False),
        ({"source": "folder:a", "split_seed": 3}, 3, "validation", True, False),
        ({"source": "folder:b", "split_seed": 3}, 3, "test", False, False),
        # Of before both were recorded.
        ({"seed": 3}, 3, "test", True, True),
        ({}, 0, "test", True, True),
        # The same folder, written otherwise, and one with more or fewer images.
        ({"source": f"folder:{Path('a').resolve()}", "split_seed": 3}, 3, "test", True, True),
        ({"source": "folder:a", "split_seed": 3, "divided": {"images": "1", "others": "3"}}, 3, "test", True, True),
        ({"source": "folder:a", "split_seed": 3, "divided": {"images": "2"}}, 3, "test", True, False),
        # A source with splits of its own.
        ({"source": "folder:a", "split_seed": None}, None, "test", True, True),
    ],
)
def test_images_are_unseen_only_where_that_is_known(
    training: dict[str, Any], seed: int | None, split: Any, of_training: bool, unseen: bool
) -> None:
    info = replace(info_of(SMALLEST, ("background", *"abc"), tuple("abc"), "folder:a"), training=training)
    classes = {"seg_classes": ("background", "a"), "labels": ("a",)}
    dataset = Dataset(name="folder:a", records=(), split_seed=seed, divided={"images": "1"}, **classes)  # type: ignore[arg-type]
    assert is_of_the_training(info, dataset) == of_training
    assert is_unseen(info, dataset, split) == unseen
    assert split_seed(info) == (training.get("split_seed") or training.get("seed", 0))
