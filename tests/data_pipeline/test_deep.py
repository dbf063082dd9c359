"""Files of 16 bits reach the network whole: what lies in their low byte is there in training and in serving alike."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline import Dataset, Preprocessing, Preprocessor, Record, TrainingLoader

SIZE = 48
SPEC = Preprocessing(SIZE, (0.45, 0.45, 0.45), (0.2, 0.2, 0.2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("base", [0, 30000, 65300], ids=["dark", "middle", "bright"])
def test_the_low_byte_is_kept(suffix: str, base: int, tmp_path: Path) -> None:
    levels = base + np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 230  # at 8 bits two levels at most
    image, mask = tmp_path / f"deep{suffix}", tmp_path / "mask.png"
    Image.fromarray(levels.astype(np.uint16)).save(image)
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(mask)
    data = Dataset("deep", (Record(image, mask, (0,)),), ("background", "blob"), ("none",), grey=True)
    served = Preprocessor(SPEC)(image.read_bytes())
    (trained,) = TrainingLoader(data, SPEC, batch_size=1, augment=False, shuffle=False, seed=0)
    assert np.array_equal(served, trained.image[0].numpy())
    restored = (served * 0.2 + 0.45) * 65535
    np.testing.assert_allclose(restored, np.broadcast_to(levels, restored.shape), atol=0.05)
