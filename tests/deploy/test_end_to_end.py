"""Follow the path from a checkpoint to an answer: a client gets what PyTorch computes from the same file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from data_pipeline import Preprocessor, open_source
from data_pipeline.overlay import open_upright
from deploy import demo
from deploy.building.plan import contract_of
from deploy.engines import pytorch_runner
from deploy.files import DIRECTORY
from model.checkpoint import load_checkpoint
from tests.deploy.conftest import Built


def test_the_served_answer_is_the_trained_networks(built: Built, tmp_path: Path) -> None:
    file = open_source("synthetic:skin", "test", samples=2, cache=tmp_path).records[1].image
    checkpoint = load_checkpoint(built.checkpoint)
    contract = contract_of(checkpoint.info, 4)
    image = Preprocessor(contract.preprocessing)(file.read_bytes())
    assert checkpoint.info.calibration is not None
    # As it was trained, with the temperatures applied by hand.
    trained = replace(checkpoint, info=replace(checkpoint.info, calibration=None)).build()
    expected = pytorch_runner(trained)(image[None])
    logits = torch.logit(torch.from_numpy(expected.class_probs[0]))
    probabilities = torch.sigmoid(logits / torch.tensor(checkpoint.info.calibration.temperatures)).numpy()
    assert abs(probabilities - expected.class_probs[0]).min() > 0.003
    results = demo.query(built.output / DIRECTORY, file.read_bytes())
    # Within the tolerance of fp32: the server runs an engine, and the reference is the network as it was trained.
    assert set(results) == {"grpc", "http"}
    for result in results.values():
        assert result.seg_classes == ("background", "lesion")
        assert np.mean(result.mask != expected.mask[0]) <= 0.001
        served = [result.class_probabilities[name] for name in contract.labels]
        np.testing.assert_allclose(served, probabilities, atol=0.001)


def test_the_demo_draws_an_overlay_of_the_images_own_size(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    console = Console(record=True, width=120)
    demo.serve_and_draw(built.output, console)
    overlay = open_upright((built.output / demo.OVERLAY).read_bytes())
    (built.output / demo.OVERLAY).unlink()
    source = open_source("synthetic:skin", "test", samples=4).records[-1].image
    assert overlay.size == open_upright(source.read_bytes()).size
    text = console.export_text()
    assert all(word in text for word in ("grpc", "http", "melanoma", "lesion, % of image"))
