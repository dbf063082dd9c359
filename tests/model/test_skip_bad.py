"""Train on a folder with broken files: refused with all of them named, or run on exactly the others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_pipeline import open_source
from model import PRESETS, MultiTaskResFormer, evaluate, train
from tests.helpers.networks import SMALLEST
from tests.helpers.samples import blob, picture

BROKEN = 5
# On processors with AVX-512, PyTorch 2.13 corrupts memory in the backward of a strided 1x1 convolution of 8 channels on
# an odd batch, here the last one. The presets have 16 channels and more.
NETWORK = replace(SMALLEST, channels=(16, 32, 64, 128))


def broken_folder(folder: Path, count: int) -> str:
    """Write a folder source whose training split holds `count` images, 5 of them broken, each in its own way."""
    total = count * 10 // 8  # a folder is split 8 : 1 : 1
    for name, draw in (("images", picture), ("masks", blob)):
        (folder / name).mkdir(parents=True)
        for index in range(total):
            Image.fromarray(draw(40 + index % 7, 50, index)).save(folder / name / f"{index}.png")
    (folder / "labels.csv").write_text("image,odd\n" + "".join(f"{index},{index % 2}\n" for index in range(total)))
    records = open_source(f"folder:{folder}", "train", cache=folder / "cache").records
    images = [record.image for record in records[:: len(records) // BROKEN]][:BROKEN]
    whole = images[0].read_bytes()
    for image, content in zip(images, (b"", b"no image", whole[:20], whole[:700], whole[:-300]), strict=True):
        image.write_bytes(content)
    return f"folder:{folder}"


def train_both_ways(
    folder: Path, count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the command without and with `--skip-bad`, and count the images that the network is trained on."""
    monkeypatch.chdir(folder)
    monkeypatch.setitem(PRESETS, "tiny", NETWORK)
    source = broken_folder(folder / "data", count)
    command = ["--data", source, "--preset", "tiny", "--output", "out", "--epochs", "1"]
    assert train.main(command) == 1
    message = capsys.readouterr().err.splitlines()
    assert message[0].startswith(f"error: {BROKEN} of {count} samples cannot be used (--skip-bad leaves them out)")
    assert len(message) == 1 + BROKEN
    seen = 0
    forward = MultiTaskResFormer.forward

    def counting(network: MultiTaskResFormer, image: torch.Tensor) -> object:
        nonlocal seen
        seen += len(image) if network.training else 0
        return forward(network, image)

    monkeypatch.setattr(MultiTaskResFormer, "forward", counting)
    assert train.main([*command, "--skip-bad"]) == 0
    assert f"left out {BROKEN} of {count} samples (train)" in " ".join(capsys.readouterr().out.split())
    assert seen == count - BROKEN
    assert len(Path("out/history.csv").read_text(encoding="utf-8").splitlines()) == 2


def test_40_images_of_which_5_are_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_both_ways(tmp_path, 40, monkeypatch, capsys)
    held_out = open_source("folder:data", "test").records[0].image
    held_out.write_bytes(held_out.read_bytes()[:400])
    scoring = ["--checkpoint", "out/best.safetensors", "--data", "folder:data", "--output", "scores"]
    assert evaluate.main(scoring) == 1
    assert "1 of 5 samples cannot be used" in capsys.readouterr().err
    assert evaluate.main([*scoring, "--skip-bad"]) == 0
    assert "on 4 images" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_2000_images_of_which_5_are_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_both_ways(tmp_path, 2000, monkeypatch, capsys)
