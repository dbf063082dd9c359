"""Share a small data set and an input specification between the tests."""

import pytest

from data_pipeline import Dataset, Preprocessing
from tests.helpers.samples import make_dataset


@pytest.fixture(scope="session")
def spec() -> Preprocessing:
    return Preprocessing(image_size=48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Write 13 samples, a prime, so that no batch size or shard count divides it."""
    return make_dataset(tmp_path_factory.mktemp("samples"), 13)
