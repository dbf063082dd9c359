"""Test that generated data are repeatable and plausible, and that no threshold or colour alone gives them away."""

import hashlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipeline import open_source, scan_samples
from data_pipeline.sources.synthetic import VERSIONS, skin
from data_pipeline.sources.synthetic import oct as oct_scans
from data_pipeline.sources.synthetic.oct import IRF, PED, SRF, draw_anatomy, fluid_mask

Sample = tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, ...]]


def generate(kind: ModuleType, count: int, seed: int = 3) -> list[Sample]:
    return [kind.generate(np.random.default_rng((seed, 0, index))) for index in range(count)]


@pytest.fixture(scope="module")
def samples() -> dict[ModuleType, list[Sample]]:
    return {kind: generate(kind, 14) for kind in (skin, oct_scans)}


@pytest.mark.parametrize(("kind", "digest"), [(skin, "dfcdad03c225efd8"), (oct_scans, "1411019c986103b1")])
def test_the_first_image_is_the_same_everywhere(kind: ModuleType, digest: str) -> None:
    """Compare hashes. If a generator changes on purpose, raise `sources.synthetic.VERSIONS` and update them."""
    image, mask, labels = generate(kind, 1, seed=0)[0]
    content = image.tobytes() + mask.tobytes() + bytes(labels)
    assert hashlib.sha256(content).hexdigest()[:16] == digest


@pytest.mark.parametrize("kind", [skin, oct_scans])
def test_shapes_values_and_labels(kind: ModuleType, samples: dict[ModuleType, list[Sample]]) -> None:
    for image, mask, labels in samples[kind]:
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape[:2] == mask.shape
        assert mask.max() < len(kind.SEG_CLASSES)
        if kind is skin:
            assert sum(labels) == 1 and 0.005 < mask.mean() < 0.6
        else:
            assert labels == tuple(int((mask == fluid).any()) for fluid in (1, 2, 3))
    assert len({image.shape for image, _, _ in samples[kind]}) >= 3
    assert np.all([0 < np.mean([s[2][label] for s in samples[kind]]) < 1 for label in range(3)])


def test_fluids_lie_where_anatomy_puts_them(samples: dict[ModuleType, list[Sample]]) -> None:
    """Check each column from the vitreous down: IRF lies above SRF, and SRF above PED."""
    for _, mask, _ in samples[oct_scans]:
        rows = np.arange(len(mask))[:, None]
        lowest = {fluid: np.where(mask == fluid, rows, -1).max(0) for fluid in (1, 2)}
        highest = {fluid: np.where(mask == fluid, rows, len(mask)).min(0) for fluid in (2, 3)}
        assert (lowest[1] < highest[2]).all() and (lowest[1] < highest[3]).all() and (lowest[2] < highest[3]).all()


def test_fluids_are_of_all_sizes() -> None:
    """Check that fluids cover from 0.1 % to 20 % of the image, in one piece or in several."""
    masks = []
    for index in range(90):
        rng, vendor = np.random.default_rng((3, 1, index)), oct_scans.VENDORS[index % 3]
        rows = np.arange(vendor.height, dtype=np.float64)[:, None]
        masks.append(fluid_mask(rng, draw_anatomy(rng, vendor.height, vendor.zoom), rows))
    for fluid in (IRF, SRF, PED):
        shares = np.array([np.mean(mask == fluid) for mask in masks])
        shown = shares[shares > 0]
        assert 0.25 < len(shown) / len(masks) < 0.55
        assert 0.001 <= shown.min() < 0.003 and 0.1 < shown.max() <= 0.2
        pieces = [np.diff((mask == fluid).any(axis=0).astype(int), prepend=0) for mask in masks]
        assert {1, 2} <= {int((edges > 0).sum()) for edges in pieces}


def dice(predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    return float(2 * (predicted & target).sum() / (predicted.sum() + target.sum()))


@pytest.mark.parametrize(("kind", "ceiling"), [(skin, 0.60), (oct_scans, 0.20)])
def test_no_global_threshold_gives_the_mask(
    kind: ModuleType, ceiling: float, samples: dict[ModuleType, list[Sample]]
) -> None:
    """Choose the best threshold of any channel on these images, far below the Dice of a network (0.85 and 0.7)."""
    scores: list[float] = []
    for channel in range(3 if kind is skin else 1):
        images = [image.reshape(*image.shape[:2], -1)[..., channel] for image, _, _ in samples[kind]]
        for level in range(8, 250, 11):
            for fluid in range(1, len(kind.SEG_CLASSES)):
                targets = [mask == fluid for _, mask, _ in samples[kind]]
                pairs = [(image < level, mask) for image, mask in zip(images, targets, strict=True) if mask.any()]
                scores += [float(np.mean([dice(p == side, t) for p, t in pairs])) for side in (True, False)]
    assert max(scores) < ceiling


def colour_histogram(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compute the square roots of the shares of 64 colours, at two bits each for R, G and B."""
    coarse = image.reshape(-1, 3).astype(int) // 64
    counts = np.bincount(coarse @ [16, 4, 1], minlength=64)
    return np.asarray(np.sqrt(counts / counts.sum()))


def fit_softmax(features: NDArray[np.float64], kinds: NDArray[np.int64], steps: int = 400) -> NDArray[np.float64]:
    """Fit a linear classifier by gradient descent."""
    weights = np.zeros((features.shape[1], 3))
    for _ in range(steps):
        scores = np.exp(features @ weights)
        error = scores / scores.sum(1, keepdims=True) - np.eye(3)[kinds]
        weights -= 2.0 * (features.T @ error / len(features) + 1e-3 * weights)
    return weights


@pytest.mark.slow
def test_colour_alone_does_not_give_the_class() -> None:
    """Fit a linear model on colour histograms, which stays near the most frequent class. A network reaches over 0.8."""
    drawn = generate(skin, 300, seed=5)
    features = np.stack([np.append(colour_histogram(image), 1.0) for image, _, _ in drawn])
    kinds = np.array([int(np.argmax(labels)) for _, _, labels in drawn])
    weights = fit_softmax(features[:200], kinds[:200])
    accuracy = np.mean(np.argmax(features[200:] @ weights, 1) == kinds[200:])
    assert accuracy < 0.6, accuracy


@pytest.mark.parametrize("kind", ["skin", "oct"])
def test_the_cache_is_whole_and_reused(kind: str, tmp_path: Path) -> None:
    data = open_source(f"synthetic:{kind}", "validation", samples=3, seed=4, cache=tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == [f"synthetic-{kind}-v{VERSIONS[kind]}-seed4-validation-3"]
    assert not scan_samples(data, cache=tmp_path / "scan")
    before = [r.image.stat().st_mtime_ns for r in data.records]
    again = open_source(f"synthetic:{kind}", "validation", samples=3, seed=4, cache=tmp_path)
    assert again == data and [r.image.stat().st_mtime_ns for r in again.records] == before
    other = open_source(f"synthetic:{kind}", "train", samples=3, seed=4, cache=tmp_path)
    pixels = [np.asarray(Image.open(d.records[0].image)) for d in (data, other)]
    assert pixels[0].shape != pixels[1].shape or not np.array_equal(pixels[0], pixels[1])


UNGUARDED = """
from data_pipeline import open_source
print(len(open_source("synthetic:skin", "train", samples=2).records))
"""


def test_a_program_without_a_main_guard_can_draw(tmp_path: Path) -> None:
    """Run a plain script, which processes that import it again would run again."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["2"]), done.stderr
