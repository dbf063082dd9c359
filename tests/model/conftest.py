"""Share one small network among all tests of the model."""

import pytest

from model import MultiTaskResFormer
from tests.helpers.networks import SMALLEST, lived_in


@pytest.fixture
def network() -> MultiTaskResFormer:
    return lived_in(SMALLEST)
