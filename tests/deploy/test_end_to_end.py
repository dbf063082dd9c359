"""Follow the path from a checkpoint to an answer: a client gets what PyTorch computes from the same file."""

from pathlib import Path

import numpy as np
import pytest
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
    expected = pytorch_runner(checkpoint.build())(image[None])
    results = demo.query(built.output / DIRECTORY, file.read_bytes())
    # Within the tolerance of fp32: the server runs an engine, and the reference is the network as it was trained.
    assert set(results) == {"grpc", "http"}
    for result in results.values():
        assert result.seg_classes == ("background", "lesion")
        assert np.mean(result.mask != expected.mask[0]) <= 0.001
        served = [result.class_probabilities[name] for name in contract.labels]
        np.testing.assert_allclose(served, expected.class_probs[0], atol=0.001)


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
