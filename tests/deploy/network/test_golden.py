"""Test golden answers: that they survive their file, notice what matters, and say how near is enough."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline import Preprocessor
from deploy.contract import Contract
from deploy.engines import Runner, cpu_runner
from deploy.network.golden import Golden
from deploy.network.parity import EngineOutput
from deploy.verify import PARITY_TOLERANCE
from deploy.verify.golden import draw, make_golden


def test_the_file_holds_all_of_it(golden: Golden) -> None:
    read = Golden.from_bytes(golden.to_bytes())
    np.testing.assert_array_equal(read.images, golden.images)
    for name in EngineOutput._fields:
        np.testing.assert_array_equal(getattr(read.answers, name), getattr(golden.answers, name))
    assert read.limits == golden.limits
    # Built again, the same is the same version.
    assert read.to_bytes() == golden.to_bytes()


def test_rounding_in_the_file_is_far_below_any_tolerance(golden: Golden, network: Path, contract: Contract) -> None:
    exact = cpu_runner(network, "onnxruntime literal", 1)(golden.normalised(contract.preprocessing))
    assert np.abs(exact.seg_probs - golden.answers.seg_probs).max() < 1e-5
    assert not golden.faults(exact)


def test_both_models_are_given_the_same_images(golden: Golden, contract: Contract) -> None:
    """Compare what `resformer_network` is given with what `resformer` decodes and preprocesses."""
    preprocess = Preprocessor(contract.preprocessing)
    decoded = np.stack([preprocess(file) for file in golden.encoded()])
    np.testing.assert_allclose(golden.normalised(contract.preprocessing), decoded, atol=1e-5)


def test_the_pictures_differ_and_are_the_same_each_time() -> None:
    first, second = draw(64), draw(64)
    np.testing.assert_array_equal(first, second)
    assert len({image.tobytes() for image in first}) == len(first) == 3


@pytest.mark.parametrize("name", EngineOutput._fields)
def test_each_answer_is_compared(golden: Golden, name: str) -> None:
    answers = golden.answers._asdict()
    answers[name] = (1 - answers[name]) if name != "mask" else (answers[name] + 1) % 4
    (fault,) = golden.faults(EngineOutput(**answers))
    assert "differs by" in fault and "more than" in fault


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", "fp32"), ("bf16", "bf16"), ("int8", "bf16")])
def test_limits_are_what_the_verified_engine_differs_and_the_tolerance(
    contract: Contract, network: Path, precision: str, tolerance: str
) -> None:
    reference = cpu_runner(network, "onnxruntime literal", 1)

    def shifted(by: float) -> Runner:
        def run(images: np.ndarray) -> EngineOutput:  # type: ignore[type-arg]
            answers = reference(images)
            return answers._replace(class_probs=(answers.class_probs + by).astype(np.float32))

        return run

    golden = make_golden(contract, reference, shifted(0.03), precision)
    allowed = PARITY_TOLERANCE[tolerance]
    assert golden.limits.classification == pytest.approx(0.03 + allowed.classification, abs=1e-4)
    assert golden.limits.mask == allowed.mask
    images = golden.normalised(contract.preprocessing)
    assert not golden.faults(shifted(0.03)(images))
    assert golden.faults(shifted(0.03 + 1.1 * allowed.classification)(images))
