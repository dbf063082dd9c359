"""Test which batches an engine is verified on, and that a fault in one of them is noticed."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from deploy.engines import EngineOutput, Runner, pytorch_runner
from deploy.verify.task_gate import Samples
from deploy.verify.verifier import Verifier, every_size
from tests.helpers.networks import SMALLEST, lived_in
from tests.helpers.smallest import images

MAX_BATCH = 4


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    return Verifier(lived_in(SMALLEST), Samples(name="noise", images=images(5)), MAX_BATCH)


@pytest.mark.parametrize(("count", "max_batch"), [(1, 1), (1, 5), (7, 3), (40, 8)])
def test_every_image_every_size_and_every_place_are_taken(count: int, max_batch: int) -> None:
    batches = list(every_size(count, max_batch))
    assert {len(batch) for batch in batches} == set(range(1, max_batch + 1))
    numbers = np.concatenate(batches)
    np.testing.assert_array_equal(numbers[:count], np.arange(count))
    assert numbers.max() < count


def faulty(size: int, place: int) -> Runner:
    """Return a runner that is right but for one place in batches of one size."""
    right = pytorch_runner(lived_in(SMALLEST))

    def run(batch: NDArray[np.float32]) -> EngineOutput:
        output = right(batch)
        if len(batch) == size:
            output.class_probs[place] += 0.01
        return output

    return run


@pytest.mark.parametrize(("size", "place"), [(1, 0), (2, 1), (3, 0), (4, 3)])
def test_a_fault_in_one_place_of_one_size_is_noticed(size: int, place: int, verifier: Verifier) -> None:
    assert not verifier.verify(faulty(9, 0), "fp32", one_by_one=False).failures
    (failure,) = verifier.verify(faulty(size, place), "fp32", one_by_one=False).failures
    assert failure.startswith("classification differs by 1.00e-02")


def test_an_export_that_is_another_network_is_told_from_an_engine_that_is_wrong(
    verifier: Verifier, exported: Path, tmp_path: Path
) -> None:
    assert not verifier.check_export(exported, threads=2)
    model = onnx.load(exported)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.raw_data = bytes(len(largest.raw_data))
    onnx.save(model, tmp_path / "other.onnx")
    assert "differs by" in verifier.check_export(tmp_path / "other.onnx", threads=2)[0]
